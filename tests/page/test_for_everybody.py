"""The page for everybody: axe-core finds nothing, keys work, narrow screens fit, and both languages are whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from clawlink.config import ServerConfig
from tests.browser.programs import AXE_SCRIPT
from tests.page.watching import VIEWS, fill, opened, post
from tests.system.threaded import relay_in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LONG = bool(os.environ.get("CLAWLINK_TEST_PAGE"))
_AXE = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
    (found) => [found.id, found.help, found.nodes.length, found.nodes[0].html.slice(0, 300)])"""


# The boxes with a choice that have no room for its longest word.
_CUT = """[...document.querySelectorAll("select")].filter((select) => {
    const has = select.getBoundingClientRect().width;
    const kept = select.style.cssText;
    select.style.cssText = "width: max-content; max-width: none; min-width: 0";
    const wants = select.getBoundingClientRect().width;
    select.style.cssText = kept;
    return has < wants - 1;
}).map((select) => select.outerHTML)"""


class Filled:
    """A relay with something in each view, and the views of one thing each."""

    def __init__(self, url: str) -> None:
        self.url = url
        ones = fill(url)
        self.views = [*VIEWS, "search?text=alert", *ones[:6], "files/none", "no-such-view", "tasks/none"]


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    with relay_in_thread(ServerConfig(port=0)) as url:
        yield Filled(url)


def found(page: Page) -> Any:
    return page.evaluate(_AXE)


@pytest.mark.skipif(not AXE_SCRIPT.exists(), reason="axe-core is not under .cache: python -m tests.browser.programs")
def test_axe_finds_nothing(browser: Browser, filled: Filled) -> None:
    """Look at each view in both themes; without CLAWLINK_TEST_PAGE in one."""
    script = AXE_SCRIPT.read_text(encoding="utf-8")
    faults: dict[tuple[str, str], Any] = {}
    for scheme in ("light", "dark") if LONG else ("light",):
        with opened(browser, filled.url, color_scheme=scheme) as watched:
            watched.page.goto(filled.url + "/")
            watched.page.evaluate(script)
            for view in filled.views:
                watched.page.evaluate("view => { location.hash = '#/' + view; }", view)
                watched.settle(view)
                faults[scheme, view] = found(watched.page)
            watched.page.keyboard.press("?")
            watched.page.wait_for_selector("dialog[open]")
            faults[scheme, "help"] = found(watched.page)
    assert [f"{view}: {fault}" for view, fault in faults.items() if fault] == []


