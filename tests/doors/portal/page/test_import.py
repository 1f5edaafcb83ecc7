"""Moving in on the owner's page, in a real Chromium: upload, preview, keys, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.browser.programs import AXE_SCRIPT
from tests.doors.portal.old_databases import K1, OWN, OWNER_KEY, make
from tests.doors.portal.page.test_page import call, portal, sign_in
from tests.page.conftest import browser
from tests.page.test_for_everybody import found
from tests.page.watching import BIDI, HOSTILE, Watched, opened
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

LOOK = "button:has-text('See what would come')"
LOOKED = "text=This would come. Nothing has changed yet."


def enter(watched: Watched, url: str) -> None:
    sign_in(watched, url)
    watched.page.wait_for_selector("main article")
    watched.faults.clear()  # of the login
    watched.show(url, "portal")


def test_the_owner_sees_what_would_come_and_brings_it(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make(tmp_path / "portal.db", "0.9", owner_chats=[{"role": "owner", "content": "of old"}])
    photo = tmp_path / "old.gif"
    photo.write_bytes(b"GIF89a" + b"x" * 20)
    (tmp_path / "text.db").write_text("no database")
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        page = watched.page
        enter(watched, url)
        page.set_input_files("input[name=database]", tmp_path / "text.db")
        page.click(LOOK)
        page.wait_for_selector(".trouble:has-text('no SQLite database')")
        page.set_input_files("input[name=database]", path)
        page.set_input_files("input[name=photos]", photo)
        page.fill("input[name=at]", OWN)
        page.press("input[name=at]", "Enter")
        page.wait_for_selector(LOOKED)
        assert call(url, "GET", "/api/contacts")["total"] == 0
        rows = page.locator("#import ~ div table tbody tr, #import ~ table tbody tr")
        shown = {row.split()[0]: row.split()[-2:] for row in rows.all_inner_texts()}
        assert (shown["contacts"], shown["messages"]) == (["1", "0"], ["1", "0"]), shown
        page.reload()
        page.wait_for_selector(LOOKED)
        page.select_option("select[aria-label*='Use of the key']", "agent")
        page.click("text=Bring it in")
        page.wait_for_selector("text=All of it is in")
        page.reload()
        page.wait_for_selector("text=All of it is in")
        assert watched.faults == []
        assert "bob" in watched.show(url, "contacts")
        assert "of old" in watched.show(url, "chat")
        assert page.locator("nav").count()
        watched.show(url, "photos")
        page.wait_for_selector("figcaption:has-text('old.gif')")
        headers = {"Authorization": f"Bearer {OWNER_KEY}"}
        assert requests.get(url + "/api/contacts", headers=headers, timeout=PATIENCE).status_code == 200
        assert "brought it in" in watched.show(url, "audit")
        watched.show(url, "portal")
        page.set_input_files("input[name=database]", path)
        page.fill("input[name=at]", OWN)
        page.click(LOOK)
        page.wait_for_selector(LOOKED)
        page.click("text=Delete the upload")
        page.wait_for_selector(LOOKED, state="detached")
        assert watched.faults == []


def test_texts_of_an_old_database_are_only_ever_text(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contacts = [{"id": n + 1, "portal_url": text + BIDI, "SHARED_KEY": f"{K1}{n}"} for n, text in enumerate(HOSTILE)]
    path = make(
        tmp_path / "portal.db",
        "0.9",
        contacts=contacts,
        api_keys=[
            {"key_id": f"ap2p_{n:08}{text}".replace(" ", ""), "portal_url": OWN, "agent_name": text + BIDI}
            for n, text in enumerate(HOSTILE)
        ],
        owner_chats=[{"role": text, "content": text} for text in HOSTILE],
        file_transfers=[{"file_id": text, "filename": text, "status": "begun"} for text in HOSTILE],
    )
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        enter(watched, url)
        page = watched.page
        page.set_input_files("input[name=database]", path)
        page.fill("input[name=at]", OWN)
        page.click(LOOK)
        page.wait_for_selector(LOOKED)
        text = page.inner_text("main")
        elements = "main script, main img, main iframe, main style, main form[action], main a[href^=javascript]"
        assert page.evaluate(f"document.querySelectorAll({elements!r}).length") == 0
        assert watched.faults == []
        for hostile in HOSTILE:
            assert hostile in text, hostile
        assert "\u202e" not in text


@pytest.mark.skipif(not AXE_SCRIPT.exists(), reason="axe-core is not under .cache: python -m tests.browser.programs")
def test_axe_finds_nothing_and_a_phone_shows_it_in_chinese(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = {"id": 2, "portal_url": "https://" + "a" * 70, "SHARED_KEY": "ap2p_" + "x" * 250}
    contacts = [{"id": 4, "portal_url": "https://b.example", "agent_name": "bob", "SHARED_KEY": K1}, long]
    path = make(tmp_path / "portal.db", "0.9", contacts=[*contacts, {**long, "id": 3, "portal_url": "x" * 300}])
    options = {"viewport": {"width": 360, "height": 740}, "locale": "zh-CN"}
    with portal(monkeypatch) as url, opened(browser, url, **options) as watched:
        page = watched.page
        enter(watched, url)
        page.evaluate(AXE_SCRIPT.read_text(encoding="utf-8"))
        before = found(page)
        page.set_input_files("input[name=database]", path)
        page.focus("input[name=at]")
        page.keyboard.type(OWN)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=将导入以下内容")
        assert [before, found(page)] == [[], []]
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        text = page.inner_text("main")
        assert "它的地址不是门户地址" in text
        assert "portal." not in text.replace("portal.db", "")
        page.focus("select[aria-label]")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "导入"
        page.keyboard.press("Enter")
        page.wait_for_selector("text=已全部导入")
        assert found(page) == []
        assert watched.faults == []
