"""ClawLink's entries get into settings of other programs and out of them, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clawlink.client.programs import merging
from clawlink.client.programs.merging import Unmergeable

COMMANDS = {
    "Stop": "/py -m clawlink hook Stop --host claude",
    "SessionEnd": "/py -m clawlink hook SessionEnd --host claude",
}
SERVER = {"command": "/py", "args": ["-m", "clawlink", "mcp"]}


def grouped(command: str) -> dict[str, Any]:
    return {"hooks": [{"type": "command", "command": command}]}


def hooked(text: str | None) -> str:
    return merging.with_hooks(text, {event: grouped(command) for event, command in COMMANDS.items()}, {})


def unhooked(text: str) -> str | None:
    return merging.without_hooks(text, {})


THEIRS = {
    "model": "opus",
    "unknown": {"é": [1, 2.5, None, "☃"]},
    "hooks": {
        "Stop": [{"matcher": "x", "hooks": [{"type": "command", "command": "say clawlink hooked a fish"}]}],
        "PreToolUse": [],
    },
}
STYLES = {
    "two spaces": json.dumps(THEIRS, indent=2, ensure_ascii=False) + "\n",
    "four": json.dumps(THEIRS, indent=4, ensure_ascii=False) + "\n",
    "tabs": json.dumps(THEIRS, indent="\t", ensure_ascii=False),
    "windows": json.dumps(THEIRS, indent=2, ensure_ascii=False).replace("\n", "\r\n") + "\r\n",
}


def test_what_goes_in_comes_out_and_the_rest_stays_as_it_was_written() -> None:
    for name, text in STYLES.items():
        for into, out in ((hooked, unhooked), (lambda t: merging.with_server(t, SERVER), merging.without_server)):
            after = into(text)
            assert into(after) == after, name  # a second time changes nothing
            assert out(after) == text, name
            kept = json.loads(after)
            assert {key: kept[key] for key in ("model", "unknown")} == {
                key: THEIRS[key] for key in ("model", "unknown")
            }
        assert json.loads(hooked(text))["hooks"]["Stop"][0] == THEIRS["hooks"]["Stop"][0], name  # type: ignore[index]


def test_a_file_that_is_new_or_empty_holds_our_entries_alone_and_goes_with_them() -> None:
    for text in (None, "", " \n"):
        after = hooked(text)
        assert set(json.loads(after)["hooks"]) == set(COMMANDS)
        assert unhooked(after) is None
        assert merging.without_server(merging.with_server(text, SERVER)) is None
    cursor = merging.with_hooks(None, {"stop": {"command": "clawlink hook Stop"}}, {"version": 1})
    assert json.loads(cursor) == {"version": 1, "hooks": {"stop": [{"command": "clawlink hook Stop"}]}}
    assert merging.without_hooks(cursor, {"version": 1}) is None


def test_entries_of_another_installation_are_replaced_and_those_of_users_kept() -> None:
    users = {"hooks": [{"type": "command", "command": "clawlink hook Stop"}, {"type": "command", "command": "mine"}]}
    for old in ("clawlink hook Stop", "/usr/bin/clawlink hook Stop --host claude", '"C:\\x\\clawlink.exe" hook Stop'):
        text = json.dumps({"hooks": {"Stop": [grouped(old), users]}})
        stop = json.loads(hooked(text))["hooks"]["Stop"]
        assert stop == [users, grouped(COMMANDS["Stop"])], old
        assert json.loads(unhooked(text) or "") == {"hooks": {"Stop": [users]}}, old
    text = json.dumps(
        {"mcpServers": {"clawlink": {"command": "/old", "args": ["-m", "clawlink", "mcp"], "env": {"A": "b"}}}}
    )
    assert json.loads(merging.with_server(text, SERVER))["mcpServers"]["clawlink"] == {**SERVER, "env": {"A": "b"}}


def test_a_form_that_could_be_damaged_is_refused() -> None:
    for text in ("// a comment\n{}", "{,}", "[]", "null", '{"hooks": []}', '{"hooks": {"Stop": {}}}', "[" * 100_000):
        with pytest.raises(Unmergeable):
            hooked(text)
    for text in ('{"mcpServers": 1}', '{"mcpServers": {"clawlink": {"command": "other"}}}', "# no"):
        with pytest.raises(Unmergeable):
            merging.with_server(text, SERVER)
    for text in (
        "mcp_servers = { a = { command = 'x' } }\n",
        "mcp_servers.clawlink.command = 'x'\n",
        "[mcp_servers.clawlink]\ncommand = 'x'\n\n[mcp_servers.clawlink.env]\nA = 'b'\n",
        "[mcp_servers.clawlink]\ncommand = 'other'\nargs = ['serve']\n",
    ):
        with pytest.raises(Unmergeable):
            merging.with_table(text, "/py", ["-m", "clawlink", "mcp"])


def test_a_table_of_toml_stands_at_the_end_and_leaves_comments_alone() -> None:
    for text in (
        "",
        "# mine\nmodel = 'x'  # a comment\n",
        "model = 'x'",
        "a = 1\r\n\r\n[mcp_servers.other]\r\ncommand = 'y'\r\n",
        "a = 1\n\n\n",
    ):
        after = merging.with_table(text, 'C:\\py "☃"', ["-m", "clawlink", "mcp"])
        assert after.startswith(text.rstrip("\r\n")), text
        assert merging.with_table(after, 'C:\\py "☃"', ["-m", "clawlink", "mcp"]) == after, text
        moved = merging.with_table(after, "/new", ["-m", "clawlink", "mcp"])
        assert moved.count("[mcp_servers.clawlink]") == 1, text
        assert '"/new"' in moved, text
        back = merging.without_table(after)
        assert (back or "").rstrip("\r\n") == text.rstrip("\r\n"), text
        more = after + "\n[later]\nb = 2\n"
        assert (merging.without_table(more) or "").endswith("[later]\nb = 2\n"), text
