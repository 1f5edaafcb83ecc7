"""Measure the page in Chromium: ``python -m tests.page.measure``. It prints one line a figure.

The first view is drawn when the overview with its numbers is painted; the plot follows. Chromium's own clock counts
from the moment when the response of ``/`` begins. The bytes are those of all responses, the plot included.

A new window keeps Chromium busy with its own pages for a while. Playwright runs a large script in a page to wait for
it. So each page is opened a second after its window, and is left alone until it is drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.browser.programs import CHROMIUM
from tests.page.crowd import Apart, crowd_apart

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_QUIET_MS = 1000
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
        bytes: [page, ...files].reduce((all, file) => all + file.transferSize, 0),
        files: files.map((f) => [f.name.split("/").pop(), since(f.startTime), since(f.responseEnd), f.transferSize]),
    };
}"""


def first_view(browser: Browser, url: str) -> dict[str, Any]:
    """Open the page with a cold cache, and return its times in ms and the bytes on the wire."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(_WATCH)
    page.wait_for_timeout(_QUIET_MS)
    page.goto(url + "/", wait_until="commit")
    time.sleep(_QUIET_MS / 1000)  # the page answers no question meanwhile
    page.wait_for_selector("html[data-drawn]")
    times: dict[str, Any] = page.evaluate(_TIMES)
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


@contextmanager
def _traced(browser: Browser) -> Iterator[list[dict[str, Any]]]:
    """Trace Chromium while the context lasts; the events are there afterwards."""
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        browser.start_tracing(path=trace, categories=["toplevel", "devtools.timeline", "blink.user_timing"])
        yield events
        browser.stop_tracing()
        events += json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]


def _work(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return for each piece of work of the page the ms of the processor, and those by the clock."""
    mains = {(e["pid"], e["tid"]) for e in events if e.get("args", {}).get("name") == "CrRendererMain"}
    return [
        (e.get("tdur", 0) / 1000, e["dur"] / 1000)
        for e in events
        if e.get("ph") == "X" and e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in mains
    ]


def _show_scroll(browser: Browser, url: str) -> None:
    """Scroll through the list of all tasks, and show how long the page's work held a frame up."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url + "/#/tasks?status=completed")
    page.wait_for_selector("table.rows")
    rows = steps = 0
    with _traced(browser) as events:
        while rows < 40_000 and steps < 2000:
            page.mouse.wheel(0, 20_000)
            page.wait_for_timeout(20)
            rows = page.evaluate("Math.round(document.querySelector('table.rows').offsetHeight / 38)")
            steps += 1
    page.close()
    tasks = _work(events)
    busy, wall = max(tasks)[0], max(dur for _, dur in tasks)
    print(
        f"scroll of {rows} tasks in {steps} steps: the longest piece of work took {busy:.0f} ms of the processor, "
        f"{wall:.0f} ms by the clock; above 50 ms: {sum(tdur > 50 for tdur, _ in tasks)} and "
        f"{sum(dur > 50 for _, dur in tasks)} of {len(tasks)}; load {os.getloadavg()[0]:.1f}"
    )


def _processor(pid: int) -> float:
    """Return the seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _page(session: aiohttp.ClientSession, url: str, view: str, updates: list[int]) -> None:
    """Do what an open page does: follow the stream, and read its view again at the pace of parts.js."""
    async with session.get(url + "/admin/events") as stream:
        next_at = 0.0
        async for line in stream.content:
            updates[0] += line.startswith(b"data")
            now = time.monotonic()
            if line.startswith(b"data") and now >= next_at:
                next_at = now + 2.5
                async with session.get(url + view) as answer:
                    await answer.read()


async def _send(session: aiohttp.ClientSession, url: str, rate: int, seconds: float) -> float:
    """Send messages at this rate from several connections, and return the rate that came about."""
    sent, began = 0, time.monotonic()

    async def one(first: int) -> None:
        nonlocal sent
        n = first
        while (now := time.monotonic() - began) < seconds:
            if (early := n / rate - now) > 0:
                await asyncio.sleep(early)
            body = {"from_agent": f"agent-{n % 2990:04}", "to_agent": f"agent-{n * 7 % 2990:04}", "content": "news"}
            async with session.post(url + "/send", json=body) as answer:
                sent += answer.status == 200
            n += 16

    await asyncio.gather(*(one(first) for first in range(16)))
    return sent / (time.monotonic() - began)


async def _show_cost(made: Apart, pages: int, rate: int, seconds: float = 15) -> None:
    """Compare the relay's processor time for a message, without pages and with them."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        views = ("/admin/agents?limit=60", "/admin/tasks?limit=60", "/admin/talks?limit=1000", "/admin/load")
        updates, open_pages = [0], []
        for count in (0, pages):
            open_pages = [
                asyncio.create_task(_page(session, made.url, views[n % len(views)], updates)) for n in range(count)
            ]
            await asyncio.sleep(1)
            before, updates[0] = _processor(made.pid), 0
            came = await _send(session, made.url, rate, seconds)
            used = (_processor(made.pid) - before) / seconds
            print(
                f"{count} pages at {came:.0f} messages a second: the relay uses {100 * used:.1f} % of a processor; "
                f"{updates[0] / seconds / max(count, 1):.1f} updates a second to a page; load {os.getloadavg()[0]:.1f}"
            )
        for task in open_pages:
            task.cancel()
        await asyncio.gather(*open_pages, return_exceptions=True)


def main() -> None:
    """Measure what the arguments name."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    with crowd_apart(asked.agents, asked.tasks) as made, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM))
        _show_first_view(browser, made.url, asked.times, verbose=asked.verbose)
        _show_scroll(browser, made.url)
        browser.close()
    with crowd_apart(asked.agents, asked.tasks) as made:
        asyncio.run(_show_cost(made, asked.pages, asked.rate))


if __name__ == "__main__":
    main()
