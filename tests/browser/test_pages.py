"""Pages in a real Chromium: an allowed one can do all an agent does, and a foreign one can take nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import requests

from clawlink.config import ServerConfig
from tests.browser.conftest import LAN
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Page

# An image, a script, a link and a fetch that asks nobody; each settles whatever the relay answers.
TAKE = """
async urls => {
    for (const url of urls) {
        for (const tag of ["img", "script"]) {
            await new Promise(done => {
                const element = document.createElement(tag);
                element.onload = element.onerror = done;
                element.src = url;
                document.body.append(element);
            });
        }
        await fetch(url, {mode: "no-cors", headers: {Accept: "*/*"}, referrerPolicy: "no-referrer"}).catch(() => {});
    }
}
"""
UPLOAD = """
async ([relay, token]) => {
    const bytes = new Uint8Array(300000).fill(65);
    return await new Promise((resolve, reject) => {
        const upload = new tus.Upload(new Blob([bytes]), {
            endpoint: relay + "/uploads",
            chunkSize: 100000,
            headers: {Authorization: "Bearer " + token, "ClawLink-Agent": "a"},
            metadata: {filename: "from-a-page.txt", filetype: "text/plain"},
            storeFingerprintForResuming: false,
            retryDelays: null,
            onError: error => reject(String(error)),
            onSuccess: () => resolve(upload.url),
        });
        upload.start();
    });
}
"""
USE = """
async ([relay, token]) => {
    const Authorization = "Bearer " + token;
    const ask = (path, options = {}) =>
        fetch(relay + path, {...options, headers: {Authorization, "ClawLink-Agent": "a", ...options.headers}});
    const found = {};
    found.refused = (await fetch(relay + "/discover")).status;
    const put = await ask("/blobs/k", {method: "PUT", body: "one", headers: {"Content-Type": "image/png"}});
    found.etag = put.headers.get("ETag");
    const stale = await ask("/blobs/k", {method: "PUT", body: "two", headers: {"If-Match": '"7"'}});
    found.stale = [stale.status, (await stale.json()).current];
    const part = await ask("/blobs/k", {headers: {Range: "bytes=1-1"}});
    found.part = [part.status, part.headers.get("Content-Range"), await part.text()];
    found.gone = (await ask("/blobs/k", {method: "DELETE"})).status;
    const json = {"Content-Type": "application/json"};
    const made = await ask("/tickets", {method: "POST", headers: json, body: JSON.stringify({agent_id: "a"})});
    const {url} = await made.json();
    found.secret = url.includes(token);
    const source = new EventSource(relay + url);
    const came = new Promise((resolve, reject) => {
        source.addEventListener("message", event => resolve(JSON.parse(event.data).content));
        source.onerror = () => reject("the stream failed");
    });
    const sent = {from_agent: "a", to_agent: "a", content: "from a page"};
    found.sent = (await ask("/send", {method: "POST", headers: json, body: JSON.stringify(sent)})).status;
    found.event = await came;
    source.close();
    found.again = await new Promise(resolve => {
        const again = new EventSource(relay + url);
        again.onopen = () => resolve("opened");
        again.onerror = () => { again.close(); resolve("refused"); };
    });
    return found;
}
"""


def post(url: str, path: str, body: dict[str, Any], token: str | None = None) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    reply = requests.post(url + path, json=body, headers=headers, timeout=PATIENCE)
    reply.raise_for_status()
    return reply.json()


def refused(url: str) -> int:
    """Return how many requests the relay has refused."""
    found = re.search(
        r"^clawlink_refused_total (\d+)$", requests.get(url + "/metrics", timeout=PATIENCE).text, re.MULTILINE
    )
    assert found is not None
    return int(found[1])


def test_a_foreign_page_takes_nothing(page: Page, pages: int) -> None:
    """Neither from another port of this machine, whose site is the same, nor at a LAN address of plain HTTP."""
    with relay_in_thread(ServerConfig(port=0, allow_hosts=(LAN,))) as url:
        port = url.rpartition(":")[2]
        post(url, "/register", {"agent_id": "a"})
        put = {"ClawLink-Agent": "a", "ClawLink-Burn-After-Read": "1"}
        requests.put(url + "/blobs/k", b"secret", headers=put, timeout=PATIENCE).raise_for_status()
        post(url, "/send", {"from_agent": "a", "to_agent": "a", "content": "c"})
        for at, relay in ((LAN, LAN), ("127.0.0.1", "127.0.0.1"), (LAN, "127.0.0.1"), ("127.0.0.1", "localhost")):
            before = refused(url)
            page.goto(f"http://{at}:{pages}/")
            base = f"http://{relay}:{port}"
            page.evaluate(TAKE, [f"{base}/poll/a", f"{base}/poll/a?lease=600", f"{base}/blobs/k", f"{base}/events/a"])
            assert refused(url) - before == 12, (at, relay)
        claimed = requests.get(url + "/poll/a?lease=5", timeout=PATIENCE).json()
        assert ([d["attempt"] for d in claimed["deliveries"]], claimed["messages"][0]["content"]) == ([1], "c")
        assert requests.get(url + "/blobs/k", timeout=PATIENCE).content == b"secret"


def test_an_allowed_page_does_all_that_an_agent_does(page: Page, pages: int) -> None:
    origin = f"http://{LAN}:{pages}"
    config = ServerConfig(port=0, token="t0ken", allow_origins=(origin,), allow_hosts=(LAN,))
    with relay_in_thread(config) as url:
        relay = f"http://{LAN}:{url.rpartition(':')[2]}"
        post(url, "/register", {"agent_id": "a"}, token="t0ken")
        page.goto(origin + "/")
        assert page.evaluate(USE, [relay, "t0ken"]) == {
            "refused": 401,
            "etag": '"1"',
            "stale": [412, 1],
            "part": [206, "bytes 1-1/3", "n"],
            "gone": 200,
            "secret": False,
            "sent": 200,
            "event": "from a page",
            "again": "refused",
        }
        where = page.evaluate(UPLOAD, [relay, "t0ken"])
        assert where.startswith(relay + "/uploads/")
        bearer = {"Authorization": "Bearer t0ken"}
        got = requests.get(url + "/blobs/from-a-page.txt", headers=bearer, timeout=PATIENCE)
        assert (got.content, got.headers["Content-Type"]) == (b"A" * 300_000, "text/plain")
