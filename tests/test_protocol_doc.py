"""``references/protocol.md`` and the code say the same, and every example in it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawlink.domain.dense_json import MAX_LARGE_NUMBERS, MAX_PARTS
from clawlink.domain.limits import LIMIT_FIELDS, MAX_JSON_DEPTH
from clawlink.domain.message import Message
from clawlink.errors import Refused, Unavailable, all_errors
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS
from tests.conftest import Start
from tests.tables import each

PAGE = (Path(__file__).parent.parent / "references" / "protocol.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### ([A-Z]+ \S+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
EXAMPLES = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def test_every_route_has_a_section_and_every_section_is_a_route() -> None:
    assert sorted(SECTIONS) == sorted(f"{e.method} {e.path}" for e in ENDPOINTS)


@each("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_a_section_names_every_field_and_has_an_example(endpoint: Endpoint) -> None:
    section = SECTIONS[f"{endpoint.method} {endpoint.path}"]
    assert "```sh\ncurl" in section or "=$(curl" in section
    named = {word.rstrip("?") for code in re.findall(r"`([^`\n]+)`", section) for word in re.findall(r"\w+\??", code)}
    for kind in (endpoint.body, endpoint.query):
        for field in _fields(kind):
            assert field in named, f"{field} is not named"
    if endpoint.name not in _SAID_ELSEWHERE:
        for field in _fields(endpoint.reply):
            assert field in named, f"{field} of the reply is not named"


def test_every_header_of_a_route_is_on_the_page() -> None:
    for endpoint in ENDPOINTS:
        for name in [*(header.name for header in endpoint.headers), *endpoint.tells]:
            assert name in PAGE, (endpoint.name, name)


# Replies that are those of another route, which the section says.
_SAID_ELSEWHERE = {"nack", "extend", "get_file"}


def _fields(kind: Any) -> tuple[str, ...]:
    return () if kind is None else tuple(field.name for field in msgspec.structs.fields(kind))


def test_every_error_is_in_the_table_with_its_status() -> None:
    told = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE))
    leaves = [e for root in (Refused, Unavailable) for e in all_errors(root) if not e.__subclasses__()]
    expected = {(str(e.status), e.code) for e in leaves}
    expected |= {("400", "bad_request"), ("500", "internal_error"), ("503", "unavailable")}
    assert told == expected


def test_every_limit_is_in_the_table_with_its_default_and_flag() -> None:
    told = re.findall(r"^\| (.+?) \| ([\d,]+) ([\w ]+?) \| `(--[\w-]+)` \|", PAGE, re.MULTILINE)
    expected = [(f.metadata["help"], f"{f.default:,.0f}", f.metadata["unit"], f.metadata["flag"]) for f in LIMIT_FIELDS]
    assert told == expected


def test_the_bounds_of_json_are_on_the_page() -> None:
    assert f"nested {MAX_JSON_DEPTH} levels deep" in PAGE
    assert re.search(f"A value of more\\s+than {MAX_PARTS:,} parts", PAGE)
    assert f"{MAX_LARGE_NUMBERS:,} numbers of 1e100 and more" in PAGE


def test_every_message_is_in_the_table_with_its_fields() -> None:
    told = {
        kind: re.sub(r"[`()]|the delegation's", "", fields).split()
        for kind, fields in re.findall(r"^\| `(\w+)` \| (`.*`) \|$", PAGE, re.MULTILINE)
    }
    expected = {str(m.__struct_config__.tag): list(m.__struct_fields__) for m in Message.__args__}
    assert told == expected


@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a POSIX shell")
def test_every_example_runs(start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    script = "set -eu\n" + "\n".join(f"{example}echo" for example in EXAMPLES)
    done = subprocess.run(
        [shutil.which("sh") or "sh", "-c", script],
        env={**os.environ, "RELAY": relay.url, "PATH": f"{_tools(tmp_path)}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"task_status":"completed"' in done.stdout
    assert '"status":"acked"' in done.stdout


def _tools(folder: Path) -> Path:
    """Return a folder with this Python, and with a ``curl`` for machines that have none: just what the page uses."""
    (folder / "python3").symlink_to(sys.executable)
    if shutil.which("curl") is None:
        curl = folder / "curl"
        curl.write_text(f"#!{sys.executable}\n{_CURL}", encoding="utf-8")
        curl.chmod(0o755)
    return folder


_CURL = """
import argparse, sys, urllib.error, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-f", "-s", "-S", action="store_true")
parser.add_argument("-X", dest="method")
parser.add_argument("-H", dest="headers", action="append", default=[])
parser.add_argument("-d", "--data-binary", dest="data")
parser.add_argument("-I", dest="method", action="store_const", const="HEAD")
parser.add_argument("-o", dest="output")
parser.add_argument("-D", dest="dump")
args = parser.parse_args()
request = urllib.request.Request(args.url, args.data.encode() if args.data else None, method=args.method)
for header in args.headers:
    name, _, value = header.partition(": ")
    request.add_header(name, value)
try:
    reply = urllib.request.urlopen(request)
    if args.method == "HEAD" or args.dump:
        print(reply.headers)
    if not args.output:
        print(reply.read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
    sys.exit(22 if args.f else 0)
"""
