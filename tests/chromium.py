"""A real browser for tests: Chromium or Chrome as it is installed here, driven by Playwright."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# No sandbox, since containers rarely allow one; no graphics card; and no talk with the browser's maker.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
INSTALLED = {
    "darwin": (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    "win32": (
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ),
}
READY_TIMEOUT = 90_000
"""Milliseconds."""


class BrowserUnavailable(Exception):
    """There is no browser to test with; the message names what is missing."""


def find_browser() -> str:
    """Path of a Chromium: `DYNAMICRAFTER_TEST_BROWSER`, else one on the search path, else in its usual place.

    Raises `BrowserUnavailable` if there is none, or no Playwright to drive it.
    """
    if importlib.util.find_spec("playwright") is None:
        raise BrowserUnavailable(
            "the Python package playwright is not installed (tests/comfyui/requirements.txt)"
        )
    named = os.environ.get("DYNAMICRAFTER_TEST_BROWSER")
    if named:
        if not Path(named).is_file():
            raise BrowserUnavailable(f"DYNAMICRAFTER_TEST_BROWSER names {named}, which is no file")
        return named
    found = [shutil.which(command) for command in COMMANDS]
    found += [path for path in INSTALLED.get(sys.platform, ()) if Path(path).is_file()]
    for path in found:
        if path:
            return path
    raise BrowserUnavailable(f"no browser: none of {', '.join(COMMANDS)} is installed")


@contextmanager
def browser_running() -> "Iterator[Browser]":
    """A headless Chromium while the `with` statement lasts. Raises `BrowserUnavailable`."""
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(CHROMIUM_ARGUMENTS), timeout=READY_TIMEOUT
        )
        try:
            yield browser
        finally:
            browser.close()
