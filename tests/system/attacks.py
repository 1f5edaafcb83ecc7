"""Hostile bytes for every route, websocket and door of a relay, made from a seed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.headers import OFFSET_TYPE
from clawlink.protocol.paths import ENDPOINTS, FRAMES
from tests.system.raw import request

_STRINGS = (
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "victim",
    "VICTIM",
    "a" * 129,
    "a" * 5000,
    "\x00",
    "\r\nX: 1",
    "\u202ebob",
    "\ufeffvictim",
    "v\u0456ctim",
    "\U0001f600" * 40,
    "%00",
    "%",
    "'; DROP TABLE agents;--",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "\x1b]0;x\x07",
    "-1",
    "NaN",
    "1e309",
    "0x10",
    "\ud800",
)
_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 1e308, -1e308, 0.5, 60.000001, 5e-324)
_PATHS = (
    "//",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/poll/%ff",
    "/poll/" + "a" * 9000,
    "/files/" + "%2F" * 500,
    "/%00",
    "/poll/%0d%0aX:1",
    "/tasks/..%2f..%2fhealthz",
    "/blobs/a%2F..%2Fb",
    "/ws/%2e",
    "/?" + "a=1&" * 2000,
    "/poll/victim?wait=nan",
    "/poll/victim?max=1e9",
    "/poll/victim?lease=99999999999999999999",
    "/discover?status=%00",
    "/blobs/x?version=-1",
    "http://other.example/poll/victim",
    "*",
    "poll",
)
_HEADERS = (
    "Content-Length: -1",
    "Content-Length: 1\r\nContent-Length: 2",
    "Content-Length: +5",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: xchunked",
    "Host: evil.example",
    "Host: 127.0.0.1\r\nHost: 127.0.0.1",
    "Host: [::1",
    "Origin: null",
    "Origin: http://evil.example",
    "Authorization: Bearer",
    "Authorization: Basic ==",
    "ClawLink-Agent-Key: \x80\xff",
    "ClawLink-Agent: %ff",
    "X: " + "y" * 70000,
    "Expect: 200-ok",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    "Connection: keep-alive, close, x",
    "Range: bytes=5-1",
    "Range: bytes=" + "0-0," * 2000,
    'If-Match: "' + "1" * 400,
    "If-None-Match: W/" * 50,
    "Content-Encoding: gzip",
    "Content-Encoding: br, gzip",
    "Idempotency-Key: ",
    "Idempotency-Key: " + "k" * 200,
    "Last-Event-ID: \x00",
    "Upload-Length: 1e9",
    "Upload-Metadata: key =, ,",
    "Tus-Resumable: 9",
    "Sec-WebSocket-Key: x\r\nUpgrade: websocket\r\nConnection: Upgrade",
    ": empty",
    "No-Colon",
    " folded",
    "X-Forwarded-For: " + "1," * 3000,
)


_AGENTS = ("victim", "attacker")


class Attack(NamedTuple):
    """Bytes for one connection, and what to call them."""

    name: str
    data: bytes


class Targets(NamedTuple):
    """The websockets, the routes that take JSON (method, address and fields of each), and uploads under way.

    ``plausible`` are values of fields that get through the first checks.
    """

    sockets: Sequence[str]
    routes: Callable[[Random], Sequence[tuple[str, str, tuple[str, ...]]]]
    uploads: Sequence[str] = ()
    plausible: Mapping[str, Sequence[Any]] = dict.fromkeys(("agent_id", "from_agent", "to_agent"), _AGENTS)


def attacks(random: Random, count: int, targets: Targets) -> Iterator[Attack]:
    """Give ``count`` attacks; the kinds take turns."""
    kinds = (_body, _raw_body, _header, _path, _chunks, _frames, _torn, _query, _blob, _upload)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield Attack(f"{number} {kind.__name__}", kind(random, targets))


def _address(random: Random, endpoint: Endpoint) -> str:
    names = {name: random.choice(("victim", *_STRINGS[:20])) for name in endpoint.pattern.groupindex}
    safe = {name: value.encode("utf-8", "replace").decode() for name, value in names.items()}
    return endpoint.url(**safe)


def _value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(_STRINGS)
    if kind < 5:
        return random.choice(_NUMBERS)
    if kind == 5 or depth > 2:
        return random.choice((None, True, False))
    if kind == 6:
        return [_value(random, depth + 1) for _ in range(random.choice((0, 1, 3, 300 if depth == 0 else 2)))]
    return {str(random.choice(_STRINGS)): _value(random, depth + 1) for _ in range(random.randrange(4))}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _own_routes(random: Random) -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (e.method, _address(random, e), tuple(field.encode_name for field in msgspec.structs.fields(e.body)))
        for e in ENDPOINTS
        if e.body is not None
    ]


OWN = Targets(("/ws/victim", "/ws/victim?lease=30&credit=1000"), _own_routes)


def _body(random: Random, targets: Targets) -> bytes:
    """Return a body with the right fields and wrong values."""
    method, path, names = random.choice(targets.routes(random))
    fields = {name: _value(random) for name in names if random.random() < 0.8}
    for name, values in targets.plausible.items():
        if name in fields and random.random() < 0.5:
            fields[name] = random.choice(values)
    return request(method, path, _json(fields))


def _raw_body(random: Random, targets: Targets) -> bytes:
    """Return a body that is no JSON, or more JSON than anybody wants."""
    method, path, _ = random.choice(targets.routes(random))
    body = random.choice(
        (
            b"[" * 65 + b'"' + b"a" * 30,
            b'{"a":' * 3000,
            b'"' + b"\\" * 2001,
            bytes(random.randrange(256) for _ in range(200)),
            b"\x1f\x8b\x08" + bytes(50),
            b"{" + b'"a":1,' * 5000 + b'"b":1}',
            b'{"agent_id":"victim","agent_id":"attacker"}',
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\x00}\x00",
            b"1" * 5000,
            b"",
        )
    )
    return request(method, path, body)


def _header(random: Random, targets: Targets) -> bytes:
    """Return a request with a header that is wrong."""
    endpoint = random.choice(ENDPOINTS)
    line = random.choice(_HEADERS).encode("latin-1")
    head = f"{endpoint.method} {_address(random, endpoint)} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    return head + line + b"\r\n\r\n" + random.choice((b"", b"{}", b"0\r\n\r\n", bytes(40)))


def _path(random: Random, targets: Targets) -> bytes:
    """Return a request whose address or first line is wrong."""
    method = random.choice(
        ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "G\x00T", "x" * 500)
    )
    version = random.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "HTTP/1.1 x", ""))
    return f"{method} {random.choice(_PATHS)} {version}\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{{}}".encode(
        "latin-1"
    )


def _chunks(random: Random, targets: Targets) -> bytes:
    """Return a chunked body that is wrong."""
    method, path, _ = random.choice(targets.routes(random))
    chunks = random.choice(
        (
            b"-1\r\n{}\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n{}",
            b"2;" + b"x" * 9000 + b"\r\n{}\r\n0\r\n\r\n",
            b"2\r\n{}0\r\n\r\n",
            b"2\r\n{}\r\n0\r\nTrailer: " + b"t" * 9000 + b"\r\n\r\n",
            b"1\r\n{\r\n" * 500,
            b"g\r\n",
            b"2\n{}\n0\n\n",
            b"0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
        )
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + chunks


def _query(random: Random, targets: Targets) -> bytes:
    """Return a request with wrong parameters."""
    endpoint = random.choice([e for e in ENDPOINTS if e.query is not None and not e.stays and not e.socket])
    fields = msgspec.structs.fields(endpoint.query)
    names = ["unknown", *(field.encode_name for field in fields if field.encode_name != "wait")]
    texts = [str(random.choice((*_STRINGS, *_NUMBERS)))[:100].encode("utf-8", "replace") for _ in range(3)]
    encoded = ["".join(f"%{byte:02x}" for byte in text) for text in texts]
    given = "&".join(f"{name}={text}" for name, text in zip(random.choices(names, k=3), encoded, strict=True))
    asker = random.choice(("victim", "x", "%ff"))
    return request(endpoint.method, f"{_address(random, endpoint)}?{given}", ClawLink_Agent=asker)


_SIZES = ("0", "3", "5", "-1", "1e3", "0x3", "", "9" * 30, str(2**63), "1000")
_DIGESTS = (
    "sha-256=:" + "A" * 43 + "=:",
    "sha-256=:x:",
    "sha-256=" + "A" * 43 + "=",
    "md5=:AAAA:",
    "sha-256=:" * 500,
    ", , =",
    "\xff",
)
_CHECKSUMS = ("sha256 " + "A" * 43 + "=", "sha1 AAAA", "sha256", "sha256 !", "md5 x", "", "crc32 " + "A" * 5000)
_BLOB_HEADERS: dict[str, Sequence[str]] = {
    "If-Match": ('"1"', "*", "W/", '"1", ' * 400, '"-1"'),
    "If-None-Match": ("*", '"1"', "x"),
    "Content-Digest": _DIGESTS,
    "Repr-Digest": _DIGESTS,
    "Digest": _DIGESTS,
    "ClawLink-File-Type": ("%ff", "x" * 5000, "text"),
    "ClawLink-TTL": (*_SIZES, "nan"),
    "ClawLink-Burn-After-Read": ("1", "2", "true", ""),
    "ClawLink-Force": ("1", "x"),
    "ClawLink-Readers": ("victim", "*", ",,,", "%ff", "nobody", "victim," * 300, "*,victim"),
    "Content-Type": ("text/plain", "x", "/" * 300, "multipart/form-data"),
    "Content-Encoding": ("identity", "gzip"),
    "Range": ("bytes=0-0", "bytes=-0", "bytes=1-0", "items=1-2"),
}
_UPLOAD_HEADERS: dict[str, Sequence[str]] = {
    "Upload-Length": _SIZES,
    "Upload-Offset": _SIZES,
    "Upload-Defer-Length": ("1", "2"),
    "Upload-Metadata": ("key aGkudHh0", "key", "key !", "filename " + "QUFB" * 900, "a,b,c", "key aGk=,ttl LTE=", ""),
    "Upload-Checksum": _CHECKSUMS,
    "Upload-Concat": ("partial", "final;/uploads/x"),
    "Tus-Resumable": ("0.0.0", "", "2"),
    "Content-Type": ("text/plain", "application/json"),
    "X-HTTP-Method-Override": ("PATCH", "DELETE", "HEAD", "TRACE", "x" * 300),
}


def _with_bytes(
    random: Random, method: str, path: str, headers: dict[str, str], wrong: dict[str, Sequence[str]]
) -> bytes:
    """Return a request with some wrong headers and with bytes: whole, too few, too many, or in chunks."""
    content = random.choice((b"", b"abc", b"x" * 5, bytes(3000), b"y" * 70_000))
    headers = headers | {name: random.choice(wrong[name]) for name in random.sample(sorted(wrong), random.randrange(4))}
    form = random.randrange(5)
    if form == 0:
        return request(method, path, content, Content_Length=str(len(content) + random.choice((1, 1000))), **headers)
    if form == 1:
        return request(method, path, content, Content_Length=str(len(content) // 2), **headers)
    if form == 2:
        chunks = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        head = request(method, path, None, Transfer_Encoding="chunked", **headers)
        return head + chunks + random.choice((b"0\r\n\r\n", b"", b"zz\r\n"))
    return request(method, path, content, **headers)


def _blob(random: Random, targets: Targets) -> bytes:
    """Return a request for a file as it is that is wrong in some way."""
    key = random.choice(("victim", "x", "a%2Fb", "%ff", "%00", "k" * 300))
    method = random.choice(("PUT", "PUT", "PUT", "GET", "HEAD", "DELETE"))
    headers = {"ClawLink-Agent": random.choice(("attacker", "attacker", "nobody", ""))}
    return _with_bytes(random, method, f"/blobs/{key}", headers, _BLOB_HEADERS)


def _upload(random: Random, targets: Targets) -> bytes:
    """Return a request of tus that is wrong in some way: it begins an upload, or goes on with one."""
    headers = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": random.choice(("attacker", "attacker", "victim"))}
    begins = random.random() < 0.4
    if begins:
        headers |= {"Upload-Length": "3000", "Upload-Metadata": "key aGkudHh0"}
    else:
        headers |= {"Upload-Offset": "0"}
    if random.random() < 0.8:
        headers["Content-Type"] = OFFSET_TYPE
    path = "/uploads" if begins else random.choice((*targets.uploads, "/uploads/x"))
    method = "POST" if begins else random.choice(("PATCH", "PATCH", "PATCH", "HEAD", "POST", "DELETE"))
    return _with_bytes(random, method, path, headers, _UPLOAD_HEADERS)


def _torn(random: Random, targets: Targets) -> bytes:
    """Return a request that breaks off, or one with rubbish behind it."""
    method, path, names = random.choice(targets.routes(random))
    whole = request(method, path, _json(dict.fromkeys(names, "victim")))
    if random.random() < 0.5:
        return whole[: random.randrange(1, len(whole))]
    return whole + bytes(random.randrange(256) for _ in range(random.randrange(1, 400)))


def _frames(random: Random, targets: Targets) -> bytes:
    """Return a websocket's handshake and frames that are wrong."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    hello = request(
        "GET",
        random.choice(targets.sockets),
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key=key,
    )
    frames = b"".join(_frame(random) for _ in range(random.randrange(1, 6)))
    return hello + frames


