"""Entries of ClawLink in settings of other programs, pure: text in, text out. All other entries stay as they are."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "clawlink"
_OURS = re.compile(r"\bclawlink(?:\.exe)?[\"']?\s+hook\s")
_INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)
_TABLE = f"[mcp_servers.{NAME}]"


class Unmergeable(Exception):
    """The settings have a form that no entry can be put into without a risk; the message says which."""


def with_hooks(text: str | None, entries: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """Put an entry for each event into ``hooks``. ``head`` are the other fields of a new file."""
    settings = _read(text, head)
    hooks = _within(settings, "hooks")
    for event, wanted in entries.items():
        there = hooks.setdefault(event, [])
        if not isinstance(there, list):
            raise Unmergeable(f"hooks.{event} is no list")
        if [one for one in there if _is_ours(one)] != [wanted]:
            hooks[event] = [*(one for one in there if not _is_ours(one)), wanted]
    return _written(settings, text)


def without_hooks(text: str, head: Mapping[str, Any]) -> str | None:
    """Take all commands of ClawLink out of ``hooks``. Returns None if nothing else is left."""
    settings = _read(text, head)
    hooks = _within(settings, "hooks")
    for event, entries in list(hooks.items()):
        if isinstance(entries, list) and any(map(_is_ours, entries)):
            hooks[event] = [one for one in entries if not _is_ours(one)]
            if not hooks[event]:
                del hooks[event]
    if not hooks:
        del settings["hooks"]
    return None if settings in ({}, dict(head)) else _written(settings, text)


def with_server(text: str | None, server: Mapping[str, Any]) -> str:
    """Put the MCP server into ``mcpServers``."""
    settings = _read(text, {})
    servers = _within(settings, "mcpServers")
    if NAME in servers and not _is_our_server(servers[NAME]):
        raise Unmergeable(f"mcpServers has another server that is called {NAME}")
    kept = servers.get(NAME, {})
    servers[NAME] = {**kept, **server}
    return _written(settings, text)


def without_server(text: str) -> str | None:
    """Take the MCP server out. Returns None if nothing else is left."""
    settings = _read(text, {})
    servers = _within(settings, "mcpServers")
    if NAME in servers and _is_our_server(servers[NAME]):
        del servers[NAME]
    if not servers:
        del settings["mcpServers"]
    return _written(settings, text) if settings else None


def with_table(text: str | None, command: str, args: Sequence[str]) -> str:
    """Put the MCP server into a file of TOML, as a table of its own at the end."""
    before = text or ""
    _require_toml(before)
    listed = ", ".join(json.dumps(arg, ensure_ascii=False) for arg in args)
    table = f"{_TABLE}\ncommand = {json.dumps(command, ensure_ascii=False)}\nargs = [{listed}]\n"
    rest, found = _cut(before)
    if found is not None:
        if found.split() == table.split():
            return before
        rest = _without(before, found)
    end = "\r\n" if "\r\n" in before else "\n"
    gap = (
        ""
        if not rest.strip()
        else end
        if rest.endswith(("\n\n", "\r\n\r\n"))
        else end * (1 + (not rest.endswith("\n")))
    )
    after = rest + gap + table.replace("\n", end)
    _require_toml(after)
    return after


def without_table(text: str) -> str | None:
    """Take the table out. Returns None if nothing else is left."""
    _require_toml(text)
    _, found = _cut(text)
    after = text if found is None else _without(text, found)
    _require_toml(after)
    return after if after.strip() else None


# -- JSON --------------------------------------------------------------------------------------------------------------


def _read(text: str | None, head: Mapping[str, Any]) -> dict[str, Any]:
    if text is None or not text.strip():
        return dict(head)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unmergeable(f"it is no plain JSON, as with comments ({error})") from None
    if not isinstance(settings, dict):
        raise Unmergeable("it is no JSON object")
    return settings


def _within(settings: dict[str, Any], name: str) -> dict[str, Any]:
    found = settings.setdefault(name, {})
    if not isinstance(found, dict):
        raise Unmergeable(f"{name} is no object")
    return found


def _written(settings: dict[str, Any], text: str | None) -> str:
    """Write settings as the text was: its indentation, its line ends, and its last one. Equal settings stay as text."""
    if text is not None and text.strip() and json.loads(text) == settings:
        return text
    found = _INDENT.search(text or "")
    one_line = text is not None and text.strip() != "" and "\n" not in text.strip()
    indent = None if one_line else found[1] if found else 2
    written = json.dumps(settings, indent=indent, ensure_ascii=False)
    if text is None or not text.strip() or text.endswith("\n"):
        written += "\n"
    return written.replace("\n", "\r\n") if text is not None and "\r\n" in text else written


def _is_ours(entry: Any) -> bool:
    """Return True for an entry of hooks that runs ClawLink and nothing else."""
    if not isinstance(entry, dict):
        return False
    inner = entry.get("hooks", [entry])
    return isinstance(inner, list) and bool(inner) and all(_runs_us(one) for one in inner)


def _runs_us(hook: Any) -> bool:
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and _OURS.search(command) is not None


def _is_our_server(server: Any) -> bool:
    args = server.get("args") if isinstance(server, dict) else None
    return isinstance(args, list) and "mcp" in args


# -- TOML --------------------------------------------------------------------------------------------------------------


def _require_toml(text: str) -> None:
    """Refuse a text that is no TOML, where this Python can tell, and forms that a table cannot be added to."""
    if re.search(r"^\s*mcp_servers\s*[.=]", text, re.MULTILINE):
        raise Unmergeable("mcp_servers is written inline there")
    if re.search(rf"^\s*\[\s*mcp_servers\s*\.\s*[\"']?{NAME}[\"']?\s*\.", text, re.MULTILINE):
        raise Unmergeable(f"mcp_servers.{NAME} has tables of its own there")
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Unmergeable(f"it is no TOML ({error})") from None


def _cut(text: str) -> tuple[str, str | None]:
    """Return the text before our table, and the table; without one, all of the text and None."""
    found = re.search(rf"^\[mcp_servers\.{NAME}\][ \t]*\r?\n(?:(?!\s*\[).*(?:\r?\n|$))*", text, re.MULTILINE)
    if found is None:
        return text, None
    if "mcp" not in found[0].partition("args")[2]:
        raise Unmergeable(f"mcp_servers.{NAME} is another server there")
    return text[: found.start()], found[0]


def _without(text: str, table: str) -> str:
    before, _, after = text.partition(table)
    return (
        before + after
        if after
        else before.rstrip("\r\n") + ("\r\n" if "\r\n" in before else "\n") * bool(before.strip())
    )
