"""Keys that mean harm: what the relay takes comes back as it was, at that key alone; what it refuses, with a sentence.

No key is ever a path on the relay's disk, also with ``--spool``; but it may become one with whoever downloads the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import ok
from tests.server.test_uploads import begun, metadata
from tests.system.raw import exchange, request
from tests.tables import each
from tests.waiting import eventually

TAKEN = {
    "absolute": "/etc/passwd",
    "absolute twice": "//etc/passwd",
    "a network share": "\\\\server\\share\\x",
    "a UNC path": "\\\\?\\C:\\Windows\\win.ini",
    "a drive": "C:\\Windows\\win.ini",
    "a drive alone": "c:",
    "a drive without a slash": "C:win.ini",
    "a stream of NTFS": "file.txt::$DATA",
    "a reserved name": "CON",
    "a reserved name with an ending": "nul.txt",
    "a reserved port": "dir/COM1",
    "a file of the system": "/dev/zero",
    "home": "~/.ssh/authorized_keys",
    "a variable": "$HOME/x",
    "a command": "$(reboot)",
    "backticks": "`reboot`",
    "a pipe": "x; rm -rf / | sh",
    "an option": "--help",
    "a glob": "*",
    "encoded dots": "%2e%2e/%2e%2e/etc/passwd",
    "twice encoded dots": "%252e%252e%252f",
    "an encoded NUL": "a%00b",
    "an encoded line": "a%0d%0aSet-Cookie: x",
    "dots of full width": "\uff0e\uff0e/x",
    "a slash of full width": "..\uff0fx",
    "three dots": ".../x",
    "dots and a space": ".. /x",
    "dots at the end": "x../y..",
    "a leading dot": ".ssh/config",
    "slashes at the end": "x///",
    "only slashes": "///",
    "an empty part": "a//b",
    "white space": " ",
    "quotes": "\"';--",
    "markup": "<script>alert(1)</script>",
    "a query": "x?version=1&versions",
    "a fragment": "x#y",
    "a parameter": "x;y=z",
    "a template": "{{7*7}}${7*7}",
    "a format": "%s%n%x{0}",
    "another address": "http://evil.example/x",
    "a route of the relay": "../uploads".replace("../", "uploads/"),
    "names of methods": "__class__",
    "an override of direction": "a\u202egpj.exe",
    "zero width": "a\u200b\u200cb",
    "a composed letter": "e\u0301",
    "the same composed": "\u00e9",
    "an upper case letter": "README",
    "the same in lower case": "readme",
    "emoji": "\U0001f600",
    "not a character": "\ufffe",
    "the longest": "x" * 1024,
    "the longest of four bytes": "\U0001f600" * 400,
}
REFUSED = {
    "parent": "..",
    "itself": ".",
    "up": "../x",
    "up and up": "../../../../etc/passwd",
    "up in the middle": "a/../../b",
    "up at the end": "a/..",
    "itself in the middle": "a/./b",
    "up with backslashes": "..\\..\\x",
    "up with both": "a\\../x",
    "absolute and up": "/../x",
    "NUL": "a\x00b",
    "NUL at the end": "x\x00",
    "a line": "a\nb",
    "a carriage return": "a\rb",
    "a header": "x\r\nSet-Cookie: y",
    "an escape": "\x1b[2J",
    "a bell": "\x07",
    "a backspace": "a\x08b",
    "delete": "\x7f",
    "a control of C1": "a\x9bb",
    "a separator of lines": "a\u2028b",
    "too long": "x" * 1025,
}


@pytest.fixture
async def relay(serve: Serve, tmp_path: Path) -> Running:
    """A relay that puts all it can on the disk, beside a file that nobody may touch."""
    (tmp_path / "secret").write_text("untouched")
    relay = await serve(spool=str(tmp_path / "spool"), spool_above=1)
    os.makedirs(tmp_path / "spool", exist_ok=True)
    await relay.register("Ann", agent_id="a")
    return relay


async def ways(relay: Running, key: str, data: bytes) -> list[tuple[int, Any]]:
    """Write a file in each of the three ways, and return the replies."""
    headers = {"ClawLink_Agent": "a"}
    told = await exchange(relay.url, request("PUT", blobs.path(key), data, **headers))
    in_json = await relay.post("/files", {"file_key": key, "content": data.decode(), "agent_id": "a"})
    uploaded = await exchange(
        relay.url,
        request(
            "POST",
            "/uploads",
            data,
            ClawLink_Agent="a",
            Tus_Resumable="1.0.0",
            Upload_Length=str(len(data)),
            Upload_Metadata=metadata(key),
            Content_Type="application/offset+octet-stream",
        ),
    )
    return [(told.status, told.json), in_json, (uploaded.status, uploaded.json if uploaded.body else None)]


def untouched(tmp_path: Path) -> None:
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["secret", "spool"]
    assert (tmp_path / "secret").read_text() == "untouched"


@each("key", TAKEN.values(), ids=TAKEN)
async def test_what_is_taken_comes_back_as_it_was(relay: Running, tmp_path: Path, key: str) -> None:
    data = f"this is {key}".encode()
    assert [status for status, _ in await ways(relay, key, data)] == [201, 200, 201]
    for of in ("blobs", "files"):
        answer = await exchange(relay.url, request("GET", blobs.path(key, of=of)))
        assert answer.status == 200
        assert (answer.body if of == "blobs" else answer.json["content"].encode()) == data
        for value in answer.headers.values():
            assert value.isascii()
            assert value.isprintable()
    listed = await ok(relay.get("/files"))
    assert [f["file_key"] for f in listed["files"]] == [key]
    assert (await blobs.history(relay, key))["version"] == 3
    answer = await exchange(relay.url, request("DELETE", blobs.path(key), ClawLink_Agent="a"))
    assert answer.json == {"status": "deleted", "file_key": key, "version": 4}
    untouched(tmp_path)


@pytest.mark.parametrize("key", REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_is_told_why(relay: Running, tmp_path: Path, key: str) -> None:
    for status, body in await ways(relay, key, b"x"):
        assert (status, body["code"], body["field"]) == (400, "bad_request", "file_key")
        assert "file key" in body["error"] or "file_key" in body["error"]
        assert body["error"].isprintable()
    status, body = await relay.post("/locks", {"agent_id": "a", "file_key": key, "seconds": 60})
    assert (status, body["field"]) == (400, "file_key")
    for method, address in (("GET", blobs.path(key)), ("HEAD", blobs.path(key)), ("GET", blobs.path(key, of="files")),
                            ("DELETE", blobs.path(key))):  # fmt: skip
        answer = await exchange(relay.url, request(method, address, ClawLink_Agent="a"))
        assert answer.status in (400, 404)
    assert blobs.used(relay) == 0
    untouched(tmp_path)


async def test_all_of_them_at_once_are_files_of_their_own(relay: Running, tmp_path: Path) -> None:
    for key in TAKEN.values():
        await blobs.saved(relay, key, key.encode())
    for key in TAKEN.values():
        assert await blobs.content(relay, key) == key.encode()

    async def all_listed() -> bool:
        listed = await ok(relay.get("/files?limit=1000"))
        return {f["file_key"] for f in listed["files"]} == set(TAKEN.values())

    await eventually(all_listed)
    untouched(tmp_path)


@pytest.mark.parametrize(
    "address",
    [
        "/blobs/../files/x",
        "/blobs/%2e%2e/x",
        "/blobs/a/%2E%2e/b",
        "/blobs/..%2fx",
        "/blobs/..%5cx",
        "/blobs/%c0%ae%c0%ae/x",
        "/blobs/%ff",
        "/blobs/%ed%a0%80",
        "/blobs/a%00b",
        "/blobs/%0a",
        "/blobs/%e2%80%a8",
        "/blobs/.",
        "/blobs/a/.",
        "/blobs/" + "%41" * 1025,
        "/blobs/",
    ],
)
async def test_an_address_that_leads_elsewhere_leads_nowhere(relay: Running, tmp_path: Path, address: str) -> None:
    for method in ("PUT", "GET", "DELETE"):
        data = b"x" if method == "PUT" else None
        answer = await exchange(relay.url, request(method, address, data, ClawLink_Agent="a"))
        assert answer.status in (400, 404, 405)
        assert len(answer.json["error"]) > 8
    assert blobs.used(relay) == 0
    untouched(tmp_path)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("/blobs/%2e%2e%2e", "..."),
        ("/blobs/%zz", "%zz"),
        ("/blobs/%", "%"),
        ("/blobs/a+b", "a+b"),
        ("/blobs/a%2Bb", "a+b"),
        ("/blobs/a%252Fb", "a%2Fb"),
        ("/blobs/%41", "A"),
        ("/blobs//x", "/x"),
        ("/blobs/x/", "x/"),
        ("/blobs/a:b@c", "a:b@c"),
    ],
)
async def test_an_address_is_decoded_once(relay: Running, address: str, key: str) -> None:
    answer = await exchange(relay.url, request("PUT", address, b"x", ClawLink_Agent="a"))
    assert (answer.status, answer.json["file_key"]) == (201, key)
    assert (await exchange(relay.url, request("GET", "/blobs/" + quote(key, safe="")))).body == b"x"


async def test_what_an_upload_says_of_itself_splits_no_header(relay: Running) -> None:
    address = await begun(relay, 4, said="a!#$%&'*+-.^_`|~ " + ",key azE=" + "," + metadata("k2"))
    told = await blobs.ask(relay, "HEAD", address, Tus_Resumable="1.0.0")
    assert told.headers["Upload-Metadata"].endswith(metadata("k2"))
