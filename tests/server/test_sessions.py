"""People in a browser: one-time links, sessions, and the writes that no foreign page can forge."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from clawlink.errors import NotAllowed, NotAuthenticated, RelayFull
from clawlink.protocol.paths import ENDPOINTS
from clawlink.server import sessions as module
from clawlink.server.sessions import CSRF_HEADER, LINK_SECONDS, Sessions, require_write
from tests.conftest import Running, Serve
from tests.server.asks import ok, refused

BOSS = {"Authorization": "Bearer boss"}
WRITES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/kick", {"agent": "a"}),
    ("/admin/redrive", {"agent": "a"}),
    ("/admin/stop", {"stopped": True}),
    ("/admin/delegate", {"to_agent": "a", "task": "t"}),
    ("/admin/send", {"to_agent": "a", "content": "c"}),
    ("/admin/broadcast", {"content": "c"}),
    ("/admin/tasks/t/answer", {"content": "c"}),
    ("/admin/tasks/t/cancel", {}),
    ("/admin/tasks/t/respond", {}),
    ("/admin/redrive-all", {}),
    ("/admin/unlock", {"file_key": "k"}),
    ("/admin/rename", {"agent": "a", "name": "n"}),
    ("/admin/inbox", {"message_ids": ["m"]}),
    ("/admin/links", {}),
    ("/admin/logout", {"all": True}),
)


def test_the_list_has_every_write_of_the_operator() -> None:
    writes = {e.path.replace("{task_id}", "t") for e in ENDPOINTS if e.admin and e.method != "GET"}
    assert writes == {path for path, _ in WRITES}


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_a_link_works_once_and_within_its_time() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    code = sessions.link(read_only=True, seconds=60)
    for wrong in ("", code[:-1], code + "x"):
        with pytest.raises(NotAuthenticated, match="clawlink open"):
            sessions.use(wrong)
    cookie, session = sessions.use(code)
    assert (session.read_only, session.ends_at) == (True, 60)
    with pytest.raises(NotAuthenticated):
        sessions.use(code)
    late = sessions.link(read_only=False, seconds=60)
    now += LINK_SECONDS
    with pytest.raises(NotAuthenticated):
        sessions.use(late)
    assert sessions.find(cookie) is None


def test_a_session_ends_with_its_time_by_itself_or_with_all_others() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    (first, _), (second, _), (third, _) = (sessions.open(seconds=60) for _ in range(3))
    sessions.end(first)
    assert [sessions.find(c) is None for c in (first, second, third, "", None)] == [True, False, False, True, True]
    code = sessions.link(read_only=False, seconds=60)
    assert sessions.end_all() == 2
    assert sessions.find(second) is None
    with pytest.raises(NotAuthenticated):
        sessions.use(code)
    sessions.open(seconds=60)
    now = 60.0
    assert len(sessions) == 0


def test_a_write_needs_the_token_of_its_session_and_more_than_the_right_to_read() -> None:
    sessions = Sessions(lambda: 0.0)
    _, full = sessions.open()
    _, other = sessions.open()
    _, reads = sessions.open(read_only=True)
    require_write(full, full.csrf)
    for session, csrf in ((full, None), (full, ""), (full, other.csrf), (full, "\udcff"), (reads, reads.csrf)):
        with pytest.raises(NotAllowed):
            require_write(session, csrf)


def test_links_and_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINKS", 1)
    monkeypatch.setattr(module, "MAX_SESSIONS", 1)
    sessions = Sessions(lambda: 0.0)
    code = sessions.link(read_only=False, seconds=60)
    with pytest.raises(RelayFull):
        sessions.link(read_only=False, seconds=60)
    cookie, _ = sessions.open()
    with pytest.raises(RelayFull):
        sessions.use(code)
    sessions.end(cookie)
    sessions.use(code)  # a refusal has not used it up


# -- over HTTP ---------------------------------------------------------------------------------------------------------


async def guarded(serve: Serve, **options: Any) -> Running:
    relay = await serve(token="t", admin_token="boss", **options)
    await ok(relay.post("/register", {"name": "Ann", "agent_id": "a"}, headers={"Authorization": "Bearer t"}))
    return relay


def code_of(made: dict[str, Any]) -> str:
    """Return the code of a link, behind the ``#`` of its path."""
    start, _, code = made["path"].partition("#code=")
    assert start == "/"
    assert len(code) >= 32
    return str(code)