@pytest.mark.skipif(not AXE_SCRIPT.exists(), reason="axe-core is not under .cache: python -m tests.browser.programs")
def test_axe_finds_nothing_where_a_person_signs_in(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url, opened(browser, url) as watched:
        watched.page.goto(url + "/")
        watched.page.wait_for_selector("main.login")
        watched.page.evaluate(AXE_SCRIPT.read_text(encoding="utf-8"))
        assert found(watched.page) == []


def test_no_view_is_wider_than_a_phone_in_any_language(browser: Browser, filled: Filled) -> None:
    for language, scheme in (("en-US", "light"), ("zh-CN", "dark")):
        phone: Any = {"viewport": {"width": 360, "height": 740}, "locale": language, "color_scheme": scheme}
        with opened(browser, filled.url, **phone) as watched:
            for view in filled.views:
                watched.show(filled.url, view)
                assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360, (language, view)
                assert watched.page.evaluate(_CUT) == [], (language, view)
            # The browser tells of each view of nothing.
            assert [fault for fault in watched.faults if "404" not in fault] == [], language


def test_a_phone_has_all_of_a_table_in_sight_or_shows_that_there_is_more(browser: Browser, filled: Filled) -> None:
    hidden = """[...document.querySelectorAll("main table.cards")].filter((table) =>
        table.parentElement.scrollWidth > table.parentElement.clientWidth).length"""
    named = "getComputedStyle(document.querySelector('table.cards td:nth-child(2)'), '::before').content"
    with opened(browser, filled.url, viewport={"width": 360, "height": 740}) as watched:
        for view in ("agents/a", filled.views[-4], "search?text=alert", "load", "conversations"):
            watched.show(filled.url, view)
            assert watched.page.locator("table.cards").count() >= 1, view
            assert watched.page.evaluate(hidden) == 0, view
        watched.show(filled.url, "conversations")
        assert watched.page.evaluate(named) == '"To"'
        watched.show(filled.url, filled.views[-4])
        first = "getComputedStyle(document.querySelector('table.cards td.named'), '::before').content"
        assert watched.page.evaluate(first) == '"Version"', "a number alone says nothing"
        watched.show(filled.url, "conversations")
        for box in watched.page.query_selector_all("div.scroll"):
            assert "gradient" in box.evaluate("(box) => getComputedStyle(box).backgroundImage")


def test_a_phone_shows_a_long_list_as_cards_of_one_height(browser: Browser, filled: Filled) -> None:
    from playwright.sync_api import expect

    outside = """[...document.querySelectorAll("main table.rows td:not(:empty)")].filter((td) => {
        const row = td.parentElement.getBoundingClientRect(), cell = td.getBoundingClientRect();
        const seen = cell.height > 0 && !td.parentElement.matches(".gap");
        return seen && (cell.left < row.left || cell.right > row.right + 1 || cell.top >= row.bottom);
    }).map((td) => td.textContent)"""
    heights = "[...new Set([...document.querySelectorAll('main table.rows tbody tr')].map((tr) => tr.offsetHeight))]"
    wide = "[...document.querySelectorAll('main .scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    for language in ("en-US", "zh-CN"):
        with opened(browser, filled.url, viewport={"width": 360, "height": 740}, locale=language) as watched:
            for view in ("agents", "tasks?status=open", "files"):
                watched.show(filled.url, view)
                assert watched.page.evaluate(heights) == [98], (language, view)
                assert watched.page.evaluate(wide) == 0, (language, view)
                assert watched.page.evaluate(outside) == [], (language, view)
            watched.page.set_viewport_size({"width": 1280, "height": 800})
            expect(watched.page.locator("table.rows tbody tr").first).to_have_css("height", "38px")


def test_hints_and_exact_times_need_no_pointer(browser: Browser, filled: Filled) -> None:
    from playwright.sync_api import expect

    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "locale": "en-US"}
    with opened(browser, filled.url, **phone) as watched:
        watched.show(filled.url, "overview")
        assert "Mailboxes with messages whose agents" in watched.page.inner_text("main")
        watched.show(filled.url, "agents/a")
        time = watched.page.locator("dl.facts time").first
        assert "ago" in time.inner_text()
        time.tap()
        expect(time).to_have_text(re.compile(r"20\d\d.*:"))
        time.tap()
        expect(time).to_have_text(re.compile("ago"))


def test_no_head_of_a_list_runs_into_the_next_one(browser: Browser, filled: Filled) -> None:
    cut = """[...document.querySelectorAll("table.rows th")].filter((th) => {
        const text = document.createRange();
        text.selectNodeContents(th);
        return text.getBoundingClientRect().width > th.clientWidth - parseFloat(getComputedStyle(th).paddingRight) + 1;
    }).map((th) => th.textContent)"""
    beyond = "[...document.querySelectorAll('main .scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    for language in ("en-US", "zh-CN"):
        with opened(browser, filled.url, viewport={"width": 1280, "height": 800}, locale=language) as watched:
            for view in ("agents", "tasks?status=open", "files", "dead-letters", "audit"):
                watched.show(filled.url, view)
                assert watched.page.evaluate(cut) == [], (language, view)
                assert watched.page.evaluate(beyond) == 0, (language, view)


def test_the_first_screen_needs_no_scrolling(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.url, viewport={"width": 1280, "height": 800}) as watched:
        watched.show(filled.url, "overview")
        assert watched.page.evaluate("document.documentElement.scrollHeight") <= 800


def test_the_first_screen_has_room_for_all_that_needs_a_person(browser: Browser) -> None:
    """It needs no scrolling with lists above and all work stopped, and a long name takes the room of no column."""
    tall = "document.querySelector('.short .scroll').offsetHeight"
    with relay_in_thread(ServerConfig(port=0, admin_token="boss")) as url:
        post(url, "/register", {"agent_id": "sender", "name": "sender"})  # a sign of life ends the trouble of an agent
        for n in range(16):
            post(url, "/register", {"agent_id": f"a{n}", "name": f"{n}" + "W" * 120})
            sent = post(url, "/send", {"from_agent": "sender", "to_agent": f"a{n}", "content": "x"})["message_id"]
            failed = {"agent_id": f"a{n}", "adapter": "tmux", "result": "failed", "note": "gone"}
            post(url, f"/messages/{sent}/woken", failed)
        post(url, "/admin/stop", {"stopped": True}, Authorization="Bearer boss")
        with opened(browser, url, viewport={"width": 1280, "height": 800}) as watched:
            watched.show(url, "overview")
            watched.page.wait_for_selector("section.stopped")
            watched.page.wait_for_selector(".stops li:nth-child(16)")
            assert watched.page.evaluate("document.documentElement.scrollHeight") <= 800
            assert (
                watched.page.evaluate(
                    "(box => box.scrollWidth - box.clientWidth)(document.querySelector('.short .scroll'))"
                )
                == 0
            )
            at_first = watched.page.evaluate(tall)
            watched.page.set_viewport_size({"width": 1280, "height": 1100})
            assert watched.page.evaluate(tall) > at_first + 200


