"""The pages of numbers and labels in a real browser: accessible, no request, phone width, paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import opened_browser, requests, serious
from made_up_kinds import labels, numbers

from fusetune.report.page import render

PAGES = {
    "few numbers": lambda: numbers(rows=60),
    "many numbers": lambda: numbers(rows=900, mean=5e4, deviation=3e4),
    "labels": lambda: labels(count=12, rows=90),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, browser: Any, tmp_path: Path) -> Any:
    path = tmp_path / "report.html"
    path.write_text(render(PAGES[request.param]()), encoding="utf-8")
    requests(browser)  # those of earlier pages
    browser.get(path.as_uri())
    return browser


def width_of(page: Any, width: int) -> int:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    found = int(page.execute_script("return document.documentElement.scrollWidth"))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return found


def test_it_is_accessible_asks_for_nothing_and_fits_phone_and_paper(page: Any) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert [url for url in requests(page) if not url.startswith("data:")] == [page.current_url]
    assert width_of(page, 390) <= 390
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.count(b"/Type /Page\n") == 2
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert width_of(page, 672) <= 672
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    for scheme in ("light", "dark"):
        assert serious(page, scheme) == []
    assert width_of(page, 390) <= 390


def test_drawings_stay_within_their_frames(page: Any) -> None:
    outside = page.execute_script("""
        document.querySelectorAll('details').forEach(part => { part.open = true; });
        return [...document.querySelectorAll('svg')].flatMap(drawing => {
          const frame = drawing.getBoundingClientRect();
          return [...drawing.querySelectorAll('circle, rect, path, text, polyline')].filter(mark => {
            const box = mark.getBoundingClientRect();
            return box.left < frame.left - 4 || box.right > frame.right + 12
              || box.top < frame.top - 4 || box.bottom > frame.bottom + 4;
          }).map(mark => `${drawing.getAttribute('aria-label')}: ${mark.outerHTML.slice(0, 120)}`);
        });
    """)
    assert outside == []
