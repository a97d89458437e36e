"""The page of a server in a real browser: a row by hand, its answer and reasons; phone, keyboard, dark, no stranger.

Needs Chromium with its driver, and the axe-core that axe-playwright-python carries; without them these are skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import opened_browser, requests, serious
from serving import KEY, Made, running

from fusetune.serve.app import create
from fusetune.serve.options import Options


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    with running(create(Options(folder=str(made.folder), name="organs"))) as found:
        yield f"http://{found}/"


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    requests(browser)
    browser.get_log("browser")
    browser.get(address)
    until(lambda: not hidden(browser, "row"))
    return browser


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def hidden(browser: Any, name: str) -> bool:
    return bool(browser.execute_script("return document.getElementById(arguments[0]).hidden", name))


def text(browser: Any, name: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", name))


def click(browser: Any, place: str) -> None:
    """Click without waiting for the page to stop scrolling."""
    browser.execute_script("document.querySelector(arguments[0]).click()", place)


def fill(browser: Any, made: Made, row: int) -> None:
    """Fill the form as a user does."""
    cells = made.cells(row)
    find = browser.find_element
    find("name", "scan").send_keys(str((made.pictures / str(made.rows["scan"].iloc[row])).resolve()))
    for name in ("note", "age"):
        find("name", name).send_keys(str(cells[name]))
    find("name", "genes").send_keys(", ".join(str(cells[f"v_{i}"]) for i in range(4)))
    choose = "const s = document.getElementsByName(arguments[0])[0]; s.value = arguments[1]; return s.value;"
    for name, value in (
        ("site", cells["site"]),
        ("seen_on", cells["seen_on"]),
        ("urgent", str(cells["urgent"]).lower()),
    ):
        assert browser.execute_script(choose, name, value) == value


def test_a_row_by_hand_is_answered_as_the_model_does(page: Any, made: Made, address: str) -> None:
    fill(page, made, 5)
    click(page, "#ask")
    until(lambda: not hidden(page, "answer"))
    line = made.model.predict_table(made.table([5]), sets=0.9, unlike=True).iloc[0]
    assert text(page, "answer-title") == f"{line['prediction']}, {100 * line['probability']:.1f} %"
    said = text(page, "facts")
    assert all(name in said for name in json.loads(line["set"]))
    wide = page.execute_script("return [...document.querySelectorAll('#facts dd')].map(d => d.offsetWidth)")
    assert min(wide) > 200  # words, not a column of letters
    assert "classes of “organ”" in text(page, "about")
    assert ("unlike them" in said) == bool(line["unlike"])
    assert page.execute_script("return document.querySelectorAll('#classes tbody tr').length") == 3
    shown = page.execute_script("return [...document.querySelectorAll('#classes .length')].map(b => b.offsetWidth)")
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > 0
    asked = requests(page)
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_reasons_are_shown_with_pictures_and_words(page: Any, made: Made) -> None:
    fill(page, made, 6)
    click(page, "#why")
    until(lambda: not hidden(page, "reasons"))
    said = text(page, "reasons")
    for words in ("What each input adds", "where it looks", "as the model sees it", "genes", "age = "):
        assert words.lower() in said.lower()
    sizes = page.execute_script("return [...document.querySelectorAll('#parts img')].map(i => i.naturalWidth)")
    assert sizes == [32, 32]
    marked = page.execute_script("return [...document.querySelectorAll('#parts mark')].map(m => m.textContent)")
    assert " ".join(marked) == made.cells(6)["note"]


def test_a_picture_can_be_dropped(page: Any, made: Made) -> None:
    script = """
    const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
    const place = document.querySelector(".drop");
    place.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    return document.getElementsByName("scan")[0].files[0].name;
    """
    import base64

    assert page.execute_script(script, base64.b64encode(made.bytes_of(1)).decode()) == "dropped.png"
    until(lambda: page.execute_script("return document.querySelector('.drop img').naturalWidth") == 32)
    click(page, "#ask")
    until(lambda: not hidden(page, "answer"))
    click(page, "#clear")
    until(lambda: page.execute_script("return document.querySelector('.drop img').hidden"))
    assert hidden(page, "answer")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("age", "old", "“old” is no number"),
        ("genes", "1 2", "has 2 numbers, and the model needs 4"),
        ("note", " ", "Fill in"),
    ],
)
def test_slips_are_said_before_anything_is_sent(page: Any, name: str, value: str, said: str) -> None:
    page.find_element("name", name).send_keys(value)
    click(page, "#ask")
    until(lambda: not hidden(page, "wrong"))
    assert said in text(page, "wrong")
    assert hidden(page, "answer")
    assert not page.execute_script("return document.getElementById('ask').disabled")


def test_what_the_server_refuses_is_said(page: Any, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.find_element("name", "scan").send_keys(str(tmp_path / "no.png"))
    click(page, "#ask")
    until(lambda: not hidden(page, "wrong"))
    assert "10 bytes that are no picture" in text(page, "wrong")


def test_an_unlike_row_is_marked(page: Any, made: Made) -> None:
    fill(page, made, 2)
    genes = page.find_element("name", "genes")
    genes.clear()
    genes.send_keys("40 -40 40 -40")
    click(page, "#ask")
    until(lambda: not hidden(page, "answer"))
    assert "unlike them: genes" in text(page, "facts")
    assert page.execute_script("return document.querySelectorAll('#facts .odd').length") >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, made: Made, scheme: str) -> None:
    assert serious(page, scheme) == []
    fill(page, made, 3)
    click(page, "#why")
    until(lambda: not hidden(page, "reasons"))
    assert serious(page, scheme) == []


def test_a_phone_need_not_scroll_sideways(page: Any, made: Made) -> None:
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        fill(page, made, 3)
        click(page, "#why")
        until(lambda: not hidden(page, "reasons"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        wide = page.execute_script("return [...document.querySelectorAll('#facts dd')].map(d => d.offsetWidth)")
        assert min(wide) > 200
        heights = page.execute_script(
            "return [...document.querySelectorAll('.actions button')].map(b => b.offsetHeight)"
        )
        assert min(heights) >= 40
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_alone_suffices(page: Any) -> None:
    def press(key: str, code: int, letters: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            page.execute_cdp_cmd(
                "Input.dispatchKeyEvent", event | ({"text": letters} if letters and kind == "keyDown" else {})
            )

    reached = []
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(14):
        press("Tab", 9)
        now = page.execute_script("return document.activeElement.name || document.activeElement.id")
        reached.append(now)
        outline = "const e = document.activeElement; return e === document.body || getComputedStyle(e).outlineStyle"
        assert page.execute_script(outline) != "none"
        if now == "note":
            page.execute_cdp_cmd("Input.insertText", {"text": "bile"})
        if now == "ask":
            press("Enter", 13, "\r")
            break
    assert {"scan", "note", "age", "site", "genes", "ask"} <= set(reached)
    until(lambda: not hidden(page, "answer"))
    assert page.execute_script("return document.activeElement.id") == "answer"


def test_the_key_is_asked_for(browser: Any, made: Made) -> None:
    with running(create(Options(folder=str(made.folder), key=KEY))) as found:
        browser.get(f"http://{found}/")
        until(lambda: not hidden(browser, "key-form"))
        assert "heart" not in browser.page_source
        assert hidden(browser, "row")
        browser.find_element("id", "key").send_keys("wrong key")
        click(browser, "#key-form button")
        until(lambda: "wrong" in text(browser, "wrong"))
        browser.find_element("id", "key").clear()
        browser.find_element("id", "key").send_keys(KEY)
        click(browser, "#key-form button")
        until(lambda: not hidden(browser, "row"))
        browser.find_element("name", "note").send_keys("bile")
        click(browser, "#ask")
        until(lambda: not hidden(browser, "answer"))
        browser.get("about:blank")


def test_the_addresses_are_a_page_without_strangers(browser: Any, address: str) -> None:
    requests(browser)
    browser.get(f"{address}docs")
    assert all(url.startswith((address, "data:")) for url in requests(browser))
    assert serious(browser, "dark") == []


def test_hostile_words_stay_words(page: Any) -> None:
    page.find_element("name", "note").send_keys(
        "<img src=x onerror=document.title='changed'> </mark><script>alert(1)</script>"
    )
    click(page, "#why")
    until(lambda: not hidden(page, "reasons"))
    assert page.title == "organs: ask the model"
    assert page.execute_script("return document.querySelectorAll('#parts script, #parts img').length") == 0
