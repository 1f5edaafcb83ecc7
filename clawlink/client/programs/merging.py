"""Entries of ClawLink in settings of other programs, pure: text in, text out. All other entries stay as they are."""

from __future__ import annotations

import json
import ntpath
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clawlink.client.hooks.rules import EVENTS, WAIT
from clawlink.client.programs import json_text
from clawlink.client.programs.json_text import Unmergeable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "clawlink"
_PYTHON = re.compile(r"(?:python|pypy)[\w.-]*|py(?:\.exe)?", re.IGNORECASE)
# Flags of Python by which it imports nothing from the working directory.
_FLAGS = ("-I", "-P")
_EXECUTABLES = (NAME, f"{NAME}.exe")
# Quotes in which no shell finds anything to do, and what a shell acts on outside of them.
_INERT = re.compile(r"""'[^']*'|"[^"$`]*\"""")
_ACTIVE = re.compile(r"[;&|`$()<>\r\n]")
_ESCAPED_QUOTE = re.compile(r"""\\["']""")
_WINDOWS_WORD = re.compile(r"""(?:"[^"]*"|[^\s"])+""")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HEADER = re.compile(rf"^[ \t]*\[[ \t]*mcp_servers[ \t]*\.[ \t]*([\"']?){NAME}\1[ \t]*\][ \t]*(?:#.*)?$")


