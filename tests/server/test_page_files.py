"""The page: who gets it, under which headers, in which languages, and of which files it is made."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import clawlink.server
from clawlink.domain.message import Message
from clawlink.errors import BY_CODE, ClawLinkError
from clawlink.server import page_files
from clawlink.server.page_files import BUNDLE, PARTS, bundle
from tests.conftest import Serve
from tests.server.asks import ok, refused
from tests.system import raw

FOLDER = Path(clawlink.server.__file__).parent / "page"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# Files of others, as they were published: htm 3.1.1 (with Preact), uPlot 1.6.32.
VENDORED = {
    "htm-preact.js": "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}

OWN = [path for path in sorted(FOLDER.glob("*.js")) if path.name not in (*VENDORED, "en.js", "zh.js")]


async def test_a_browser_gets_the_page_and_everybody_else_json(serve: Serve) -> None:
    relay = await serve(token="t")
    async with relay.session.get(relay.url + "/", headers=BROWSER) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert {response.headers[name] for name in ("X-Content-Type-Options", "Referrer-Policy")} == {
        "nosniff",
        "no-referrer",
    }
    for name in re.findall(r'"page/([\w.-]+)"', page):
        async with relay.session.get(f"{relay.url}/page/{name}") as response:
            assert response.status == 200, name
            assert _without_style(response.headers["Content-Security-Policy"]) == _without_style(policy), name
            again = {"If-None-Match": response.headers["ETag"]}
        async with relay.session.get(f"{relay.url}/page/{name}", headers=again) as response:
            assert response.status == 304, name
    for accept in ("*/*", "application/json", None):
        headers = {"Authorization": "Bearer t"} | ({} if accept is None else {"Accept": accept})
        assert (await ok(relay.get("/", headers=headers)))["service"] == "ClawLink Relay", accept
    for path in ("/page/none.js", "/page/../sessions.py", "/page/%2e%2e%2fsessions.py", "/page/htm.LICENSE"):
        status, _ = await relay.get(path)
        assert status in (401, 404), path


async def test_a_link_on_another_site_leads_to_the_page_and_to_no_data(serve: Serve) -> None:
    relay = await serve()
    follows = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with relay.session.get(relay.url + "/", headers=BROWSER | follows) as response:
        assert response.status == 200
    framed = follows | {"Sec-Fetch-Dest": "iframe"}
    await refused(relay.get("/", headers=BROWSER | framed), 403, "not_allowed")
    await refused(relay.get("/admin/overview", headers=BROWSER | follows), 403, "not_allowed")


async def test_the_page_can_be_turned_off(serve: Serve) -> None:
    relay = await serve(page="off", admin_token="boss")
    assert (await ok(relay.get("/", headers=BROWSER)))["service"] == "ClawLink Relay"
    for method, path in (("GET", "/page/app.js"), ("POST", "/admin/links"), ("POST", "/admin/sessions")):
        status, body = await relay.ask(method, path, json={}, headers={"Authorization": "Bearer boss"})
        assert (status, body["code"]) == (404, "unknown_route"), path
    await ok(relay.get("/admin/overview"))
    own = {"Sec-Fetch-Site": "same-origin"}
    await refused(relay.get("/admin/overview", headers=own), 403, "not_allowed")


async def test_texts_are_withheld_from_all_of_admin(serve: Serve) -> None:
    relay = await serve(page="metadata")
    await relay.register("Ann", agent_id="a")
    id = (await ok(relay.post("/delegate", {"from_agent": "a", "to_agent": "a", "task": "secret"})))["message_id"]
    for path in ("overview", "tasks", f"tasks/{id}", "agents/a", "agents"):
        body = await ok(relay.get(f"/admin/{path}"))
        assert "secret" not in str(body), path
    assert not (await ok(relay.get("/admin/session")))["contents"]
    async with relay.session.get(relay.url + "/", headers=BROWSER) as response:
        begun = _begun(await response.text())
    assert not begun["session"]["contents"]
    assert "secret" not in str(begun)


def texts(name: str) -> dict[str, str]:
    source = (FOLDER / name).read_text(encoding="utf-8")
    found = re.findall(r'^  "?([^":\n]+?)"?: "([^"\n]*)",$', source, re.MULTILINE)
    assert len(found) == source.count('",\n'), f"{name} has a line of another form"
    return dict(found)


def test_each_language_has_each_text_with_the_same_values() -> None:
    english, chinese = texts("en.js"), texts("zh.js")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", chinese[key])), key
        assert text, key
        assert chinese[key], key


def test_each_text_of_the_page_is_there_and_each_is_used() -> None:
    known = texts("en.js").keys()
    source = "".join(path.read_text(encoding="utf-8") for path in OWN)
    asked = set(re.findall(r'\bt\(\s*"([^"]+)"', source)) | set(re.findall(r'"([\w.]+)"', source))
    begun = tuple(re.findall(r"\bt\(`([\w.]+\.)\$", source))
    assert set(re.findall(r'\bt\(\s*"([^"]+)"', source)) <= known
    said = {key.removesuffix(".one") for key in known}  # "t" takes that of one thing by itself
    assert said <= known
    assert [key for key in said if key not in asked and not key.startswith((*begun, "key."))] == []


# Codes of routes that the page does not ask, and of requests that it never makes.
FOREIGN_CODES = {
    *("bad_json", "checksum_mismatch", "lease_lost", "method_not_allowed"),
    *("offset_conflict", "range_not_satisfiable", "unknown_event", "unknown_upload", "unsupported_media_type"),
}


def test_each_refusal_of_a_relay_that_a_person_meets_has_a_text() -> None:
    codes = {code for code, error in BY_CODE.items() if error.status and error is not ClawLinkError}
    told = {key.removeprefix("error.") for key in texts("en.js") if key.startswith("error.")}
    assert told == codes - FOREIGN_CODES | {"no_answer"}


def test_chinese_sets_numbers_apart_from_words_and_nothing_from_its_signs() -> None:
    for key, text in texts("zh.js").items():
        assert not re.search(r"[\u4e00-\u9fff]\{n\}|\{n\}[\u4e00-\u9fff]", text), key
        assert not re.search(r"[：，。；（）] | [：，。；（）]", text), key


async def test_all_that_the_metrics_say_is_plotted(serve: Serve) -> None:
    relay = await serve()
    async with relay.session.get(relay.url + "/metrics") as response:
        shown = re.findall(r"^# TYPE clawlink_(\w+?)(?:_total)? ", await response.text(), re.MULTILINE)
    charts = re.search(r"CHARTS = \[(.*?)\n\];", (FOLDER / "load.js").read_text(encoding="utf-8"), re.DOTALL)
    assert charts is not None
    plotted = re.findall(r'"(\w+)"', "".join(re.findall(r'\["\w+", (\[[^]]+\])', charts[1])))
    assert sorted(plotted) == sorted(set(plotted)), "each once"
    # The limit stands in the table of limits, and a stop in the head of the page.
    assert set(shown) - set(plotted) == {"build_info", "memory_limit_bytes", "stopped"}
    minute = (await ok(relay.get("/admin/load")))["minutes"][-1]
    counters = (await ok(relay.get("/admin/load")))["counters"]
    assert set(plotted) <= minute.keys() | counters.keys()
    for language in ("en.js", "zh.js"):
        assert {f"load.{name}" for name in plotted} <= texts(language).keys(), language


def test_each_kind_of_message_has_a_name() -> None:
    kinds = {kind.__struct_config__.tag for kind in get_args(Message)}
    assert {key.removeprefix("type.") for key in texts("en.js") if key.startswith("type.")} == kinds


def _without_style(policy: str) -> str:
    return re.sub(r" 'sha256-[^']*'", "", policy)


def _begun(page: str) -> Any:
    found = re.search(r'<script id="begun" type="application/json">(.*?)</script>', page, re.DOTALL)
    return None if found is None else json.loads(found[1])


async def test_a_cookie_that_is_no_text_does_not_take_the_page_away(serve: Serve) -> None:
    relay = await serve()
    ask = raw.request("GET", "/", Accept="text/html").removesuffix(b"\r\n")
    answer = await raw.exchange(relay.url, ask + b"Cookie: clawlink-language=\xff\r\n\r\n")
    assert answer.status == 200
    assert _begun(answer.body.decode())["language"] is None


async def test_the_page_has_its_style_in_it_and_no_other_style_is_let_in(serve: Serve) -> None:
    relay = await serve()
    async with relay.session.get(relay.url + "/", headers=BROWSER) as response:
        policy = response.headers["Content-Security-Policy"]
        style = re.search(r"<style>(.*?)</style>", await response.text(), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'self' 'sha256-{digest}';" in policy
    assert style[1] == (FOLDER / "style.css").read_text(encoding="utf-8")


async def test_what_the_first_view_shows_comes_with_the_page_to_browsers_that_may_see_it(serve: Serve) -> None:
    relay = await serve()
    name = "</script><script>alert(1)</script><!--"
    await ok(relay.post("/register", {"agent_id": "a", "name": name}))
    await ok(relay.post("/send", {"from_agent": "a", "to_agent": "a", "content": "for me"}))
    async with relay.session.get(relay.url + "/", headers=BROWSER) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "ETag" not in response.headers
        page = await response.text()
    begun = _begun(page)
    assert page.count("</script>") == 2
    assert begun["overview"]["mailboxes"][0]["name"] == name
    assert begun["overview"].keys() == (await ok(relay.get("/admin/overview"))).keys()
    assert begun["session"] == await ok(relay.get("/admin/session", headers={"Sec-Fetch-Site": "same-origin"}))
    assert "admin/overview" not in page, "the page asks for nothing that it has"
    status, _ = await relay.get("/", headers={**BROWSER, "Host": "evil.example"})
    assert status == 403
    opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with relay.session.get(relay.url + "/", headers={**BROWSER, **opened}) as response:
        assert response.status == 200
        assert _begun(await response.text()) is None, "another site has opened it"
    async with relay.session.get(relay.url + "/", headers={**BROWSER, "X-Forwarded-For": "192.0.2.1"}) as response:
        assert _begun(await response.text()) is None


async def test_a_session_finds_its_facts_in_the_page_and_strangers_find_none(serve: Serve) -> None:
    relay = await serve(token="t", admin_token="boss")

    async def page(**headers: str) -> Any:
        async with relay.session.get(relay.url + "/", headers={**BROWSER, **headers}) as response:
            return _begun(await response.text())

    assert await page() is None
    code = (await ok(relay.post("/admin/links", {}, headers={"Authorization": "Bearer boss"})))["path"].partition("=")[
        2
    ]
    async with relay.session.post(relay.url + "/admin/sessions", json={"code": code}) as response:
        session = await response.json()
        cookie = response.headers["Set-Cookie"].partition(";")[0]
    assert await page(Cookie=cookie[:-1]) is None
    relay.session.cookie_jar.clear()
    assert (await page(Cookie=cookie))["session"] == session
    assert (await page(Cookie=f"{cookie}; clawlink-language=zh"))["language"] == "zh"
    await ok(relay.post("/admin/logout", {"all": True}, headers={"Authorization": "Bearer boss"}))
    assert await page(Cookie=cookie) is None


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, None),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh.js"),
        ({"Accept-Language": "fr, zh"}, "zh.js"),
        ({"Accept-Language": "en-US,zh"}, None),
        ({"Accept-Language": "zh", "Cookie": "clawlink-language=en"}, None),
        ({"Accept-Language": "en", "Cookie": "clawlink-language=zh"}, "zh.js"),
        ({"Cookie": 'clawlink-language="><b>'}, None),
    ],
)
async def test_a_browser_is_told_of_the_words_that_it_will_need(
    serve: Serve, headers: dict[str, str], words: str | None
) -> None:
    relay = await serve()
    async with relay.session.get(relay.url + "/", headers={**BROWSER, **headers}) as response:
        found = re.findall(r'<link rel="modulepreload" href="page/([\w.]+)">', await response.text())
    assert found == ([] if words is None else [words])


def test_files_of_others_are_as_they_were_published_and_have_their_licences() -> None:
    for name, digest in VENDORED.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    for licence in ("htm", "preact", "uplot"):
        assert (FOLDER / f"{licence}.LICENSE").stat().st_size > 500, licence


async def test_the_first_view_is_small_and_one_script(serve: Serve) -> None:
    """The page names its scripts ahead, so a browser does not wait for one script to learn of the next."""
    relay = await serve()

    async def text(path: str) -> str:
        async with relay.session.get(relay.url + path, headers=BROWSER) as response:
            assert response.status == 200, path
            return await response.text()

    index = await text("/")
    assert sorted(re.findall(r'(?:href|src)="page/([^"]+)"', index)) == ["app.js", "icon.svg"]
    joined = await text("/page/app.js")
    assert re.findall(r"^import\b.*", joined, re.MULTILINE) == []
    shown = [joined, index]
    shown += [await text(f"/page/{name}") for name in ("plot.js", "uplot.js", "uplot.css")]
    # With 20 KB for headers and facts it stays below 120 KB.
    assert sum(len(gzip.compress(part.encode())) for part in shown) < 100 * 1024
    # Of a second copy of a part, the views would have texts, a session and a language of its own.
    for path in OWN:
        if path.name not in PARTS:
            found = re.findall(r'from "\./([^"]+)"', await text(f"/page/{path.name}"))
            assert not set(found) & (set(PARTS) - {BUNDLE}), path.name


def test_a_joined_script_keeps_its_names_apart_and_its_order() -> None:
    sources = {name: (FOLDER / name).read_text(encoding="utf-8") for name in PARTS}
    declared = [
        name
        for part in PARTS
        if part != page_files.VENDORED
        for name in re.findall(r"^(?:export )?(?:(?:async )?function|const|let|class) (\w+)", sources[part], re.M)
    ]
    assert sorted(declared) == sorted(set(declared))
    first, second = PARTS[1], PARTS[-1]
    with pytest.raises(ClawLinkError, match="does not come before it"):
        bundle(sources | {first: f'import {{ x }} from "./{second}";\n'})
    with pytest.raises(ClawLinkError, match="does not end with its exports"):
        bundle(sources | {page_files.VENDORED: "var e;"})


def test_no_script_puts_text_into_markup() -> None:
    for path in OWN:
        source = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "outerHTML"):
            assert word not in source, (path.name, word)
