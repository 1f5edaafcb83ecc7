"""The page comes back by itself: after a restart of its relay, and after a cut network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawlink.config import ServerConfig
from tests.page.watching import opened, post
from tests.ports import free_port
from tests.system.threaded import relay_in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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
