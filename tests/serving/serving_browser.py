"""Chromium for the tests of the page, driven by playwright; the tests are skipped where either is missing.

The browser is that of the variable BLANKFILL_CHROMIUM, else one on the PATH. Pages have no network: they reach this
machine only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 20_000
"""Milliseconds after which a test gives up on the page."""
LANGUAGES = {"en": "en-GB", "zh": "zh-CN"}


def chromium_path() -> str | None:
    """The browser's program, or None."""
    return os.environ.get("BLANKFILL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def skip_without_browser() -> pytest.MarkDecorator:
    """The mark of tests that need the browser."""
    lacking = [] if find_spec("playwright") else ["the package playwright"]
    lacking += [] if chromium_path() else ["Chromium (BLANKFILL_CHROMIUM, or on the PATH)"]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {' and '.join(lacking)}")


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser; not for longer than a module, since asyncio.run is not possible beside it."""
    with browser() as started:
        yield started


class Visit:
    """A visit of the page in a context of its own, with nothing kept from others.

    problems: errors of the scripts, and breaches of the page's policy; `close` fails for any.
    """

    def __init__(self, started: Any, url: str, language: str = "en", width: int = 1280, theme: str = "light") -> None:
        self.context = started.new_context(
            viewport={"width": width, "height": 800}, locale=LANGUAGES[language], color_scheme=theme,
            reduced_motion="reduce",
        )  # fmt: skip
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        self.url = url

    def _note(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def go(self, panel: str) -> Any:
        """Open a panel, and return the page."""
        self.page.goto(f"{self.url}/#/{panel}")
        self.page.wait_for_selector(f"#panel-{panel}:not([hidden]) > *")
        return self.page

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def violations(self) -> list[str]:
        """What axe finds, as `rule: element`; the test is skipped without axe."""
        axe = pytest.importorskip("axe_playwright_python", reason="needs the package axe-playwright-python")
        session = self.context.new_cdp_session(self.page)
        session.send("Page.setBypassCSP", {"enabled": True})
        self.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text("utf-8"))
        rules = self.page.evaluate("async () => (await axe.run(document)).violations")
        return [f"{rule['id']}: {node['target']}" for rule in rules for node in rule["nodes"]]

    def close(self) -> None:
        """End the visit. Fails when the page had an error."""
        self.context.close()
        assert not self.problems


@contextmanager
def visit(started: Any, url: str, **options: Any) -> Iterator[Visit]:
    """A visit that is closed at the end, which fails for errors of the page."""
    made = Visit(started, url, **options)
    yield made
    made.close()


SENTENCE = "the old boat sleeps on the sea."
"""A text of words that tiny models know."""


def write(page: Any, text: str) -> None:
    """Write a text into the Fill panel."""
    page.fill("#panel-fill textarea >> nth=0", text)


def word(page: Any, text: str) -> Any:
    """The first word of the Fill panel that begins with a text."""
    return page.locator("#panel-fill .word", has_text=re.compile(rf"^{re.escape(text)}")).first


def filled(page: Any) -> None:
    """Wait until every blank has candidates."""
    page.wait_for_function(
        "() => { const blocks = [...document.querySelectorAll('.blank-block')];"
        " return blocks.length && blocks.every((block) => block.querySelector('.chip'))"
        " && !document.querySelector('.busy, .stale') }"
    )


def requests_of(page: Any, path: str) -> list[dict[str, Any]]:
    """The bodies that the page sends to a path from now on."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda sent: bodies.append(json.loads(sent.post_data)) if sent.url.endswith(path) else None)
    return bodies
