"""Measure the page in Chromium: ``python -m tests.page.measure``. It prints one line a figure.

The first view is drawn when Chromium has painted the overview with its numbers: its first and its largest contentful
paint, from the moment when the response of ``/`` begins. The plot follows. The bytes are those of all responses, the
plot included.

A new window keeps Chromium busy with its own pages for a while, and a tool in a page takes time of it. So each page is
opened a second after its window, and no tool is in it until it is drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.browser.programs import chromium
from tests.page.crowd import Apart, crowd_apart

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_QUIET_SECONDS = 1.0
_TIMES = """new Promise((done) => {
    const [page] = performance.getEntriesByType("navigation");
    const files = performance.getEntriesByType("resource");
    const since = (at) => Math.round(at - page.responseStart);
    new PerformanceObserver((list) => {
        const [first] = performance.getEntriesByName("first-contentful-paint");
        const largest = list.getEntries().pop();
        done({
            drawn: since(Math.max(first.startTime, largest.startTime)),
            waited: Math.round(page.responseStart - page.requestStart),
            shown: document.querySelectorAll("main .tile b").length,
            bytes: [page, ...files].reduce((all, file) => all + file.transferSize, 0),
            files: files.map((f) => [f.name.split("/").pop(), since(f.startTime), since(f.responseEnd)]),
        });
    }).observe({ type: "largest-contentful-paint", buffered: true });
})"""


class _Chromium:
    """Chromium by its own protocol. A page is left alone while it is drawn: no tool is in it, as with a person's."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[Any]) -> None:
        self._socket = socket
        self._asked = 0

    async def ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method, and return its result."""
        self._asked += 1
        call = {"id": self._asked, "method": method, "params": parameters}
        await self._socket.send_json(call if session is None else {**call, "sessionId": session})
        while True:
            said = await self._socket.receive_json()
            if said.get("id") == self._asked:
                return said["result"]

    async def first_view(self, url: str) -> dict[str, Any]:
        """Open the page with a cold cache, and return its times in ms and the bytes on the wire."""
        context = (await self.ask("Target.createBrowserContext"))["browserContextId"]
        size: Any = {"width": 1280, "height": 800}
        target = (await self.ask("Target.createTarget", url="about:blank", browserContextId=context, **size))[
            "targetId"
        ]
        await asyncio.sleep(_QUIET_SECONDS)
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        await self.ask("Page.navigate", session, url=url + "/")
        await self.ask("Target.detachFromTarget", sessionId=session)
        await asyncio.sleep(_QUIET_SECONDS)
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        wanted: Any = {"expression": _TIMES, "awaitPromise": True, "returnByValue": True}
        found: dict[str, Any] = (await self.ask("Runtime.evaluate", session, **wanted))["result"]["value"]
        await self.ask("Target.disposeBrowserContext", browserContextId=context)
        return found


@contextmanager
def _chromium() -> Iterator[str]:
    """Run Chromium, and give the address of its protocol, which it tells in one of its first lines."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        flags = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0"]
        command = [str(chromium(whole=True)), *flags, f"--user-data-dir={folder}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            yield next(line.split()[-1] for line in process.stderr if "listening on ws://" in line)


async def _show_first_view(url: str, times: int, *, verbose: bool) -> None:
    with _chromium() as at:
        async with aiohttp.ClientSession() as http, http.ws_connect(at) as socket:
            browser = _Chromium(socket)
            found = [await browser.first_view(url) for _ in range(times)]
            await browser.ask("Browser.close")
    for one in found if verbose else ():
        print(one)
    drawn = sorted(one["drawn"] for one in found)
    print(
        f"first view: {drawn[0]:.0f} ms at best, {statistics.median(drawn):.0f} ms at the median, "
        f"{drawn[-1]:.0f} ms at worst of {times}, after {statistics.median(one['waited'] for one in found):.0f} ms for "
        f"the response; {found[0]['shown']} numbers; {found[0]['bytes'] / 1000:.0f} KB; load {os.getloadavg()[0]:.1f}"
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


def _show_scroll(browser: Browser, url: str, most: int) -> None:
    """Scroll through the list of all completed tasks, and show how long the page's work held a frame up."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url + "/#/tasks?status=completed")
    page.wait_for_selector("table.rows")
    rows = steps = 0
    with _traced(browser) as events:
        while rows < most and steps < 2500:
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
                async with session.get(url + view, headers={"Cache-Control": "max-age=1"}) as answer:
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
        views = ("/admin/agents?limit=60", "/admin/tasks?limit=60", "/admin/talks?limit=300", "/admin/load")
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
    with crowd_apart(asked.agents, asked.tasks) as made:
        asyncio.run(_show_first_view(made.url, asked.times, verbose=asked.verbose))
    # Of 100 tasks 80 are completed, and stand in one list.
    with crowd_apart(asked.agents, asked.tasks * 5 // 4) as made, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium(whole=True)))
        _show_scroll(browser, made.url, asked.tasks)
        browser.close()
    with crowd_apart(asked.agents, asked.tasks) as made:
        asyncio.run(_show_cost(made, asked.pages, asked.rate))


if __name__ == "__main__":
    main()
