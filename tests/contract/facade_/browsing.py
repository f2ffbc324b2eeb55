"""A real Chromium before the page: what it asked for, what it complained of, and what a person would find in it."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

WIDE: Final = {"width": 1440, "height": 900}
CHECKS: Final = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")
NARROW: Final = {"width": 390, "height": 844}
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
"""As hack/setup-system looks for them."""
# Names are resolved nowhere: what a browser asks for by itself stays in it.
_ARGUMENTS: Final = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-gpu"]


@dataclass
class Visit:
    """A browser's window with a memory of its own."""

    window: BrowserContext
    page: Page
    address: str
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str = "/ui") -> int:
        answer = await self.page.goto(self.address + path)
        assert answer is not None
        return answer.status

    async def sign_in(self, credential: str, namespace: str = "") -> None:
        await self.open("/ui/sign-in")
        await self.page.get_by_label("Token or API key").fill(credential)
        if namespace:
            await self.page.locator("#namespace").fill(namespace)
        await self.page.get_by_role("button", name="Sign in").click()

    async def text(self, selector: str) -> str:
        return await self.page.locator(selector).inner_text()

    def check(self) -> None:
        """It asked nobody else, and its console is empty."""
        assert self.hosts <= {urlsplit(self.address).netloc}
        assert self.complaints == []


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("there is no chromium: run contract tests by `make test-contract`, which installs it")
    # Root has no sandbox; what it opens is ours alone.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*_ARGUMENTS, *root])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, address: str, **options: Any) -> AsyncIterator[Visit]:
    window = await browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    try:
        page = await window.new_page()
        page.set_default_timeout(10_000)
        visit = Visit(window, page, address)

        def asked(request: Request) -> None:
            if not request.url.startswith(("data:", "blob:")):
                visit.hosts.add(urlsplit(request.url).netloc)

        def complained(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visit.complaints.append(message.text)

        page.on("request", asked)
        page.on("console", complained)
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        yield visit
    finally:
        await window.close()


async def look(page: Page) -> list[str]:
    """What a person with a screen reader, a keyboard or weak eyes would stumble over; see page_checks.js."""
    found: list[str] = await page.evaluate(f"(() => {{ {CHECKS} }})()")
    return found
