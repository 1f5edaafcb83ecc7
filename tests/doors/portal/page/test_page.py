"""The owner's page of a portal in a real Chromium, and the front page that strangers see."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests

from clawlink.config import ServerConfig
from clawlink.doors.portal import DOOR
from clawlink.doors.portal.settings import Settings
from tests.browser.programs import AXE_SCRIPT
from tests.page.conftest import browser
from tests.page.test_for_everybody import found
from tests.page.watching import BIDI, HOSTILE, Watched, opened
from tests.ports import free_port
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

OWNER = "ap2p_the-key-of-an-owner-for-tests-000000000000"
PASSWORD = "the password"
K = "ap2p_" + "k" * 43
GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""A picture of one pixel."""
_OWN_VIEWS = (
    "chat",
    "contacts",
    "guests",
    "guests?all=yes",
    "keys",
    "portal-files",
    "portal-tasks",
    "portal-tasks?contact=1",
    "photos",
    "portal",
)
VIEWS = (*_OWN_VIEWS, "overview", "agents")


@contextmanager
def portal(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[str]:
    monkeypatch.setenv("AGENTP2P_API_KEY", OWNER)
    monkeypatch.setenv("CLAWLINK_PORTAL_PASSWORD", PASSWORD)
    port = free_port()
    own = Settings(url=f"http://127.0.0.1:{port}", **settings)
    config = DOOR.adapt(own, ServerConfig(port=port, token="t", admin_token="boss", doors={"portal": own}))
    with relay_in_thread(config) as url:
        yield url


def call(url: str, method: str, path: str, body: Any = None, **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {OWNER}"}
    answer = requests.request(method, url + path, json=body, params=query, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


def sign_in(watched: Watched, url: str, password: str = PASSWORD) -> None:
    watched.page.goto(url + "/?owner")
    watched.page.fill("input[name=password]", password)
    watched.page.press("input[name=password]", "Enter")


def test_a_stranger_leaves_a_message_and_the_owner_approves_it(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with portal(monkeypatch) as url:
        with opened(browser, url) as stranger:
            page = stranger.page
            photo = {"photo": ("x", b64decode(GIF))}
            added = requests.post(
                url + "/api/photos/upload", files=photo, headers={"X-API-Key": OWNER}, timeout=PATIENCE
            )
            assert added.status_code == 200
            page.goto(url)
            seen = "[...document.querySelectorAll('#photos img')].some((one) => one.naturalWidth === 1)"
            wait_until(lambda: page.evaluate(seen))  # in the page itself the wait would be a string that it may not run
            assert page.inner_text("h1") == "127.0.0.1"
            page.fill("#content", f"I am Bob.\nMy portal: https://bob.example\nKey: {K}")
            page.click("#send")
            page.wait_for_selector("#said.ok")
            page.goto(url + "/#/contacts")
            page.wait_for_selector("input[name=password]")
            assert [fault for fault in stranger.faults if "401" not in fault] == [], "the page asks who signs in"
        with opened(browser, url) as watched:
            page = watched.page
            sign_in(watched, url, "wrong one")
            page.wait_for_selector(".trouble")
            assert page.inner_text(".trouble") == "The password is wrong"
            sign_in(watched, url)
            page.wait_for_selector("main[data-at='#/chat'] article")
            watched.faults.clear()  # of the login
            watched.show(url, "guests")
            page.fill("li input[name=agent_name]", "bob")
            page.click("text=Approve")
            page.wait_for_selector("text=No guest message waits.")
            assert "approved" in watched.show(url, "guests?all=yes")
            watched.show(url, "contacts")
            page.click("text=bob")
            page.wait_for_selector("text=https://bob.example")
            page.fill("textarea", "hello bob")
            page.click("form.write button")
            page.wait_for_selector("li.sent:has-text('hello bob')")
            ask = {"api_key": K, "from_portal": "https://bob.example", "content": "hello owner"}
            call(url, "POST", "/api/message/receive", ask)
            page.wait_for_selector("li.received:has-text('hello owner')")
            page.fill("input[name=text]", "OWNER")
            page.press("input[name=text]", "Enter")
            page.wait_for_selector("li.sent", state="detached")
            page.wait_for_selector("li.received:has-text('hello owner')")
            assert page.query_selector("li.sent") is None
            page.click("summary")
            page.fill("input[name=display_name]", "Bobby")
            page.click("form.fields button")
            page.wait_for_selector("h1:has-text('Bobby')")
            page.click("text=Pause")
            page.wait_for_selector(".reach.paused")
            page.click("text=Resume")
            page.wait_for_selector(".reach.paused", state="detached")
            watched.agrees = True
            page.click("text=Delete")
            page.wait_for_selector("text=No contact yet.")
            assert watched.faults == []


def test_the_owner_does_the_rest(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        page = watched.page
        watched.agrees = True
        sign_in(watched, url)
        page.wait_for_selector("main article")
        watched.faults.clear()
        watched.show(url, "contacts")
        page.click("summary")
        page.fill("input[name=portal_url]", "https://eve.example/")
        page.click("form.fields button")
        page.wait_for_selector(".invite pre")
        text = page.inner_text(".invite pre")
        contact = call(url, "GET", "/api/contacts")["contacts"][0]
        assert contact["SHARED_KEY"] in text
        assert url in text
        watched.show(url, "chat")
        page.fill("textarea", "deny 3")
        page.click("form.write button")
        page.wait_for_selector("li.received:has-text('there is no guest message 3')")
        call(url, "POST", "/api/chat/owner/reply", {"content": "done"})
        page.wait_for_selector("li.received:has-text('done')")
        watched.show(url, "keys")
        page.fill("input[name=label]", "bot")
        page.click("form.fields button")
        page.wait_for_selector(".invite pre")
        made = page.inner_text(".invite pre")
        headers = {"Authorization": f"Bearer {made}"}
        assert requests.get(url + "/api/contacts", headers=headers, timeout=PATIENCE).status_code == 200
        watched.show(url, "keys")
        assert "ago" in page.inner_text("tbody") or "now" in page.inner_text("tbody")
        page.click("tbody button.danger")
        page.wait_for_selector("text=No agent key.")
        assert requests.get(url + "/api/contacts", headers=headers, timeout=PATIENCE).status_code == 401
        page.wait_for_selector(".invite pre", state="detached")
        page.click("text=Make another owner key")
        page.wait_for_selector(".invite pre")
        owner = {"Authorization": f"Bearer {page.inner_text('.invite pre')}"}
        assert requests.get(url + "/api/key/list", headers=owner, timeout=PATIENCE).status_code == 200
        old = {"Authorization": f"Bearer {OWNER}"}
        assert requests.get(url + "/api/key/list", headers=old, timeout=PATIENCE).status_code == 401
        watched.show(url, "portal")
        for name, value in (("old", PASSWORD), ("new", "another one"), ("again", "another two")):
            page.fill(f"input[name={name}]", value)
        page.click("form.fields button")
        page.wait_for_selector("text=differ")
        assert watched.faults == []
        page.fill("input[name=again]", "another one")
        page.click("form.fields button")
        page.wait_for_selector("input[name=password]")
        sign_in(watched, url)
        page.wait_for_selector(".trouble")
        sign_in(watched, url, "another one")
        page.wait_for_selector("main article")
        with opened(browser, url) as second:
            sign_in(second, url, "another one")
            second.page.wait_for_selector("main article")
            watched.show(url, "portal")
            page.click("text=End all logins")
            page.wait_for_selector("input[name=password]")
            second.page.goto(url + "/?owner#/chat")
            second.page.wait_for_selector("input[name=password]")


def test_a_message_that_does_not_arrive_says_why(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        call(url, "POST", "/api/contacts", {"portal_url": f"http://127.0.0.1:{free_port()}"})
        call(url, "POST", "/api/portal/send", {"to": 1, "content": "hello"})
        call(url, "POST", "/api/portal/contacts/1", {"blocked": True})
        wait_until(lambda: call(url, "GET", "/api/portal/messages/1", ask="no")["state"] == "refused")
        sign_in(watched, url)
        watched.page.wait_for_selector("main article")
        watched.show(url, "contacts/1")
        watched.page.wait_for_selector("li.sent:has-text('the contact was blocked before the message was sent')")


@pytest.mark.skipif(not AXE_SCRIPT.exists(), reason="axe-core is not under .cache: python -m tests.browser.programs")
def test_axe_finds_nothing(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    script = AXE_SCRIPT.read_text(encoding="utf-8")
    faults: dict[str, Any] = {}
    with portal(monkeypatch) as url, opened(browser, url) as watched:
        page = watched.page
        call(url, "POST", "/api/contacts", {"portal_url": "https://bob.example", "SHARED_KEY": K})
        call(url, "POST", "/api/message/receive", {"api_key": K, "from_portal": "https://bob.example", "content": "x"})
        call(url, "POST", "/api/guest/leave-message", {"content": "I am nobody."})
        call(url, "POST", "/api/chat/owner/send", {"content": "hello"})
        call(url, "POST", "/api/key/create", {"agent_name": "bot"})
        photo, key = {"photo": ("x.gif", b64decode(GIF))}, {"X-API-Key": OWNER}
        requests.post(url + "/api/photos/upload", files=photo, headers=key, timeout=PATIENCE).raise_for_status()
        call(url, "POST", "/api/portal/delegate", {"to": 1, "task": "count the sheep"})
        page.goto(url)
        page.wait_for_selector("#leave")
        page.evaluate(script)
        faults["front"] = found(page)
        page.goto(url + "/?owner")
        page.wait_for_selector("main.login")
        page.evaluate(script)
        faults["login"] = found(page)
        sign_in(watched, url)
        page.wait_for_selector("main article")
        page.evaluate(script)
        for view in (*_OWN_VIEWS, "contacts/1", "portal-tasks/none"):
            page.evaluate("view => { location.hash = '#/' + view; }", view)
            watched.settle(view)
            faults[view] = found(page)
    assert [f"{view}: {fault}" for view, fault in faults.items() if fault] == []


def test_a_file_is_downloaded_and_deleted(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<script>alert(1)</script>"
    names = "<img src=x onerror=alert(1)>.html"
    with portal(monkeypatch) as url:
        contact = {"portal_url": "https://bob.example", "SHARED_KEY": K, "display_name": "Bob"}
        call(url, "POST", "/api/contacts", contact)
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        begin = {"api_key": K, "filename": names, "size": len(body), "md5": md5, "chunks_total": 1, "to_portal": url}
        begun = requests.post(url + "/api/file/initiate", json=begin, timeout=PATIENCE).json()["file_id"]
        part = {"api_key": K, "file_id": begun, "chunk_index": 0, "chunk_md5": md5, "data": b64encode(body).decode()}
        assert requests.post(f"{url}/api/file/chunk/{begun}/0", json=part, timeout=PATIENCE).status_code == 200
        with opened(browser, url) as watched:
            page = watched.page
            watched.agrees = True
            sign_in(watched, url)
            page.wait_for_selector("main article")
            watched.faults.clear()
            assert "complete" in watched.show(url, "portal-files")
            page.click("tbody a[title='https://bob.example']:has-text('Bob')")
            page.wait_for_selector("h1:has-text('Bob')")
            watched.show(url, "portal-files")
            with page.expect_download() as waiting:
                page.click("tbody a")
            assert waiting.value.path().read_bytes() == body
            page.click("tbody button.danger")
            page.wait_for_selector("text=No file.")
            assert watched.faults == []


def test_texts_of_others_are_only_ever_text(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with portal(monkeypatch, portal_guest_rate=1000) as url:
        for n, text in enumerate(HOSTILE):
            name = text if text.isprintable() else "x"
            place = f"https://h{n}.example/{'' if ' ' in text or '?' in text or '#' in text else text}"
            names = {"display_name": name, "agent_name": name, "user_name": name}
            contact = {"portal_url": place, "SHARED_KEY": f"{K}{n}", **names}
            call(url, "POST", "/api/contacts", contact)
            said = {"api_key": f"{K}{n}", "from_portal": place, "content": text + BIDI, "message_type": text[:64]}
            call(url, "POST", "/api/message/receive", said)
            call(url, "POST", "/api/guest/leave-message", {"content": f"{text} {BIDI} {place} {K}x{n}"})
            call(url, "POST", "/api/chat/owner/reply", {"content": text + BIDI})
            call(url, "POST", "/api/key/create", {"agent_name": text})
        with opened(browser, url) as watched:
            sign_in(watched, url)
            watched.page.wait_for_selector("main article")
            watched.faults.clear()
            shown = {view: watched.show(url, view) for view in VIEWS}
            ids = [contact["id"] for contact in call(url, "GET", "/api/contacts")["contacts"]]
            for id in ids:
                shown[f"contact {id}"] = watched.show(url, f"contacts/{id}")
                elements = "main script, main img, main iframe, main style, main form[action], main a[href^=javascript]"
                assert watched.page.evaluate(f"document.querySelectorAll({elements!r}).length") == 0
            assert watched.faults == []
        for text in HOSTILE:
            for view in ("chat", "contacts", "guests", "keys"):
                assert text in shown[view], (view, text)
        assert "\u202e" not in "".join(shown.values())


def test_the_operator_sees_nothing_of_the_owner(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with portal(monkeypatch) as url:
        boss = {"Authorization": "Bearer boss"}
        link = url + requests.post(url + "/admin/links", json={}, headers=boss, timeout=PATIENCE).json()["path"]
        with opened(browser, url) as watched:
            page = watched.page
            page.goto(link)
            page.wait_for_selector("main[data-at='#/overview'] article, main[data-at=''] article")
            assert page.query_selector("nav a[href='#/contacts']") is None
            assert page.query_selector("nav .group") is None
            statuses = page.evaluate(
                """async () => {
                    const { csrf } = await (await fetch("admin/session")).json();
                    const headers = { "Content-Type": "application/json", "ClawLink-CSRF": csrf };
                    const read = (await fetch("api/contacts", { headers })).status;
                    const body = JSON.stringify({ content: "x" });
                    const write = (await fetch("api/chat/owner/send", { method: "POST", headers, body })).status;
                    return [read, write];
                }"""
            )
            assert statuses == [401, 401]
        with opened(browser, url) as owner:
            sign_in(owner, url)
            owner.page.wait_for_selector("main article")
            statuses = owner.page.evaluate(
                """async () => {
                    const { csrf } = await (await fetch("admin/session")).json();
                    const json = { "Content-Type": "application/json" };
                    const body = JSON.stringify({ content: "x" });
                    const say = (headers) => fetch("api/chat/owner/send", { method: "POST", headers, body });
                    const tried = [await say(json), await say({ ...json, "ClawLink-CSRF": "x" })];
                    tried.push(await say({ ...json, "ClawLink-CSRF": csrf }), await fetch("admin/overview"));
                    return tried.map((answer) => answer.status);
                }"""
            )
            assert statuses == [403, 403, 200, 200], "a write needs the token of the session; the owner operates, too"


def test_it_fits_a_phone_and_speaks_chinese(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "locale": "zh-CN", "color_scheme": "dark"}
    with portal(monkeypatch) as url:
        long = "https://" + "a" * 60 + ".example/" + "b" * 200
        call(url, "POST", "/api/contacts", {"portal_url": long, "agent_name": "n" * 200})
        call(url, "POST", "/api/guest/leave-message", {"content": "x" * 500})
        with opened(browser, url, **options) as watched:
            page = watched.page
            page.goto(url)
            assert "留言" in page.inner_text("main")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            sign_in(watched, url)
            page.wait_for_selector("main article")
            for view in (*_OWN_VIEWS, "contacts/1", "portal-tasks/none"):
                text = watched.show(url, view)
                assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
                assert "portal." not in text.replace("portal.db", ""), view
            ways = {"portal-tasks/none": "portal-tasks", "contacts/9": "contacts", "contacts?text=no": "contacts"}
            for view, way in ways.items():
                watched.show(url, view)
                assert page.locator(f"main .empty a[href='#/{way}']").count() == 1, view
            assert "联系人" in watched.show(url, "contacts")
            cards = page.query_selector("table.cards")
            assert cards is not None
            assert cards.evaluate("(cards) => cards.parentElement.scrollWidth <= cards.parentElement.clientWidth")
            groups = page.locator("nav .group")
            assert [groups.nth(n).get_attribute("aria-label") for n in range(groups.count())] == ["我的", "中继"]
            assert page.locator("nav .group:first-child a[aria-current]").inner_text() == "联系人"
            assert page.locator("nav .group:last-child a").count() == 12
            over = """(group) => group.querySelector("b").getBoundingClientRect().right
                > group.querySelector("a").getBoundingClientRect().left"""
            assert not groups.last.evaluate(over)