def with_hooks(text: str | None, entries: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """Put an entry for each event into ``hooks``. ``head`` are the other fields of a new file."""
    settings = json_text.read(text, head)
    hooks = json_text.within(settings, "hooks")
    for event, entry in entries.items():
        wanted = json_text.as_read(entry)
        there = hooks.setdefault(event, [])
        if not isinstance(there, list):
            raise Unmergeable(f"hooks.{event} is no list")
        if [one for one in there if _is_ours(one)] != [wanted]:
            hooks[event] = [*(one for one in there if not _is_ours(one)), wanted]
    return json_text.written(settings, text)


def without_hooks(text: str, head: Mapping[str, Any]) -> str | None:
    """Take all commands of ClawLink out of ``hooks``. Returns None if that leaves nothing."""
    settings = json_text.read(text, head)
    hooks = json_text.within(settings, "hooks")
    ours = [event for event, entries in hooks.items() if isinstance(entries, list) and any(map(_is_ours, entries))]
    if not ours:
        return text
    for event in ours:
        hooks[event] = [one for one in hooks[event] if not _is_ours(one)]
        if not hooks[event]:
            del hooks[event]
    if not hooks:
        del settings["hooks"]
    return None if settings in ({}, json_text.as_read(head)) else json_text.written(settings, text)


def with_server(text: str | None, server: Mapping[str, Any], at: Sequence[str] = ("mcpServers",)) -> str:
    """Put the MCP server into the object of servers, which has the path ``at``."""
    settings = json_text.read(text, {})
    servers = settings
    for name in at:
        servers = json_text.within(servers, name)
    if NAME in servers and not _is_our_server(servers[NAME]):
        raise Unmergeable(f"{'.'.join(at)} has another server that is called {NAME}")
    kept = servers.get(NAME, {})
    servers[NAME] = {**kept, **json_text.as_read(server)}
    return json_text.written(settings, text)


def without_server(text: str, at: Sequence[str] = ("mcpServers",)) -> str | None:
    """Take the MCP server out. Returns None if that leaves nothing."""
    settings = json_text.read(text, {})
    above = [settings]
    for name in at:
        above.append(json_text.within(above[-1], name))
    if NAME not in above[-1] or not _is_our_server(above[-1][NAME]):
        return text
    del above[-1][NAME]
    for holder, name in reversed(list(zip(above, at, strict=False))):
        if not holder[name]:
            del holder[name]
    return json_text.written(settings, text) if settings else None


def with_local(text: str | None, words: Sequence[str]) -> str:
    """Put the MCP server into ``mcp``, as opencode has it: a local one whose command is a list."""
    settings = json_text.read(text, {})
    servers = json_text.within(settings, "mcp")
    if NAME in servers and not _is_our_local(servers[NAME]):
        raise Unmergeable(f"mcp has another server that is called {NAME}")
    servers[NAME] = {"enabled": True, **servers.get(NAME, {}), "type": "local", "command": list(words)}
    return json_text.written(settings, text)


def without_local(text: str) -> str | None:
    """Take the MCP server out of ``mcp``. Returns None if that leaves nothing."""
    settings = json_text.read(text, {})
    servers = json_text.within(settings, "mcp")
    if NAME not in servers or not _is_our_local(servers[NAME]):
        return text
    del servers[NAME]
    if not servers:
        del settings["mcp"]
    return json_text.written(settings, text) if settings else None


def with_table(text: str | None, command: str, args: Sequence[str]) -> str:
    """Put the MCP server into a file of TOML: new values in its table, or a new table at the end."""
    before = text or ""
    settings = _toml(before)
    wanted = {"command": command, "args": list(args)}
    lines = {name: f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in wanted.items()}
    end = "\r\n" if "\r\n" in before else "\n"
    table = _table(before, settings)
    if table is None:
        gap = "" if not before.strip() else end * (2 - _ends(before))
        after = before + gap + end.join((f"[mcp_servers.{NAME}]", *lines.values(), ""))
    else:
        kept = settings["mcp_servers"][NAME]
        pieces = (
            lines[name] + _comment(piece) if name in lines and kept[name] != wanted[name] else piece
            for name, piece in _statements(table.body)
        )
        after = table.before + table.header + "".join(pieces) + table.after
    settings.setdefault("mcp_servers", {}).setdefault(NAME, {}).update(wanted)
    return _checked(after, settings)


def without_table(text: str) -> str | None:
    """Take the table out, up to the line of its last key. Returns None if that leaves nothing."""
    settings = _toml(text)
    servers = settings.get("mcp_servers")
    if not isinstance(servers, dict) or not _is_our_server(servers.get(NAME)):
        return text
    table = _table(text, settings)
    if table is None:
        return text
    del settings["mcp_servers"][NAME]
    before, after = table.before, table.after
    if not after.strip():
        after = ""
        before = before.rstrip("\r\n") + ("\r\n" if "\r\n" in before else "\n") * bool(before.strip())
    elif not before or _ends(before) == 2:
        after = after.lstrip("\r\n")
    if not settings["mcp_servers"] and not _is_named(before + after):
        del settings["mcp_servers"]
    return _checked(before + after, settings) if (before + after).strip() else None


# -- Commands ----------------------------------------------------------------------------------------------------------


def _arguments(words: Sequence[str]) -> list[str]:
    """Return the words after ``clawlink`` or ``PYTHON [-I] -m clawlink``; none for the words of another program."""
    if not words:
        return []
    name = ntpath.basename(words[0])
    if name.lower() in _EXECUTABLES:
        return list(words[1:])
    if _PYTHON.fullmatch(name) is None and words[0] != sys.executable:
        return []
    rest = words[2:] if words[1:2] and words[1] in _FLAGS else words[1:]
    return list(rest[2:]) if list(rest[:2]) == ["-m", NAME] else []


def _is_our_command(command: str) -> bool:
    """Return True if a shell would run ``clawlink hook EVENT`` and nothing else, on Windows or elsewhere."""
    if _ESCAPED_QUOTE.search(command) is not None or _ACTIVE.search(_INERT.sub("", command)) is not None:
        return False
    readings = [[word.replace('"', "") for word in _WINDOWS_WORD.findall(command)]]
    try:
        readings.append(shlex.split(command))
    except ValueError:
        return False
    for words in readings:
        arguments = _arguments(words)
        if arguments[:1] == ["agent"]:
            del arguments[0]
        if arguments[:1] == ["hook"] and arguments[1:2] and arguments[1] in (*EVENTS, WAIT):
            return True
    return False


# -- JSON --------------------------------------------------------------------------------------------------------------


def _is_ours(entry: Any) -> bool:
    """Return True for an entry of hooks that runs ClawLink and nothing else."""
    if not isinstance(entry, dict):
        return False
    inner = entry.get("hooks", [entry])
    return isinstance(inner, list) and bool(inner) and all(_runs_us(one) for one in inner)


def _runs_us(hook: Any) -> bool:
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and _is_our_command(command)


def _is_our_server(server: Any) -> bool:
    """Return True for a server that is ``clawlink ... mcp`` or ``PYTHON -m clawlink ... mcp``."""
    command, args = (server.get("command"), server.get("args")) if isinstance(server, dict) else (None, None)
    if not isinstance(command, str) or not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        return False
    return "mcp" in _arguments([command, *args])


def _is_our_local(server: Any) -> bool:
    """Return True for a local server of opencode that is ours."""
    words = server.get("command") if isinstance(server, dict) else None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return False
    return "mcp" in _arguments(words)


# -- TOML --------------------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """Our table in its text: what stands before it, its first line, its keys, and what stands after the last key."""

    before: str
    header: str
    body: str
    after: str


def _toml(text: str) -> dict[str, Any]:
    """Parse a text; numbers stay text. Refuse a text that is no TOML, and forms that a table cannot be added to."""
    settings = _whole(text)
    if isinstance(settings, str):
        raise Unmergeable(f"it is no TOML ({settings})")
    if re.search(r"^\s*mcp_servers\s*[.=]", text, re.MULTILINE):
        raise Unmergeable("mcp_servers is written inline there")
    return settings


def _whole(text: str) -> dict[str, Any] | str:
    """Parse a text, or return why it is no TOML, as for a part of one that ends within a value."""
    try:
        found: dict[str, Any] = tomllib.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        return str(error)
    return found


def _is_toml(text: str) -> bool:
    return not isinstance(_whole(text), str)


def _is_named(text: str) -> bool:
    return "mcp_servers" in _toml(text)


def _table(text: str, settings: Mapping[str, Any]) -> _Table | None:
    """Find our table. Raises Unmergeable if another server has its name, or its form is not known."""
    servers = settings.get("mcp_servers", {})
    if not isinstance(servers, dict):
        raise Unmergeable("mcp_servers is no table")
    if NAME not in servers:
        return None
    if not _is_our_server(servers[NAME]):
        raise Unmergeable(f"mcp_servers.{NAME} is another server there")
    if re.search(rf"^\s*\[+\s*[\"']?mcp_servers[\"']?\s*\.\s*[\"']?{NAME}[\"']?\s*\.", text, re.MULTILINE):
        raise Unmergeable(f"mcp_servers.{NAME} has tables of its own there")
    lines = _LINE.findall(text)

    def is_start(at: int) -> bool:  # and no line of a longer value
        return lines[at].lstrip().startswith("[") and _is_toml("".join(lines[:at]))

    first = next((at for at in range(len(lines)) if _HEADER.match(lines[at].rstrip()) and is_start(at)), None)
    if first is None:
        raise Unmergeable(f"mcp_servers.{NAME} has a form that is not known")
    last = next((at for at in range(first + 1, len(lines)) if is_start(at)), len(lines))
    end = last
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    while not _is_toml("".join(lines[:end])):  # such lines can also end a longer value
        end += 1
    parts = (lines[:first], lines[first : first + 1], lines[first + 1 : end], lines[end:])
    return _Table(*("".join(part) for part in parts))


def _statements(body: str) -> Iterator[tuple[str | None, str]]:
    """Yield the keys of a table with their text, without the line end, and what stands between them."""
    piece = ""
    for line in _LINE.findall(body):
        piece += line
        found = _whole(piece)
        if not isinstance(found, str):
            text = piece.rstrip("\r\n")
            yield next(iter(found), None), text
            yield None, piece[len(text) :]
            piece = ""
    yield None, piece


def _comment(piece: str) -> str:
    """Return the comment after a value, with the space before it."""
    value = _whole(piece)
    for mark in (at for at, character in enumerate(piece) if character == "#"):
        before = piece[:mark].rstrip(" \t")
        if _whole(before) == value:
            return piece[len(before) :]
    return ""


def _ends(text: str) -> int:
    """Return how many line ends a text has at its end, at most 2."""
    ends = text.replace("\r\n", "\n")
    return 2 if ends.endswith("\n\n") else int(ends.endswith("\n"))


def _checked(text: str, settings: Mapping[str, Any]) -> str:
    """Return the text if it says what is wanted, and refuse to write it otherwise."""
    if _whole(text) != settings:
        raise Unmergeable(f"mcp_servers.{NAME} cannot be changed there without a risk")
    return text