def test_a_name_of_any_script_has_its_place_over_its_column(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        for id, name in (("a", "小李"), ("b", "مترجم"), ("c", "Ann")):
            post(url, "/register", {"agent_id": id, "name": name})
            post(url, "/send", {"from_agent": id, "to_agent": "a", "content": "x"})
            post(url, "/send", {"from_agent": "a", "to_agent": id, "content": "x"})
        watched.show(url, "conversations")
        for head in watched.page.query_selector_all(".matrix thead th a"):
            box = head.bounding_box()
            assert box is not None
            assert box["height"] > 18, head.inner_text()


def test_keys_move_through_rows_search_and_help(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.url) as watched:
        page = watched.page
        watched.show(filled.url, "tasks?status=open")
        focused = "document.activeElement.closest('tr')?.ariaRowIndex"
        page.keyboard.press("j")
        page.keyboard.press("j")
        assert page.evaluate(focused) == "3"
        page.keyboard.press("k")
        assert page.evaluate(focused) == "2"
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.type") == "search"
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.value") == "j"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement === document.body")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        watched.show(filled.url, "load")
        page.keyboard.press("/")
        page.wait_for_selector('main[data-at="#/search"] input:focus')
        assert watched.faults == []


def test_an_error_has_a_name_in_the_language_of_the_page(browser: Browser, filled: Filled) -> None:
    for language, begins in (("en-US", "no task 'none'"), ("zh-CN", "未知的任务（no task 'none'")):
        with opened(browser, filled.url, locale=language) as watched:
            watched.show(filled.url, "tasks/none")
            assert watched.page.inner_text(".trouble").startswith(begins), language


def test_times_tell_the_exact_one_and_text_keeps_its_direction(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.url, locale="en-US", timezone_id="UTC") as watched:
        watched.show(filled.url, "agents/a")
        watched.page.hover("dl.facts time")
        title = watched.page.get_attribute("dl.facts time", "title") or ""
        assert "20" in title
        assert ":" in title
        assert watched.page.evaluate("getComputedStyle(document.querySelector('bdi.said')).unicodeBidi") == "isolate"


def test_amounts_are_told_as_a_person_says_them(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.url, locale="en-US") as watched:
        said = watched.show(filled.url, "load")
        assert re.findall(r"(?<![\d.,])1 \w+s\b", said) == []
        limits = dict(re.findall(r"^(--[\w-]+)\t([^\t\n]*)", said, re.MULTILINE))
        assert (limits["--forget-claimed-after"], limits["--forget-after"]) == ("30 days", "1 day")
        assert (limits["--lease"], limits["--retention"]) == ("1 min", "1 h")
        shares = dict(re.findall(r"^(--[\w-]+)\t.*\t ?(.* %)$", said, re.MULTILINE))
        assert shares["--max-agents"] == "< 1 %"


def test_a_pointer_gets_all_of_a_text_that_is_cut(browser: Browser) -> None:
    task = "Count all " + "sheep and goats " * 20
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        for id in ("a", "b"):
            post(url, "/register", {"agent_id": id, "name": id})
        post(url, "/delegate", {"from_agent": "a", "to_agent": "b", "task": task})
        watched.show(url, "tasks")
        cell = watched.page.locator("table.rows td").first
        cell.hover()
        assert (cell.get_attribute("title") or "").startswith("Count all sheep")
        assert watched.page.locator("table.rows td").nth(1).get_attribute("title") in (None, "")


def test_a_control_character_in_text_from_right_to_left_keeps_its_number_whole(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url:
        for id in ("a", "b"):
            post(url, "/register", {"agent_id": id, "name": id})
        said = "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe"
        post(url, "/send", {"from_agent": "a", "to_agent": "b", "content": said})
        with opened(browser, url) as watched:
            watched.show(url, "conversations?agent=a")
            control = watched.page.locator(".talk pre bdi.control")
            assert control.inner_text() == "<U+202E>"
            assert control.evaluate("(one) => getComputedStyle(one).unicodeBidi") == "isolate"
            assert control.evaluate("(one) => getComputedStyle(one.parentElement).direction") == "rtl"
