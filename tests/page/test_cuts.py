"""The page comes back by itself: after a restart of its relay, and after a cut network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from clawlink.config import ServerConfig
from tests.client.proxy import Proxy
from tests.page.watching import opened, post
from tests.ports import free_port
from tests.system.threaded import relay_in_thread
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route


_COUNTED = """window.signs = 0;
window.EventSource = class extends window.EventSource {
    constructor(...of) { super(...of); this.addEventListener("heartbeat", () => { window.signs += 1; }); }
};"""


@contextmanager
def passing(url: str) -> Iterator[Proxy]:
    """Stand before a relay."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


def test_it_comes_back_when_its_relay_was_restarted(browser: Browser) -> None:
    """Nothing is kept: the page shows the new relay, and says meanwhile that it is not connected."""
    config = ServerConfig(port=free_port())
    with relay_in_thread(config) as url:
        post(url, "/register", {"agent_id": "a", "name": "Before"})
        context = browser.new_context()
        page = context.new_page()
        page.goto(url + "/#/agents")
        page.wait_for_selector("text=Before")
        page.wait_for_selector(".live.on")
    page.wait_for_selector(".live.off")
    assert page.query_selector("text=Before") is not None  # what was known stays in sight
    page.set_viewport_size({"width": 390, "height": 844})
    words = "parseFloat(getComputedStyle(document.querySelector('.live.off')).fontSize)"
    assert page.evaluate(words) > 10, "a phone says it in words, not by the color of a dot alone"
    with relay_in_thread(config) as url:
        post(url, "/register", {"agent_id": "b", "name": "After"})
        page.wait_for_selector(".live.on")
        page.wait_for_selector("text=After")
        page.wait_for_selector("text=Before", state="detached")
        context.close()


def test_it_comes_back_when_the_network_was_cut(browser: Browser) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        watched.show(url, "agents")
        page.wait_for_selector(".live.on")
        page.context.set_offline(True)
        page.goto(url + "/#/tasks")
        page.wait_for_selector(".trouble")
        page.goto(url + "/#/load")  # whose script has not come yet
        page.wait_for_selector(".trouble:has-text('The relay does not answer.')")
        page.context.set_offline(False)
        page.wait_for_selector("main[data-at='#/load'] .plot canvas")
        post(url, "/register", {"agent_id": "a", "name": "After"})
        page.wait_for_selector(".live.on")
        page.goto(url + "/#/agents")
        page.wait_for_selector("text=After")


def test_a_session_that_a_restart_ended_is_not_shown_as_one(browser: Browser) -> None:
    """On loopback without a token the relay goes on to show the page, but no act of the old session works."""
    config = ServerConfig(port=free_port(), admin_token="boss")
    with opened(browser, f"http://127.0.0.1:{config.port}") as watched:
        page = watched.page
        with relay_in_thread(config) as url:
            page.goto(url)
            page.wait_for_selector(".live.on")
            assert page.locator("button.stop").count() == 0
            assert page.request.post(f"{url}/admin/sessions", data={"admin_token": "boss"}).ok
            page.reload()
            page.wait_for_selector("button.stop")
            page.wait_for_selector(".live.on")
        page.wait_for_selector(".live.off")
        with relay_in_thread(config):
            page.wait_for_selector("main.login .trouble:has-text('the relay was restarted')")


def test_a_page_that_is_loaded_after_its_session_ended_says_so(browser: Browser) -> None:
    config = ServerConfig(port=free_port(), token="t", admin_token="boss")
    ended = "main.login .trouble:has-text('run on its machine: clawlink open')"
    with opened(browser, f"http://127.0.0.1:{config.port}") as watched:
        page = watched.page
        with relay_in_thread(config) as url:
            page.goto(url)
            page.wait_for_selector("main.login")
            assert page.locator(".trouble").count() == 0, "this tab had no session yet"
            assert page.request.post(f"{url}/admin/sessions", data={"admin_token": "boss"}).ok
            page.reload()
            page.wait_for_selector(".live.on")
            page.goto("about:blank")
        with relay_in_thread(config) as url:
            page.goto(url)
            page.wait_for_selector(ended)
            page.fill("input[name=token]", "boss")
            page.click("form button")
            page.click("button:has-text('Sign out')")
            page.wait_for_selector("main.login")
            page.reload()
            page.wait_for_selector("main.login")
            assert page.locator(".trouble").count() == 0, "a person has ended it"


def test_a_stream_that_stalls_is_opened_again(browser: Browser) -> None:
    """The connection stays, and no byte comes any more, as after a change of the network."""
    with relay_in_thread(ServerConfig(port=0)) as url, passing(url) as proxy, opened(browser, proxy.url) as watched:
        page = watched.page
        page.clock.install()
        watched.show(proxy.url, "agents")
        page.wait_for_selector(".live.on")
        proxy.stall()
        post(url, "/register", {"agent_id": "a", "name": "Unseen"})
        page.wait_for_timeout(1500)
        assert page.query_selector("text=Unseen") is None
        for _ in range(12):  # the browser may try each of its old connections first
            page.clock.fast_forward(46_000)
            page.wait_for_timeout(500)
            if page.query_selector("text=Unseen") is not None:
                break
        page.wait_for_selector("text=Unseen")
        page.wait_for_selector(".live.on")


def test_a_stream_without_news_stays_open(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.live._SIGN_SECONDS", 0.5)
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.install()
        page.add_init_script(_COUNTED)
        watched.show(url, "agents")
        page.wait_for_selector(".live.on")
        for _ in range(3):
            page.evaluate("window.signs = 0")
            wait_until(lambda: page.evaluate("signs"))
            page.clock.fast_forward(40_000)
        page.wait_for_timeout(1500)
        assert len([url for url in asked if "/admin/events" in url]) == 1
        assert page.query_selector(".live.on") is not None


def test_a_stream_that_is_refused_is_asked_for_again_after_a_while(browser: Browser) -> None:
    asked = []
    with relay_in_thread(ServerConfig(port=0)) as url, opened(browser, url) as watched:
        page = watched.page

        def refuse(route: Route) -> None:
            asked.append(route.request.url)
            route.fulfill(status=503, json={"error": "the relay shuts down", "code": "draining"})

        page.route("**/admin/events?*", refuse)
        watched.show(url, "agents")
        page.wait_for_selector(".live.off")
        page.wait_for_timeout(2000)
        assert len(asked) <= 2
        page.unroute("**/admin/events?*")
        page.wait_for_selector(".live.on")
