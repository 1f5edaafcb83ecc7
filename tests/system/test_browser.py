"""A page in a browser can send requests anywhere; it may use this relay only if it is one of ours."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.system.raw import Answer, exchange, request

BODY = b'{"name":"page"}'
JSON = {"Content_Type": "application/json"}


@pytest.fixture
async def relay(serve: Serve) -> Running:
    return await serve()


async def ask(relay: Running, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    return await exchange(relay.url, request(method, path, body, **headers))


def is_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"].startswith("application/json")


def own(relay: Running) -> str:
    return relay.url.removeprefix("http://")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "null", "file://", "", "https://{own}"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/poll/a"), ("POST", "/register"), ("GET", "/healthz")]
)
async def test_a_foreign_origin_is_refused(relay: Running, origin: str, method: str, path: str) -> None:
    body = BODY if method == "POST" else None
    origin = origin.format(own=own(relay))
    is_refused(await ask(relay, method, path, body, Host=own(relay), Origin=origin, **JSON), 403, "not_allowed")
    assert (await relay.get("/discover"))[1]["count"] == 0


async def test_the_refusal_gives_the_page_no_leave_to_read_it(relay: Running) -> None:
    answer = await ask(relay, "GET", "/discover", Host=own(relay), Origin="https://evil.example")
    assert not any(name.startswith("access-control-") for name in answer.headers)


async def test_a_preflight_is_refused(relay: Running) -> None:
    answer = await ask(
        relay,
        "OPTIONS",
        "/register",
        Host=own(relay),
        Origin="https://evil.example",
        Access_Control_Request_Method="POST",
    )
    is_refused(answer, 403, "not_allowed")


async def test_our_own_origin_is_served(relay: Running) -> None:
    answer = await ask(relay, "POST", "/register", BODY, Host=own(relay), Origin=relay.url, **JSON)
    assert answer.status == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_a_page_that_posts_anything_but_json_is_415(relay: Running, content_type: str | None) -> None:
    headers: dict[str, Any] = {} if content_type is None else {"Content_Type": content_type}
    answer = await ask(relay, "POST", "/register", BODY, Host=own(relay), Origin=relay.url, **headers)
    is_refused(answer, 415, "unsupported_media_type")
    assert (await relay.get("/discover"))[1]["count"] == 0


async def test_without_origin_any_content_type_will_do(relay: Running) -> None:
    assert (await ask(relay, "POST", "/register", BODY, Content_Type="text/plain")).status == 200


async def test_an_allowed_origin_is_served(serve: Serve) -> None:
    relay = await serve(allow_origins=("https://Console.example/",))
    answer = await ask(relay, "POST", "/register", BODY, Origin="https://console.example", **JSON)
    assert answer.status == 200
    is_refused(await ask(relay, "GET", "/", Origin="https://console.example.evil.example"), 403, "not_allowed")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9077", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_a_rebound_host_is_refused(relay: Running, host: str) -> None:
    is_refused(await ask(relay, "GET", "/discover", Host=host), 403, "not_allowed")
    is_refused(await ask(relay, "GET", "/", Host=host, Origin=f"http://{host}"), 403, "not_allowed")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9077", "127.0.0.1:1", "[::1]:9077", "192.168.1.5", "app.localhost", socket.gethostname()],
)
async def test_addresses_and_our_own_names_are_served(relay: Running, host: str) -> None:
    assert (await ask(relay, "GET", "/", Host=host)).status == 200


@pytest.mark.parametrize("host", ["", "[", "[::1", "a b", "@", "x@evil.example", "%00", "1.2.3.4.5"])
async def test_a_host_that_is_none_is_refused_and_breaks_nothing(relay: Running, host: str) -> None:
    assert (await ask(relay, "GET", "/", Host=host)).status in (400, 403)
    assert (await relay.get("/"))[0] == 200


async def test_an_allowed_host_is_served(serve: Serve) -> None:
    relay = await serve(allow_hosts=("Relay.example",))
    assert (await ask(relay, "GET", "/", Host="relay.example:9077")).status == 200
    is_refused(await ask(relay, "GET", "/", Host="x.relay.example"), 403, "not_allowed")


async def test_many_different_hosts_do_not_make_the_relay_forget_how_to_tell(relay: Running) -> None:
    for n in range(1100):
        assert (await relay.get("/healthz", headers={"Host": f"127.0.0.1:{n}"}))[0] == 200
    is_refused(await ask(relay, "GET", "/", Host="evil.example"), 403, "not_allowed")


@pytest.mark.parametrize("mode", ["no-cors", "navigate"])
async def test_what_a_page_of_another_site_fetches_without_origin_is_refused(relay: Running, mode: str) -> None:
    """An image or a link needs no Origin, and a GET may already empty a mailbox."""
    await relay.register("a", agent_id="a")
    headers: dict[str, Any] = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": mode}
    is_refused(await ask(relay, "GET", "/poll/a", Host=own(relay), **headers), 403, "not_allowed")
    for site in ("none", "same-origin"):
        assert (await ask(relay, "GET", "/poll/a", Host=own(relay), Sec_Fetch_Site=site)).status == 200
