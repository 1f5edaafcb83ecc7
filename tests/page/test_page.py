"""The page in a real Chromium: texts of agents stay text, a session ends where it should, nobody frames it."""

from __future__ import annotations

import http.server
import threading
import time
from typing import TYPE_CHECKING

import requests

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from tests.page.watching import opened, post
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BOSS = {"Authorization": "Bearer boss"}


def test_a_link_opens_a_session_once_and_leaves_no_code_behind(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url:
        post(url, "/register", {"agent_id": "a", "name": "Ann"}, Authorization="Bearer t")
        link = url + post(url, "/admin/links", {}, **BOSS)["path"]
        with opened(browser, url) as watched:
            page = watched.page
            page.goto(link)
            page.wait_for_selector("main article")
            page.wait_for_selector(".live.on")
            assert "code" not in page.url
            assert page.evaluate("document.cookie + JSON.stringify(localStorage)").count("clawlink-") <= 1
            watched.agrees = True
            page.goto(url + "/#/agents/a")
            page.click("button.danger")
            page.wait_for_selector("text=No agent has joined yet.")
            watched.show(url, "audit")
            assert page.inner_text("main").count("removed") == 1
            post(url, "/admin/logout", {"all": True}, **BOSS)
            page.wait_for_selector("main.login")
        with opened(browser, url) as again:
            again.page.goto(link)
            again.page.wait_for_selector("main.login .trouble")
            again.page.fill("input[name=token]", "boss")
            again.page.press("input[name=token]", "Enter")
            again.page.wait_for_selector("main article")


def test_the_first_view_names_an_agent_that_could_not_be_woken(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url:
        own = {"Authorization": "Bearer t"}
        for id, name in (("a", "Ann"), ("b", "<b>Bob</b>")):
            post(url, "/register", {"agent_id": id, "name": name}, **own)
        sent = post(url, "/send", {"from_agent": "a", "to_agent": "b", "content": "hello"}, **own)["message_id"]
        failed = {"agent_id": "b", "adapter": "session", "result": "failed", "note": "<i>its screen is closed</i>"}
        post(url, f"/messages/{sent}/woken", failed, **own)
        link = url + post(url, "/admin/links", {"read_only": True}, **BOSS)["path"]
        with opened(browser, url) as watched:
            watched.page.goto(link)
            watched.page.wait_for_selector("#unwoken li")
            line = watched.page.inner_text("#unwoken li")
            assert "<b>Bob</b> could not be woken" in line
            assert "session: <i>its screen is closed</i>" in line


def test_a_read_only_session_shows_no_way_to_act(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url:
        post(url, "/register", {"agent_id": "a", "name": "Ann"}, Authorization="Bearer t")
        link = url + post(url, "/admin/links", {"read_only": True}, **BOSS)["path"]
        with opened(browser, url) as watched:
            watched.page.goto(link)
            watched.page.wait_for_selector("text=read only")
            watched.show(url, "agents/a")
            assert watched.page.query_selector("button.danger") is None
            statuses = watched.page.evaluate(
                """async () => {
                    const { csrf } = await (await fetch("admin/session")).json();
                    const headers = { "Content-Type": "application/json", "ClawLink-CSRF": csrf };
                    const write = (path, body) => fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
                    const tried = [["kick", { agent: "a" }], ["admin/links", {}], ["admin/logout", { all: true }]];
                    tried.push(["admin/redrive", { agent: "a" }]);
                    return Promise.all(tried.map(async ([path, body]) => (await write(path, body)).status));
                }"""
            )
            assert statuses == [403] * 4


class _Foreign(http.server.BaseHTTPRequestHandler):
    """A page of another origin on this machine, which the browser takes for the same site."""

    target = ""

    def do_GET(self) -> None:
        body = f"<!doctype html><iframe src='{self.target}/'></iframe>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_another_page_can_neither_frame_it_nor_act_with_its_session(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, token="t", admin_token="boss")) as url:
        post(url, "/register", {"agent_id": "a", "name": "Ann"}, Authorization="Bearer t")
        link = url + post(url, "/admin/links", {}, **BOSS)["path"]
        _Foreign.target = url
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Foreign)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with opened(browser, url) as watched:
                page = watched.page
                page.goto(link)
                page.wait_for_selector("main article")
                page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
                frame = page.frames[-1]
                assert "Needs you" not in (frame.content() if frame.url.startswith("http") else "")
                outcome = page.evaluate(
                    """async (url) => {
                        const tried = [];
                        for (const type of ["application/json", "text/plain"]) {
                            const headers = { "Content-Type": type };
                            const options = { method: "POST", credentials: "include", headers };
                            options.body = JSON.stringify({ agent: "a" });
                            tried.push(await fetch(url + "/kick", options).then((r) => r.status, () => "refused"));
                        }
                        const read = { credentials: "include" };
                        tried.push(await fetch(url + "/admin/overview", read).then((r) => r.status, () => "refused"));
                        return tried;
                    }""",
                    url,
                )
                assert outcome == ["refused"] * 3
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        assert requests.get(url + "/admin/overview", headers=BOSS, timeout=PATIENCE).json()["agents_online"] == 1


def test_dead_letters_are_put_back_from_the_page(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0, admin_token="boss", limits=Limits(max_attempts=1))) as url:
        a = "__proto__"  # an id as others, and no name of an object of scripts
        post(url, "/register", {"agent_id": a, "name": "Ann"})
        for n in range(3):
            post(url, "/send", {"from_agent": a, "to_agent": a, "content": f"letter {n}"})
        claimed = requests.get(f"{url}/poll/{a}?lease=60", timeout=PATIENCE).json()
        post(url, "/nack", {"agent_id": a, "receipts": [d["receipt"] for d in claimed["deliveries"]]})
        assert requests.get(f"{url}/poll/{a}?lease=60", timeout=PATIENCE).json()["count"] == 0  # which buries them
        link = url + post(url, "/admin/links", {}, **BOSS)["path"]
        with opened(browser, url) as watched:
            watched.page.goto(link)
            watched.page.wait_for_selector("main article")
            assert "letter 1" in watched.show(url, "dead-letters")
            watched.page.click("tr:has-text('letter 1') button")
            watched.page.wait_for_selector("tr:has-text('letter 1')", state="detached")
            watched.page.click("text=Put the first 2 back")
            watched.page.wait_for_selector("text=No dead letters.")
            assert watched.faults == []
        back = requests.get(f"{url}/poll/{a}?lease=60", timeout=PATIENCE).json()["messages"]
        assert [message["content"] for message in back] == [f"letter {n}" for n in range(3)]
        acts = requests.get(url + "/admin/audit", headers=BOSS, timeout=PATIENCE).json()["entries"]
        assert [entry["act"] for entry in acts] == ["redrive_for", "redrive_for", "make_link"]


def test_the_load_is_plotted_with_agents_and_counters(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        post(url, "/register", {"agent_id": "a", "name": "Ann"})
        wait_until(
            lambda: requests.get(url + "/admin/load", timeout=PATIENCE).json()["minutes"][-1]["agents_online"] == 1
        )  # it is not counted each time
        for _ in range(2):
            minute = time.time() // 60
            post(url, "/delegate", {"from_agent": "a", "to_agent": "a", "task": "t"})
            watched.show(url, "load")
            page.reload()
            page.wait_for_selector("section:last-of-type > figure .plot canvas")
            plots = page.evaluate(
                """[...document.querySelectorAll("main section")].map((plot) =>
                    [plot.querySelectorAll("canvas").length, plot.querySelector("figcaption").innerText])"""
            )
            if time.time() // 60 == minute:  # else the counts have begun again
                break
        assert len(plots) == 11
        assert {canvases for canvases, _ in plots} == {1}
        said = " ".join(words for _, words in plots)
        for words in ("online 1", "stale 0", "delegated 1", "answered 0", "stored 1", "messages"):
            assert words in said, words
        assert watched.faults == []


def test_agents_have_their_names_and_two_of_one_name_their_ids_too(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        for id, name in (("7f3a", "Ann"), ("91bc", "Bob"), ("c0de", "bob"), ("e5e5", "e5e5")):
            post(url, "/register", {"agent_id": id, "name": name})
        for to in ("7f3a", "91bc", "c0de", "e5e5"):
            post(url, "/delegate", {"from_agent": "7f3a", "to_agent": to, "task": f"for {to}"})
        watched.show(url, "tasks?status=open")
        cells = page.eval_on_selector_all(
            "table.rows td:nth-child(4) a", "all => all.map((a) => [a.innerText, a.title])"
        )
        assert sorted(cells) == [["Ann", "7f3a"], ["Bob (91bc)", "91bc"], ["bob (c0de)", "c0de"], ["e5e5", ""]]
        page.click("table.rows a:has-text('Ann')")
        page.wait_for_selector("h1:has-text('Ann')")
        assert page.url.endswith("#/agents/7f3a")
        watched.show(url, "tasks?status=open&assignee=Ann")
        assert page.locator("table.rows a[data-row]").all_inner_texts() == ["for 7f3a"]
        watched.show(url, "conversations")
        assert "Ann" in page.inner_text("table.matrix")
        assert "7f3a" not in page.inner_text("main")


def test_the_chosen_language_stays_and_its_words_come_ahead(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        watched.show(url, "overview")
        page.select_option("header select", "zh")
        page.wait_for_selector("h1:has-text('概览')")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        page.reload()
        page.wait_for_selector("h1:has-text('概览')")
        assert page.evaluate("document.documentElement.lang") == "zh"
        assert page.evaluate("localStorage.length") == 0
        assert "session" not in asked
        assert "overview" not in asked
        assert [name for name in asked if name.endswith(".js")][:2] == ["zh.js", "app.js"]


def test_a_browser_without_a_language_has_plots_and_all_views(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        watched.page.add_init_script(
            "for (const name of ['language', 'languages']) Object.defineProperty(Navigator.prototype, name, "
            "{ get: () => name === 'language' ? 'en-US@posix' : ['en-US@posix'] });"
        )
        watched.show(url, "overview")
        watched.page.wait_for_selector(".plot canvas")
        assert "No agent has joined yet." in watched.show(url, "agents")
        assert watched.faults == []


def test_it_speaks_chinese_and_keys_move_on_a_phone(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url:
        post(url, "/register", {"agent_id": "a", "name": "Ann"})
        with opened(
            browser, url, viewport={"width": 360, "height": 740}, locale="zh-CN", color_scheme="dark"
        ) as watched:
            assert "需要您处理" in watched.show(url, "overview")
            watched.page.keyboard.press("?")
            watched.page.wait_for_selector("dialog[open]")
            watched.page.keyboard.press("Escape")
            watched.show(url, "agents")
            watched.page.keyboard.press("j")
            assert watched.page.evaluate("document.activeElement.matches('[data-row]')")
        assert watched.faults == []


# A PNG of one pixel.
_PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def test_an_image_is_loaded_on_a_click_alone_and_markup_of_a_file_is_text(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url:
        post(url, "/register", {"agent_id": "a", "name": "Ann"})
        for key, kind, content in (
            ("shot.png", "image/png", bytes.fromhex(_PIXEL)),
            ("evil.html", "text/html", b"<script>alert(1)</script>"),
            ("evil.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ):
            headers = {"ClawLink-Agent": "a", "Content-Type": kind}
            requests.put(f"{url}/blobs/{key}", data=content, headers=headers, timeout=PATIENCE).raise_for_status()
        with opened(browser, url) as watched:
            asked: list[str] = []
            watched.page.on("request", lambda request: asked.append(request.resource_type))
            watched.show(url, "files/shot.png?version=1")
            assert "image" not in asked
            watched.page.click("text=Show the image")
            watched.page.wait_for_selector("img.image")
            wait_until(lambda: watched.page.evaluate("document.querySelector('img.image').naturalWidth") == 1)
            for key in ("evil.html", "evil.svg"):
                assert "alert(1)" in watched.show(url, f"files/{key}?version=1")
                assert watched.page.query_selector("main :is(img, script, svg)") is None
            assert watched.faults == []


def test_what_the_relay_does_has_it_as_actor_and_an_ended_task_has_no_share(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        for id, name in (("a", "Ann"), ("b", "Bob")):
            post(url, "/register", {"agent_id": id, "name": name})
        ended = post(url, "/delegate", {"from_agent": "a", "to_agent": "b", "task": "half done"})["message_id"]
        for report in (
            {"status": "in_progress", "progress": 50, "note": "half"},
            {"status": "completed", "result": "x"},
        ):
            post(url, "/respond", {"from_agent": "b", "message_id": ended, **report})
        said = watched.show(url, f"tasks/{ended}")
        assert page.locator("dl.facts progress").count() == 0
        assert "50 % · half" in said
        assert page.locator(".history progress").count() == 1
        watched.show(url, "tasks?status=final")
        assert page.locator("main progress").count() == 0
        post(url, "/delegate", {"from_agent": "b", "to_agent": "a", "task": "t", "deadline": 1})
        wait_until(lambda: "the relay" in watched.show(url, "conversations?agent=b"))
        assert "none →" not in page.inner_text("main")
        assert watched.faults == []


def test_one_thing_is_one_and_sizes_have_one_spelling(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        for id, name in (("a", "Ann"), ("b", "Bob")):
            post(url, "/register", {"agent_id": id, "name": name})
        file = {"agent_id": "a", "file_key": "f", "content": "x" * 2048, "readers": ["b"]}
        post(url, "/files", file)
        said = watched.show(url, "files")
        assert "1 reader" in said
        assert "1 readers" not in said
        assert "2 KiB" in said
        assert "s ago" in said
        assert "2 KiB" in watched.show(url, "files/f")


def test_a_person_is_led_on(browser: Browser) -> None:
    """Check what a view says and offers where it has nothing to show."""
    one = Limits(max_attempts=1)
    with relay_in_thread(ServerConfig(port=0, admin_token="boss", limits=one)) as url, opened(browser, url) as watched:
        page = watched.page
        page.goto(url + post(url, "/admin/links", {}, **BOSS)["path"])
        page.wait_for_selector("main article")
        for view in ("constructor", "__proto__", "write?kind=constructor", "no-such-view"):
            assert ("There is no such view." in watched.show(url, view)) == ("write" not in view), view
        page.click("main a")
        page.wait_for_selector("h1:has-text('Overview')")
        assert "capability" in (page.get_attribute("a.tile:has-text('Pools without an agent')", "title") or "")
        said = watched.show(url, "conversations")
        assert "Counted since the relay started" in said
        assert "Nothing since then." in said
        for view, step in (
            ("agents", "code:has-text('clawlink register')"),
            ("files", "code:has-text('clawlink file put')"),
            ("tasks", "a[href='#/write']"),
            ("knowledge", "a[href='#/write?kind=broadcast']"),
            ("agents?status=stale", "a[href='#/agents']:has-text('Clear the filters')"),
            ("tasks?assignee=nobody", "a[href='#/tasks']:has-text('Clear the filters')"),
            ("knowledge?tag=none", "a[href='#/knowledge']:has-text('Clear the filters')"),
        ):
            watched.show(url, view)
            assert page.locator(f"main .empty {step}").count() == 1, view
        for view, way in (("tasks/none", "tasks"), ("files/none", "files"), ("agents/none", "agents")):
            watched.show(url, view)
            assert page.locator(f".trouble + p a[href='#/{way}']").count() == 1, view
        watched.show(url, "write")
        page.fill("input[name=to]", "nobody")
        page.fill("textarea[name=text]", "t")
        page.click("form.compose button")
        page.wait_for_selector(".trouble a[href='#/agents']")
        assert "discover" not in page.inner_text(".trouble")
        post(url, "/register", {"agent_id": "a", "name": "Ann"})
        post(url, "/files", {"agent_id": "a", "file_key": "kept", "content": "x"})
        assert "Version 7 is not kept any more." in watched.show(url, "files/kept?version=7")
        post(url, "/send", {"from_agent": "a", "to_agent": "a", "content": "letter"})
        claimed = requests.get(url + "/poll/a?lease=60", timeout=PATIENCE).json()
        post(url, "/nack", {"agent_id": "a", "receipts": [d["receipt"] for d in claimed["deliveries"]]})
        assert requests.get(url + "/poll/a?lease=60", timeout=PATIENCE).json()["count"] == 0  # which buries it
        watched.show(url, "overview")
        page.wait_for_selector("a.tile.alarm:has-text('Dead letter'):not(:has-text('letters'))")
        watched.show(url, "dead-letters?reason=given_back")
        page.wait_for_selector(".filters p button:enabled")
        watched.show(url, "dead-letters?reason=lapsed")
        page.wait_for_selector(".filters p button:disabled")


def test_work_of_an_agent_that_has_left_is_told_with_its_name(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        for id, name in (("a", "Ann"), ("b", "Bob")):
            post(url, "/register", {"agent_id": id, "name": name})
        post(url, "/delegate", {"from_agent": "a", "to_agent": "b", "task": "t"})
        assert requests.delete(url + "/agents/b", timeout=PATIENCE).status_code == 200
        watched.show(url, "overview")
        watched.page.wait_for_selector("#pools td:has-text('waits for an agent that has left: Bob')")


def test_a_filter_that_a_link_opened_has_the_name_and_keeps_the_id(browser: Browser) -> None:
    from playwright.sync_api import expect

    with relay_in_thread(ServerConfig(port=0)) as url:
        for id, name in (("a1", "Ann"), ("b1", "Bob"), ("b2", "Bob")):
            post(url, "/register", {"agent_id": id, "name": name})
        post(url, "/delegate", {"from_agent": "a1", "capability": ["build", "fast"], "task": "build it"})
        with opened(browser, url) as watched:
            page = watched.page
            watched.show(url, "tasks?requester=a1&assignee=b2")
            expect(page.locator("input").nth(0)).to_have_value("Ann")
            expect(page.locator("input").nth(1)).to_have_value("Bob")
            page.press("input >> nth=1", "Enter")
            assert page.evaluate("location.hash").endswith("assignee=b2")
            assert "build, fast" in watched.show(url, "tasks?requester=a1")
            assert "Ann → build, fast" in " ".join(watched.show(url, "conversations?agent=a1").split())
            expect(page.locator("input").first).to_have_value("Ann")
        assert watched.faults == []


def test_one_of_a_unit_is_one(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url:
        post(url, "/register", {"agent_id": "a1", "name": "Ann"})
        with opened(browser, url, locale="en-US") as watched:
            shown = watched.show(url, "load")
            assert "1 agent\t" in shown
            assert "1 agents" not in shown