async def log_in(relay: Running, **body: Any) -> tuple[dict[str, str], dict[str, Any], str]:
    """Open a session. Return the header of its cookie, what the reply tells, and the cookie as it was set."""
    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(cookie_jar=jar) as browser,
        browser.post(relay.url + "/admin/sessions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        given = response.headers["Set-Cookie"]
        return {"Cookie": given.partition(";")[0]}, await response.json(), given


async def linked(relay: Running, **options: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the header of the cookie of a new session, and what its reply tells."""
    made = await ok(relay.post("/admin/links", options, headers=BOSS))
    cookie, told, _ = await log_in(relay, code=code_of(made))
    return cookie, told


async def test_a_link_opens_a_session_that_reads_and_writes(serve: Serve) -> None:
    relay = await guarded(serve)
    made = await ok(relay.post("/admin/links", {}, headers=BOSS))
    cookie, told, given = await log_in(relay, code=code_of(made))
    for flag in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43"):
        assert flag in given, given
    assert "Secure" not in given
    await refused(relay.post("/admin/sessions", {"code": code_of(made)}), 401, "not_authenticated")
    assert (await ok(relay.get("/admin/overview", headers=cookie)))["agents_online"] == 1
    seen = await ok(relay.get("/admin/session", headers=cookie))
    assert seen == told | {"ends_at": seen["ends_at"]}
    assert not told["read_only"]
    await refused(relay.post("/kick", {"agent": "a"}, headers=cookie), 403, "not_allowed")
    assert (await ok(relay.get("/admin/overview", headers=cookie)))["agents_online"] == 1
    await ok(relay.post("/kick", {"agent": "a"}, headers=cookie | {CSRF_HEADER: told["csrf"]}))
    (entry, link) = (await ok(relay.get("/admin/audit", headers=cookie)))["entries"]
    assert (entry["act"], entry["by"], link["act"], link["by"]) == ("kick", told["right"], "make_link", "token")


async def test_a_session_gives_the_right_of_the_operator_alone(serve: Serve) -> None:
    relay = await guarded(serve)
    cookie, told = await linked(relay)
    headers = cookie | {CSRF_HEADER: told["csrf"]}
    for path in ("/discover", "/tasks?agent_id=a", "/metrics"):
        await refused(relay.get(path, headers=headers), 401, "not_authenticated")


async def test_a_read_only_session_is_refused_each_write(serve: Serve) -> None:
    relay = await guarded(serve)
    cookie, told = await linked(relay, read_only=True, seconds=600)
    assert told["read_only"]
    headers = cookie | {CSRF_HEADER: told["csrf"]}
    for path, body in WRITES:
        await refused(relay.post(path, body, headers=headers), 403, "not_allowed")
    assert (await ok(relay.get("/admin/overview", headers=headers)))["agents_online"] == 1
    await ok(relay.post("/admin/logout", {}, headers=headers))
    await refused(relay.get("/admin/overview", headers=cookie), 401, "not_authenticated")


async def test_a_foreign_page_gets_nothing_with_the_cookie_of_a_session(serve: Serve) -> None:
    relay = await guarded(serve, allow_origins=("https://page.example",))
    cookie, told = await linked(relay)
    full = cookie | {CSRF_HEADER: told["csrf"]}
    for foreign in (
        {"Origin": "https://evil.example"},
        {"Origin": "https://page.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ):
        for path in ("/admin/overview", "/admin/session"):
            status, _ = await relay.get(path, headers=full | foreign)
            assert status in (401, 403), (foreign, path)
        for path, body in WRITES:
            status, _ = await relay.post(path, body, headers=full | foreign)
            assert status in (401, 403), (foreign, path)
    own = {"Origin": relay.url, "Sec-Fetch-Site": "same-origin"}
    await ok(relay.get("/admin/overview", headers=full | own))


async def test_no_cookie_from_outside_becomes_a_session(serve: Serve) -> None:
    """A foreign page may have set a cookie of this name before: signing in gives another, and the old one nothing."""
    relay = await guarded(serve)
    first, _, given = await log_in(relay, admin_token="boss")
    name = given.partition("=")[0]
    for planted in (f"{name}=planted", first["Cookie"]):
        async with relay.session.post(
            relay.url + "/admin/sessions", json={"admin_token": "boss"}, headers={"Cookie": planted}
        ) as response:
            assert response.status == 200
            fresh = response.headers["Set-Cookie"].partition(";")[0]
        assert fresh not in (planted, first["Cookie"])
        await ok(relay.get("/admin/overview", headers={"Cookie": fresh}))
    foreign = {"Cookie": f"{name}=planted"}
    await refused(relay.get("/admin/overview", headers=foreign), 401, "not_authenticated")


async def test_the_admin_token_signs_in_and_no_other_does(serve: Serve) -> None:
    relay = await guarded(serve)
    _, told, _ = await log_in(relay, admin_token="boss")
    assert not told["read_only"]
    for body in ({"admin_token": "t"}, {"admin_token": ""}, {"code": ""}, {}):
        await refused(relay.post("/admin/sessions", body), 401, "not_authenticated")


async def test_all_sessions_end_at_once(serve: Serve) -> None:
    relay = await guarded(serve)
    cookies = [(await linked(relay))[0] for _ in range(2)]
    assert (await ok(relay.post("/admin/logout", {"all": True}, headers=BOSS)))["ended"] == 2
    for cookie in cookies:
        await refused(relay.get("/admin/overview", headers=cookie), 401, "not_authenticated")


async def test_a_page_of_this_machine_looks_and_changes_nothing_without_a_session(serve: Serve) -> None:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    page = {"Origin": relay.url, "Sec-Fetch-Site": "same-origin"}
    seen = await ok(relay.get("/admin/session", headers=page))
    assert (seen["right"], seen["read_only"], seen["csrf"]) == ("page", True, None)
    await ok(relay.get("/admin/overview", headers=page))
    for path, body in WRITES:
        await refused(relay.post(path, body, headers=page), 403, "not_allowed")
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"X-Forwarded-For": "192.0.2.1"}, {"Host": "evil.example"}):
        looks = {"Sec-Fetch-Site": "same-origin"} | foreign
        await refused(relay.get("/admin/overview", headers=looks), 403, "not_allowed")
