"""The owner's page: its texts in both languages, its files, and the headers under which strangers get them."""

from __future__ import annotations

import re
from pathlib import Path

import clawlink.doors.portal
from clawlink.doors.portal.server.portal_request import UNNOTED
from clawlink.doors.portal.wire.calls import CALLS, CHAT_UPLOAD, IMPORT_CALLS
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.doors.portal.wire.old_calls import GONE, OLD_CALLS, PHOTO_CALLS
from tests.doors.portal.conftest import OWNER, PASSWORD, Portals
from tests.server.test_page_files import BROWSER

FOLDER = Path(clawlink.doors.portal.__file__).parent / "page"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.js")) if path.name not in ("portal-en.js", "portal-zh.js")]


def texts(name: str) -> dict[str, str]:
    source = (FOLDER / name).read_text(encoding="utf-8")
    found = re.findall(r'^  "([^"]+)": "([^"\n]+)",$', source, re.MULTILINE)
    assert len(found) == source.count('",\n'), f"{name} has a line of another form"
    return dict(found)


def test_each_language_has_each_text_and_each_text_is_used() -> None:
    english, chinese = texts("portal-en.js"), texts("portal-zh.js")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", chinese[key])), key
        assert re.search(r"[\u4e00-\u9fff]", chinese[key]) or key == "portal.bridge", key
    source = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    used = set(re.findall(r'"(portal\.[\w.]+)"', source))
    begun = ("act.portal_", *re.findall(r"t\(`(portal\.(?:\w+\.)?)\$", source))
    assert used <= english.keys()
    assert [key for key in english if key not in used and not key.startswith(begun)] == []
    for word in ("innerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "outerHTML"):
        assert word not in source, word


def test_each_act_of_the_owner_has_a_name_in_the_audit() -> None:
    calls = (*CALLS, *FILE_CALLS, *OLD_CALLS, *PHOTO_CALLS, CHAT_UPLOAD, *IMPORT_CALLS)
    silent = (*GONE, *UNNOTED)
    acts = {
        f"act.portal_{call.name}" for call in calls if call.session and call.method != "GET" and call.name not in silent
    }
    for name in ("portal-en.js", "portal-zh.js"):
        assert {key for key in texts(name) if key.startswith("act.")} == acts, name


async def test_strangers_get_the_front_page_and_no_data(portals: Portals) -> None:
    portal = await portals()
    session, url = portal.relay.session, portal.url
    async with session.get(url + "/", headers=BROWSER) as answer:
        front = await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Cookie" in answer.headers["Vary"]
    assert "portal-front.js" in front
    async with session.get(url + "/?owner", headers=BROWSER) as answer:
        owner = await answer.text()
    assert "page/app.js" in owner
    assert '<link rel="modulepreload" href="page/portal.js">' in owner
    async with session.get(url + "/page/app.js") as answer:
        assert 'const doors = ["./portal.js"];\n' in await answer.text()
    for path in (*SCRIPTS, FOLDER / "portal.css"):
        async with session.get(f"{url}/page/{path.name}") as answer:
            assert answer.status == 200, path
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert (await portal.ask("GET", "/", key=""))[0] == 401, "programs get JSON, for the relay's token"


async def test_a_cookie_of_the_owner_opens_the_routes_and_a_forged_write_does_not(portals: Portals) -> None:
    portal = await portals()
    session, url = portal.relay.session, portal.url
    async with session.post(url + "/api/portal/session", json={"password": "wrong"}) as answer:
        assert answer.status == 401
        assert "Set-Cookie" not in answer.headers
    async with session.post(url + "/api/portal/session", json={"password": PASSWORD}) as answer:
        assert answer.status == 200
        csrf = (await answer.json())["csrf"]
        line = answer.headers["Set-Cookie"]
    for mark in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert mark in line
    cookie = {"Cookie": line.partition(";")[0]}

    async def ask(method: str, path: str, **headers: str) -> int:
        body = {"content": "x"} if method == "POST" else None
        async with session.request(method, url + path, json=body, headers=cookie | headers) as answer:
            status: int = answer.status
            return status

    assert await ask("GET", "/api/contacts") == 200
    assert await ask("GET", "/admin/overview") == 200, "the owner operates, too"
    assert await ask("POST", "/api/chat/owner/send") == 403
    assert await ask("POST", "/api/chat/owner/send", **{"ClawLink-CSRF": csrf}) == 200
    assert await ask("POST", "/api/chat/owner/send", **{"ClawLink-CSRF": csrf, "Origin": "https://evil.example"}) == 403
    assert await ask("GET", "/api/contacts", **{"Sec-Fetch-Site": "cross-site"}) == 403
    status, _ = await portal.ask("GET", "/admin/overview", key=OWNER)
    assert status == 401, "the owner key is no operator"
    assert await ask("POST", "/api/portal/logout-all", **{"ClawLink-CSRF": csrf}) == 200
    assert await ask("GET", "/api/contacts") == 401
    assert await ask("GET", "/admin/overview") == 401
