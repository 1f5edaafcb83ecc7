"""A page in a browser can send requests anywhere; it may use this relay only if it is one of ours."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.system.raw import Answer, exchange, request
from tests.tables import each

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


@each(
    "origin", ["https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "null", "file://", "", "https://{own}"]
)
@each(("method", "path"), [("GET", "/"), ("GET", "/poll/a"), ("POST", "/register"), ("GET", "/healthz")])
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


@each("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
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


@each("host", ["evil.example", "evil.example:9077", "127.0.0.1.evil.example", "localhost.evil.example"])
async def test_a_rebound_host_is_refused(relay: Running, host: str) -> None:
    is_refused(await ask(relay, "GET", "/discover", Host=host), 403, "not_allowed")
    is_refused(await ask(relay, "GET", "/", Host=host, Origin=f"http://{host}"), 403, "not_allowed")


@each(
    "host",
    ["localhost", "LOCALHOST:9077", "127.0.0.1:1", "[::1]:9077", "192.168.1.5", "app.localhost", socket.gethostname()],
)
async def test_addresses_and_our_own_names_are_served(relay: Running, host: str) -> None:
    assert (await ask(relay, "GET", "/", Host=host)).status == 200


@each("host", ["", "[", "[::1", "a b", "@", "x@evil.example", "%00", "1.2.3.4.5"])
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


@each("mode", ["no-cors", "navigate"])
async def test_what_a_page_of_another_site_fetches_without_origin_is_refused(relay: Running, mode: str) -> None:
    """An image or a link needs no Origin, and a GET may already empty a mailbox."""
    await relay.register("a", agent_id="a")
    headers: dict[str, Any] = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": mode}
    is_refused(await ask(relay, "GET", "/poll/a", Host=own(relay), **headers), 403, "not_allowed")
    for site in ("none", "same-origin"):
        assert (await ask(relay, "GET", "/poll/a", Host=own(relay), Sec_Fetch_Site=site)).status == 200


async def test_only_our_own_pages_fetch_without_an_origin(relay: Running) -> None:
    """A page at another port of the same machine is of the same site, and not ours."""
    await relay.register("a", agent_id="a")
    for site, status in (("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("", 403)):
        for path in ("/poll/a", "/", "/healthz"):
            answer = await ask(relay, "GET", path, Host=own(relay), Sec_Fetch_Site=site)
            assert answer.status == status, (site, path)


# The headers that browsers send with an image at an address of plain HTTP, where there is no Sec-Fetch-Site.
LOOKS = (
    {"User_Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"},
    {"Accept": "image/avif,image/webp,*/*;q=0.8"},
    {"Accept": "text/html,application/xhtml+xml"},
    {"Referer": "http://192.168.1.9/"},
    {"Upgrade_Insecure_Requests": "1"},
    {"Sec_CH_UA": '"Chromium"'},
    {"Sec_Purpose": "prefetch"},
    {"Authorization": "Basic eDp5", "User_Agent": "Mozilla/5.0"},
)
PROOFS = (
    {"X_Requested_With": "1"},
    {"Authorization": "Bearer whatever"},
    {"ClawLink_Agent": "a"},
    {"ClawLink_Agent_Key": "k"},
    {"Sec_Fetch_Site": "same-origin"},
)


async def test_an_image_empties_no_mailbox(relay: Running) -> None:
    """Nor hides it under a lease, nor opens a stream, nor burns a file for one reader."""
    await relay.register("a", agent_id="a")
    put = {"ClawLink_Agent": "a", "ClawLink_Burn_After_Read": "1"}
    assert (await ask(relay, "PUT", "/blobs/k", b"secret", **put)).status == 201
    assert (await relay.post("/send", {"from_agent": "a", "to_agent": "a", "content": "c"}))[0] == 200
    for looks in LOOKS:
        for path in ("/poll/a", "/poll/a?lease=3600", "/poll/a?wait=1", "/events/a", "/ws/a", "/blobs/k", "/files/k"):
            answer = await ask(relay, "GET", path, None, **looks)
            is_refused(answer, 403, "not_allowed")
            assert "X-Requested-With: 1" in answer.json["error"], (looks, path)
        assert (await ask(relay, "GET", "/discover", None, **looks)).status == 200, looks
        for proof in PROOFS:
            assert (await ask(relay, "GET", "/poll/a?lease=5", None, **{**looks, **proof})).status == 200, (
                looks,
                proof,
            )
    for own_page in ({"Origin": relay.url}, {}):
        answer = await ask(relay, "GET", "/poll/a", None, **{"Host": own(relay), **own_page})
        assert answer.status == 200, own_page


async def test_who_knows_the_token_is_no_foreign_page(serve: Serve) -> None:
    relay = await serve(token="t")
    headers = {"Authorization": "Bearer t", "User_Agent": "Mozilla/5.0"}
    await relay.post("/register", {"agent_id": "a"}, headers={"Authorization": "Bearer t"})
    assert (await ask(relay, "GET", "/poll/a", None, **headers)).status == 200


# -- CORS --------------------------------------------------------------------------------------------------------------

PAGE = "https://app.example"


async def test_a_preflight_of_an_allowed_page_needs_no_token(serve: Serve) -> None:
    relay = await serve(token="t", allow_origins=(PAGE,))
    asked = {
        "Origin": PAGE,
        "Access_Control_Request_Method": "PATCH",
        "Access_Control_Request_Headers": "authorization,tus-resumable, upload-offset",
        "Access_Control_Request_Private_Network": "true",
    }
    for path, methods in (
        ("/uploads/x", "DELETE, HEAD, PATCH, POST"),
        ("/uploads", "OPTIONS, POST"),
        ("/blobs/a%2Fb", "DELETE, GET, HEAD, PUT"),
        ("/poll/a", "GET, POST"),
        ("/nowhere", "GET, POST"),
    ):
        answer = await ask(relay, "OPTIONS", path, None, **asked)
        assert (answer.status, answer.body) == (204, b""), path
        told = {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}
        assert told.pop("access-control-expose-headers"), path
        assert told == {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": methods,
            "access-control-allow-headers": "authorization,tus-resumable, upload-offset",
            "access-control-max-age": "600",
            "access-control-allow-private-network": "true",
        }, path
        assert answer.headers["vary"] == "Origin", path
    for wrong in ("a b", "x\x7f", ",", "é"):
        answer = await ask(relay, "OPTIONS", "/uploads", None, **{**asked, "Access_Control_Request_Headers": wrong})
        assert answer.status == 400, wrong
    answer = await ask(relay, "OPTIONS", "/uploads", None, **{**asked, "Origin": "https://app.example.evil"})
    is_refused(answer, 403, "not_allowed")


async def test_every_reply_to_an_allowed_page_may_be_read_by_it(serve: Serve) -> None:
    """A refusal too, and what aiohttp's own responses carry; and caches are told that replies differ."""
    relay = await serve(token="t", allow_origins=(PAGE,))
    await relay.post("/register", {"agent_id": "a"}, headers={"Authorization": "Bearer t"})
    bearer = {"Authorization": "Bearer t"}
    agent = {**bearer, "ClawLink_Agent": "a"}
    tus = {**agent, "Tus_Resumable": "1.0.0"}
    cases: list[tuple[int, str, str, bytes | None, dict[str, str]]] = [
        (200, "GET", "/healthz", None, {}),
        (401, "GET", "/discover", None, {}),
        (200, "GET", "/discover", None, bearer),
        (404, "GET", "/nowhere", None, bearer),
        (405, "PATCH", "/discover", None, bearer),
        (415, "POST", "/heartbeat", b'{"agent_id":"a"}', bearer),
        (200, "POST", "/heartbeat", b'{"agent_id":"a"}', {**bearer, **JSON}),
        (201, "PUT", "/blobs/k", bytes(300_000), {**agent, "Content_Type": "image/png"}),
        (200, "HEAD", "/blobs/k", None, bearer),
        (304, "GET", "/blobs/k", None, {**bearer, "If_None_Match": "*"}),
        (201, "POST", "/uploads", None, {**tus, "Upload_Length": "2", "Upload_Metadata": "key aGk="}),
        (204, "OPTIONS", "/uploads", None, {}),
        (200, "DELETE", "/blobs/k", None, agent),
        (400, "GET", "/ws/a", None, bearer),
    ]
    for status, method, path, body, headers in cases:
        answer = await ask(relay, method, path, body, **{"Origin": PAGE, **headers})
        assert answer.status == status, (method, path, answer)
        assert answer.headers["access-control-allow-origin"] == PAGE, (method, path)
        assert answer.headers["vary"] == "Origin", (method, path)
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        own_or_safe = {"etag", "location", "retry-after"} | {n for n in answer.headers if n.startswith(_OURS)}
        assert own_or_safe <= exposed, (method, path)
        answer = await ask(relay, method, path, body, **headers)
        assert "access-control-allow-origin" not in answer.headers, (method, path)
        assert answer.headers["vary"] == "Origin", (method, path)


_OURS = ("clawlink-", "tus-", "upload-")


async def test_a_page_may_upload_with_its_real_content_type(serve: Serve) -> None:
    relay = await serve(allow_origins=(PAGE,))
    await relay.register("a", agent_id="a")
    tus = {"Origin": PAGE, "Tus_Resumable": "1.0.0", "ClawLink_Agent": "a"}
    offset = {"Content_Type": "application/offset+octet-stream"}
    begun = {"Upload_Length": "4", "Upload_Metadata": "key aGk="}
    answer = await ask(relay, "POST", "/uploads", b"on", **{**tus, **offset, **begun})
    assert answer.status == 201
    answer = await ask(relay, "PATCH", answer.headers["location"], b"ly", **{**tus, **offset, "Upload_Offset": "2"})
    assert (answer.status, answer.headers["clawlink-version"]) == (204, "1")
