"""The pages in a real browser: no error, no request, every section, the keyboard, contrast, phone width, print.

Needs Chromium with its driver, and the axe-core that axe-playwright-python carries; without them these are skipped.
"""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browsing import opened_browser, requests, serious
from made_up import changed, explanation, mistakes, result
from test_report_page import SECTIONS

from fusetune.evaluate.intervals import Interval
from fusetune.report.explanation import render_explanation
from fusetune.report.page import render
from fusetune.result import GainRow

_LETTER, _A4 = (8.5, 11.0), (8.27, 11.69)  # inches


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    whole = result(7, 200)
    gain = [GainRow("majority", "class frequencies", Interval(0.2, 0.15, 0.25), Interval(1.9, 1.8, 2.0), 1.9)]
    hashes = {"split": "0123456789abcdef" * 4}
    classes = ["class 0", "class 1", *(f"class of number {k}" for k in range(2, 7))]
    recalls = [dataclasses.replace(one, name=classes[k]) for k, one in enumerate(whole.judged.recalls)]
    whole = changed(whole, gain=[*gain, *whole.judged.gain], hashes=hashes, classes=classes, recalls=recalls)
    path.write_text(render(whole), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    requests(browser)  # those of earlier pages
    browser.get(address)
    return browser


def test_it_opens_from_disk_without_error_or_request(page: Any) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = requests(page)
    assert [url for url in asked if not url.startswith("data:")] == [page.current_url]
    shown = page.execute_script(
        "return [...document.querySelectorAll('section')].map(s => [s.id, s.checkVisibility()])"
    )
    assert [name for name, _ in shown] == SECTIONS
    assert [name for name, seen in shown if seen] == ["answer", "card"]
    page.execute_script("document.getElementById('statisticians').open = true")
    shown = page.execute_script("return [...document.querySelectorAll('section')].map(s => s.offsetHeight)")
    assert all(height > 0 for height in shown)


def test_a_link_opens_what_it_leads_to(page: Any) -> None:
    seen = "return document.getElementById('warnings').checkVisibility({contentVisibilityAuto: true})"
    assert not page.execute_script(seen)
    page.execute_script("location.hash = '#warnings'")
    time.sleep(0.2)  # the event comes later
    assert page.execute_script(seen)
    page.execute_script("history.replaceState(null, '', location.pathname)")


def test_a_foreign_script_would_not_run(browser: Any, tmp_path: Path) -> None:
    html = render(result(3)).replace("</body>", "<script>document.title = 'changed'</script></body>")
    path = tmp_path / "changed.html"
    path.write_text(html, encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.title == "region from image + text"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
    browser.back()


def test_tables_sort_and_mistakes_filter(page: Any) -> None:
    order = "return [...document.querySelectorAll('.subsets tbody th')].map(cell => cell.textContent)"
    page.execute_script("document.getElementById('statisticians').open = true")
    before = page.execute_script(order)
    heads = "document.querySelectorAll('.subsets thead button')"
    page.execute_script(f"{heads}[0].click()")
    assert page.execute_script(order) == sorted(before)
    page.execute_script(f"{heads}[0].click()")
    assert page.execute_script(order) == sorted(before, reverse=True)
    assert page.execute_script("return document.querySelector('.subsets thead th').ariaSort") == "descending"
    choose = (
        "const s = document.getElementById('filter-class');"
        "s.value = arguments[0]; s.dispatchEvent(new Event('change'));"
    )
    visible = "return [...document.querySelectorAll('.mistakes > li')].filter(row => row.offsetHeight > 0).length"
    page.execute_script(choose, "class of number 4")
    assert page.execute_script(visible) == 0
    page.execute_script(choose, "class 1")
    assert page.execute_script(visible) == 3
    page.execute_script(choose, "")


def test_without_scripts_everything_is_there(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.html"
    path.write_text(render(result(5)), encoding="utf-8")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert browser.execute_script("return document.querySelectorAll('thead button').length") == 0
    assert browser.execute_script("return document.getElementById('filter').offsetHeight") == 0
    assert browser.execute_script("return document.querySelectorAll('.mistakes > li').length") == 3
    browser.back()


def test_the_keyboard_reaches_links_buttons_and_scrolled_tables(page: Any) -> None:
    reached, total = set(), "return document.querySelectorAll('a, button, select, summary, [tabindex=\"0\"]').length"
    page.execute_script("document.getElementById('statisticians').open = true")
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(page.execute_script(total) + 2):
        page.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab", "windowsVirtualKeyCode": 9})
        page.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", "key": "Tab", "windowsVirtualKeyCode": 9})
        reached.add(page.execute_script("return document.activeElement.tagName"))
        outline = "const e = document.activeElement; return e === document.body || getComputedStyle(e).outlineStyle"
        assert page.execute_script(outline) != "none"
    assert {"A", "BUTTON", "SELECT", "SUMMARY", "DIV"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, scheme: str) -> None:
    assert serious(page, scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_explanation_is_as_accessible_and_loads_nothing(browser: Any, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "why.html"
    path.write_text(render_explanation(explanation()), encoding="utf-8")
    requests(browser)
    browser.get(path.as_uri())
    assert [url for url in requests(browser) if not url.startswith("data:")] == [path.as_uri()]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert serious(browser, scheme) == []


@contextmanager
def seen_as(page: Any, width: int, *, mobile: bool = False) -> Iterator[None]:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_phone_need_not_scroll_sideways(page: Any) -> None:
    with seen_as(page, 390, mobile=True):
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        page.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390


def boxes(page: Any, selector: str) -> list[dict[str, float]]:
    """Return where each element is that is shown."""
    found: list[dict[str, float]] = page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(it => it.getBoundingClientRect().toJSON())", selector
    )
    return [box for box in found if box["width"]]


@pytest.mark.parametrize("width", [390, 700, 1280])
def test_the_first_screen_is_neither_crowded_nor_cut(page: Any, width: int) -> None:
    """Labels of an axis apart, examples apart from what is above them, nothing over the edge."""
    with seen_as(page, width, mobile=width == 390):
        for axis in ("#answer .first .tick", "#answer .recalls .tick"):
            labels = boxes(page, axis)
            assert len(labels) > 1
            assert all(a["right"] + 3 <= b["left"] for a, b in pairwise(labels)), axis
        above, below = boxes(page, "#answer .pictures")[0], boxes(page, "#answer .examples")[0]
        assert above["bottom"] + 8 <= below["top"]
        section = boxes(page, "#answer")[0]
        assert all(box["right"] <= section["right"] + 1 for box in boxes(page, "#answer .recalls table"))
        if width == 1280:  # one screen: the matrix and the classes beside each other, not below
            assert boxes(page, "#answer .recalls")[0]["top"] < boxes(page, "#answer .heat")[0]["bottom"]


def test_it_prints(page: Any) -> None:
    # A4 less its margins, in pixels: a wider page would be cut or shrunk.
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": 672, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    width = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert width <= 672


def test_paper_takes_two_pages(browser: Any, tmp_path: Path) -> None:
    case = dataclasses.replace(mistakes()[0], words=dict.fromkeys(("history", "findings", "plan"), "a word " * 40))
    long = dict.fromkeys(("A usual right answer", "Its least sure answer", "Its surest mistake"), case)
    warnings = ["A warning of some length, with a column, a number of rows and a remedy. " * 3] * 4
    many, named = (result(classes, rows=300, examples=long, warnings=warnings) for classes in (8, 6))
    names = [f"Reproductive and Urinary System, part {k}" for k in range(6)]
    recalls = [dataclasses.replace(one, name=name) for one, name in zip(named.judged.recalls, names, strict=True)]
    page = browser

    def pages(width: float, height: float) -> int:
        paper = {"printBackground": True, "paperWidth": width, "paperHeight": height}
        printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", paper)["data"])
        assert printed.startswith(b"%PDF")
        return printed.count(b"/Type /Page\n")

    for whole in (many, changed(named, classes=names, recalls=recalls)):
        (tmp_path / "long.html").write_text(render(whole), encoding="utf-8")
        page.get((tmp_path / "long.html").as_uri())
        assert [pages(*_LETTER), pages(*_A4)] == [2, 2]  # what a reader needs; the rest where it was opened
    page.execute_script("document.getElementById('statisticians').open = true")
    assert pages(*_A4) > 5
