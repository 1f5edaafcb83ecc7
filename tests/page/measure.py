"""Measure the page in Chromium: ``python -m tests.page.measure``. It prints one line a figure.

The first view is drawn when the overview with its numbers is painted; the plot follows. Chromium's own clock counts
from the moment when the response of ``/`` begins. All bytes count that came until then.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import TYPE_CHECKING, Any

from tests.browser.programs import CHROMIUM
from tests.page.crowd import crowd_apart

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The page marks nothing: the script sees the first tile, and the frame after it.
_WATCH = """
new MutationObserver((changes, watch) => {
    if (!document.querySelector("main article .tile b")) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => {
        window.drawn = performance.now();
        document.documentElement.dataset.drawn = 1;
    }));
}).observe(document, { childList: true, subtree: true });
"""
_TIMES = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    const files = performance.getEntriesByType("resource");
    const since = (at) => Math.round(at - page.responseStart);
    return {
        drawn: since(Math.max(window.drawn, paint ? paint.startTime : 0)),
        loaded: since(page.domContentLoadedEventEnd),
        files: files.map((f) => [f.name.split("/").pop(), since(f.startTime), since(f.responseEnd), f.transferSize]),
    };
}"""


def first_view(browser: Browser, url: str) -> dict[str, Any]:
    """Open the page with a cold cache, and return its times in ms and the bytes on the wire."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    received: list[float] = []
    wire.on("Network.dataReceived", lambda got: received.append(got["encodedDataLength"]))
    wire.on("Network.responseReceived", lambda got: received.append(got["response"]["encodedDataLength"]))
    page.add_init_script(_WATCH)
    page.goto(url + "/")
    page.wait_for_selector("html[data-drawn]")
    times: dict[str, Any] = page.evaluate(_TIMES)
    times["bytes"] = sum(received)
    context.close()
    return times


def _show_first_view(browser: Browser, url: str, times: int, *, verbose: bool) -> None:
    found = [first_view(browser, url) for _ in range(times)]
    for one in found if verbose else ():
        print(one)
    drawn = sorted(one["drawn"] for one in found)
    print(
        f"first view: {drawn[0]:.0f} ms at best, {statistics.median(drawn):.0f} ms at the median, "
        f"{drawn[-1]:.0f} ms at worst of {times}; {found[0]['bytes'] / 1000:.0f} KB; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Measure what the arguments name."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    with crowd_apart(asked.agents, asked.tasks) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM))
        _show_first_view(browser, url, asked.times, verbose=asked.verbose)
        browser.close()


if __name__ == "__main__":
    main()