def _fields_of_a_frame(random: Random) -> bytes:
    """Return a frame of a known type, or of none, with the right fields and wrong values."""
    name = random.choice((*FRAMES, "x"))
    fields = msgspec.structs.fields(FRAMES[name].body) if name in FRAMES else ()
    values = {field.encode_name: _value(random) for field in fields if random.random() < 0.8}
    return _json(values | {"type": name, "id": random.choice((1, "1", _value(random)))})


def _frame(random: Random) -> bytes:
    text = random.choice(
        (
            _fields_of_a_frame(random),
            _json(_value(random)),
            b"[" * 65 + b'"' + b"a" * 30,
            b"\xff\xfe",
            bytes(random.randrange(256) for _ in range(60)),
            b"x" * 70000,
        )
    )
    first = random.choice((0x81, 0x81, 0x81, 0x82, 0x01, 0x80, 0x83, 0x88, 0x89, 0x8A, 0x8B, 0xC1, 0xF1))
    if random.random() < 0.1:
        return bytes([first, 0xFF]) + struct.pack("!Q", random.choice((2**63, 2**40, len(text)))) + bytes(4) + text
    masked = 0x80 if random.random() < 0.9 else 0
    size = len(text)
    length = bytes([masked | size]) if size < 126 else bytes([masked | 126]) + struct.pack("!H", min(size, 65535))
    mask = bytes(random.randrange(256) for _ in range(4)) if masked else b""
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text[:65535])) if masked else text[:65535]
    return bytes([first]) + length + mask + body
