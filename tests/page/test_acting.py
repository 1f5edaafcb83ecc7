"""Acts of a person in a real Chromium: write, read the answer, steer tasks, and stop all work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests

from clawlink.config import ServerConfig
from tests.page.watching import BIDI, HOSTILE, Watched, opened, post
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

BOSS = {"Authorization": "Bearer boss"}


def get(url: str, path: str) -> Any:
    answer = requests.get(url + path, headers=BOSS, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def only(url: str, agent: str) -> Any:
    """Claim the one message of an agent."""
    (message,) = get(url, f"/poll/{agent}?lease=60&wait=10")["messages"]
    return message


@pytest.fixture
def acting(browser: Browser) -> Iterator[tuple[str, Watched]]:
    """Sign in at a relay with two agents."""
    with relay_in_thread(ServerConfig(port=0, admin_token="boss")) as url:
        for name in ("ann", "bob"):
            post(url, "/register", {"agent_id": name, "name": name, "notices": False})
        with opened(browser, url, viewport={"width": 1280, "height": 800}) as watched:
            watched.page.goto(url + post(url, "/admin/links", {}, **BOSS)["path"])
            watched.page.wait_for_selector("article")
            yield url, watched
        assert watched.faults == []


def test_a_person_renames_an_agent(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    watched.show(url, "agents/bob")
    watched.words = "Robert <b>"
    watched.page.click("button:has-text('Rename')")
    watched.page.wait_for_selector("h1:has-text('Robert <b>')")
    assert [one["name"] for one in get(url, "/discover")["agents"] if one["agent_id"] == "bob"] == ["Robert <b>"]
    assert "Robert <b> (bob → Robert <b>)" in watched.show(url, "audit")
    assert "session" in watched.page.inner_text("table.rows td:last-child")


def test_the_head_of_a_phone_has_all_its_buttons_in_one_line(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    watched.page.set_viewport_size({"width": 360, "height": 640})
    for language in ("zh", "en"):
        watched.show(url, "overview")
        watched.page.select_option("header select", language)
        watched.page.wait_for_selector(f"html[lang={language}] button.stop")
        assert watched.page.evaluate("document.querySelector('header').offsetHeight") < 60


def test_a_person_delegates_reads_the_answer_and_puts_it_away(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    watched.show(url, "write")
    page.fill("input[name=to]", "bo")
    page.wait_for_selector("datalist option[value=bob][label=bob]", state="attached")
    assert page.locator("datalist option").count() == 1
    page.fill("input[name=to]", "bob")
    page.fill("textarea[name=text]", "sum\nthe numbers")
    page.click("form.compose button")
    page.wait_for_selector(".done a")
    task = only(url, "bob")
    assert (task["task"], task["from_person"]) == ("sum\nthe numbers", True)
    post(url, "/respond", {"from_agent": "bob", "message_id": task["message_id"], "result": "42 <b>"})
    assert "42 <b>" in watched.show(url, "inbox")
    assert page.inner_text(".letter p a[href^='#/tasks/']") == "sum the numbers"
    page.click(".letter button")
    page.wait_for_selector(".letter", state="detached")
    assert get(url, "/admin/inbox")["messages"] == []
    acts = [(entry["act"], entry["by"].partition(" ")[0]) for entry in get(url, "/admin/audit")["entries"]]
    assert acts == [("put_away", "session"), ("delegate_as_operator", "session"), ("make_link", "token")]


def test_a_form_that_is_sent_again_after_a_lost_reply_does_nothing_twice(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    lost: list[int] = []

    def lose(route: Route) -> None:
        """Let the relay have the first request, and the page none of its reply."""
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().status)
            route.abort()

    page.route("**/admin/send", lose)
    watched.show(url, "write?kind=message")
    page.fill("input[name=to]", "bob")
    page.fill("textarea[name=text]", "once")
    page.click("form.compose button")
    page.wait_for_selector("text=The relay does not answer")
    assert lost == [200]
    assert page.input_value("input[name=to]") == "bob"  # the page was drawn again meanwhile
    page.click("form.compose button")
    page.wait_for_selector(".done")
    assert only(url, "bob")["content"] == "once"
    page.select_option("form.compose select", "broadcast")
    page.fill("textarea[name=text]", "to all")
    page.click("form.compose button")
    page.wait_for_selector("text=for 2 agents")
    assert only(url, "ann")["content"] == "to all"
    assert "for 2 agents" in watched.show(url, "audit")
    watched.faults[:] = [fault for fault in watched.faults if "ERR_FAILED" not in fault]


def test_dead_letters_of_all_come_back_and_a_lock_ends(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    watched.agrees = True
    post(url, "/files", {"file_key": "k", "content": "c", "agent_id": "ann"})
    post(url, "/locks", {"file_key": "k", "agent_id": "ann", "seconds": 600})
    watched.show(url, "files/k")
    page.click("dd button")
    page.wait_for_selector("dd button", state="detached")
    assert get(url, "/admin/files/k")["file"]["lock"] is None
    for to in ("ann", "bob"):
        post(url, "/send", {"from_agent": "ann", "to_agent": to, "content": "x"})
        for _ in range(5):  # as often as a message is handed out
            held = get(url, f"/poll/{to}?lease=60&wait=5")["deliveries"]
            post(url, "/nack", {"agent_id": to, "receipts": [one["receipt"] for one in held]})
        assert get(url, f"/poll/{to}?lease=60")["count"] == 0
    watched.show(url, "dead-letters")
    page.click("text=Put all back")
    page.wait_for_selector("text=2 put back, 0 left.")
    assert [only(url, to)["content"] for to in ("ann", "bob")] == ["x", "x"]


def test_texts_to_the_person_are_only_ever_text(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    post(url, "/admin/send", {"to_agent": "ann", "content": "x"}, **BOSS)
    for text in HOSTILE:
        post(url, "/send", {"from_agent": "ann", "to_agent": "operator", "content": text + BIDI})
        post(url, "/delegate", {"from_agent": "ann", "to_agent": "operator", "task": {text: text}})
    shown = watched.show(url, "inbox")
    for text in HOSTILE:
        assert text in shown, text
    assert BIDI not in shown
    asks = get(url, "/admin/inbox?limit=100")["messages"]
    task = next(letter["message_id"] for letter in asks if letter["task"])
    watched.show(url, f"tasks/{task}")
    watched.page.fill(".acts textarea", "<b>no</b>")
    watched.page.click(".acts form button")
    watched.page.wait_for_selector(".acts", state="detached")  # the task has its answer
    assert get(url, f"/admin/tasks/{task}")["task"]["result"] == "<b>no</b>"
    assert watched.page.evaluate("document.querySelectorAll('main script, main img, main iframe, main b').length") == 0


def test_a_person_answers_a_question_and_cancels(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    task = post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "t"})["message_id"]
    only(url, "bob")
    post(url, "/respond", {"from_agent": "bob", "message_id": task, "status": "input_required", "result": "which?"})
    watched.show(url, f"tasks/{task}")
    assert page.inner_text(".acts .said") == "which?"
    page.fill(".acts textarea", "that one")
    page.click(".acts form button")
    page.wait_for_selector(".acts textarea", state="detached")  # the question is answered
    page.evaluate("window.prompt = () => 'enough'")
    page.click(".acts button.danger")
    page.wait_for_selector(".acts", state="detached")
    found = get(url, f"/admin/tasks/{task}")["task"]
    assert (found["status"], found["note"]) == ("cancelled", "enough")
    assert [event["by"] for event in found["history"]][-2:] == ["operator", "operator"]


def test_a_task_that_waits_again_shows_its_last_lease_until_the_answer(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    task = post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "t"})["message_id"]
    assert "not yet" in watched.show(url, f"tasks/{task}")
    receipt = get(url, "/poll/bob?lease=60&wait=10")["deliveries"][0]["receipt"]
    post(url, "/nack", {"agent_id": "bob", "receipts": [receipt]})
    watched.page.wait_for_selector(".fact.delivered_at.missing time + time")
    assert "queued again" in watched.page.inner_text(".fact.delivered_at")
    post(url, "/respond", {"from_agent": "bob", "message_id": task, "result": "done"})
    watched.page.wait_for_selector(".fact.answered_at:not(.missing)")
    assert watched.page.locator(".fact.missing").count() == 0


def test_a_dead_task_is_put_back_where_it_is_shown(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    task = post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "t", "priority": "high"})[
        "message_id"
    ]
    for _ in range(5):  # as often as a message is handed out
        held = get(url, "/poll/bob?lease=60&wait=5")["deliveries"]
        post(url, "/nack", {"agent_id": "bob", "receipts": [one["receipt"] for one in held]})
    assert get(url, "/poll/bob?lease=60")["count"] == 0
    shown = watched.show(url, f"tasks/{task}")
    assert "a dead letter" in shown
    assert "high" in shown
    watched.page.click(".acts button:has-text('Put back')")
    watched.page.wait_for_selector("text=a dead letter", state="detached")
    assert only(url, "bob")["message_id"] == task


def test_an_agent_is_shown_with_the_task_that_it_works_on(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    task = post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "count the words"})["message_id"]
    only(url, "bob")
    post(url, "/respond", {"from_agent": "bob", "message_id": task, "status": "in_progress", "note": "on page 3"})
    watched.show(url, "agents")
    assert watched.page.inner_text("td:has(.state) a") == "count the words"
    assert "on page 3" in watched.page.inner_text("td:has(.state)")


def test_the_way_back_leads_to_the_rows_that_a_person_left(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    for n in range(150):
        post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": f"number {n}"})
    watched.show(url, "tasks")
    page.wait_for_selector("table[aria-rowcount='151']")
    page.mouse.wheel(0, 3000)
    page.wait_for_selector("a:has-text('number 70')")
    # In the page itself the wait would be a string that it may not run.
    wait_until(lambda: page.evaluate("scrollY === 3000"))
    page.click("a:has-text('number 70')")
    page.wait_for_selector("h1:has-text('Task')")
    wait_until(lambda: page.evaluate("scrollY === 0"))
    page.go_back()
    wait_until(lambda: page.evaluate("scrollY === 3000"))
    page.wait_for_selector("a:has-text('number 70')")
    watched.show(url, "agents")
    watched.show(url, "tasks")
    page.wait_for_selector("a:has-text('number 149')")
    assert page.evaluate("scrollY") == 0, "a link leads to the beginning"


def test_a_person_answers_by_keys_alone(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    keys = watched.page.keyboard
    task = post(url, "/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "t"})["message_id"]
    only(url, "bob")
    post(url, "/respond", {"from_agent": "bob", "message_id": task, "status": "input_required", "result": "which?"})
    watched.show(url, "tasks?status=input_required")
    keys.press("j")
    keys.press("Enter")
    watched.page.wait_for_selector(".acts textarea")
    for _ in range(40):
        keys.press("Tab")
        if watched.page.evaluate("document.activeElement.matches('.acts textarea')"):
            break
    keys.type("that one")
    keys.press("Tab")
    keys.press("Enter")
    watched.page.wait_for_selector(".acts textarea", state="detached")
    assert only(url, "bob")["content"] == "that one"


def test_a_person_stops_all_work_and_resumes_it(acting: tuple[str, Watched]) -> None:
    url, watched = acting
    page = watched.page
    watched.agrees = True
    page.click("header button.stop")
    said = page.wait_for_selector(".stopped")
    assert said is not None
    assert "only another account" in said.inner_text()
    assert get(url, "/healthz")["stopped"]
    page.click(".stopped button")
    page.wait_for_selector(".stopped", state="detached")
    wait_until(lambda: not get(url, "/healthz")["stopped"])
    watched.show(url, "audit")
    acts = page.locator("table.rows tbody td:nth-child(2)").all_inner_texts()
    assert acts[:2] == ["let all work go on", "stopped all work"]


def test_a_session_that_reads_has_no_way_to_act(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url:
        link = url + post(url, "/admin/links", {"read_only": True}, **BOSS)["path"]
        with opened(browser, url) as watched:
            watched.page.goto(link)
            watched.page.wait_for_selector("article")
            for view in ("overview", "write", "inbox", "dead-letters"):
                watched.show(url, view)
                assert watched.page.query_selector_all("textarea, button.danger, button.stop, .compose") == [], view
