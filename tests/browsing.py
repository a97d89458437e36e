"""Chromium for tests of pages: opened or the test is skipped, what a page asked for, and what axe-core says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

AXE = "axe_playwright_python"
SERIOUS = ("serious", "critical")


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Open Chromium without a window."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(executable_path=driver))
    try:
        yield found
    finally:
        found.quit()


def requests(browser: Any) -> list[str]:
    """Return the addresses that pages asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def serious(browser: Any, scheme: str) -> list[tuple[str, str, int]]:
    """Return what axe-core calls serious on the page as it is, with all details open."""
    package = find_spec(AXE)  # not imported: it would ask for playwright
    if package is None or package.origin is None:
        pytest.skip("axe-playwright-python is not installed (`make env` does)")
    axe = Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    colours = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
    # Through the protocol: the page's own policy does not let it in.
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    asked = {"expression": "axe.run().then(r => JSON.stringify(r.violations))", "awaitPromise": True}
    found = json.loads(browser.execute_cdp_cmd("Runtime.evaluate", asked)["result"]["value"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    return [(v["id"], v["nodes"][0]["html"][:120], len(v["nodes"])) for v in found if v["impact"] in SERIOUS]
