"""ClawLink's entries get into settings of other programs and out of them, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clawlink.client.programs import merging
from clawlink.client.programs.json_text import Unmergeable

COMMANDS = {
    "Stop": "/py -m clawlink hook Stop --host claude",
    "SessionEnd": "/py -m clawlink hook SessionEnd --host claude",
}
SERVER: dict[str, Any] = {"command": "/py", "args": ["-m", "clawlink", "mcp"]}


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
    for old in (
        "clawlink hook Stop",
        "/usr/bin/clawlink hook Stop --host claude",
        "/usr/bin/python3 -m clawlink hook Stop --host claude",
        '"C:\\x\\clawlink.exe" hook Stop',
    ):
        text = json.dumps({"hooks": {"Stop": [grouped(old), users]}})
        stop = json.loads(hooked(text))["hooks"]["Stop"]
        assert stop == [users, grouped(COMMANDS["Stop"])], old
        assert json.loads(unhooked(text) or "") == {"hooks": {"Stop": [users]}}, old
    text = json.dumps(
        {
            "mcpServers": {
                "clawlink": {"command": "/old/python3.13t", "args": ["-m", "clawlink", "mcp"], "env": {"A": "b"}}
            }
        }
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
        after = merging.with_table(text, 'C:\\"☃"\\python.exe', ["-m", "clawlink", "mcp"])
        assert after.startswith(text.rstrip("\r\n")), text
        assert merging.with_table(after, 'C:\\"☃"\\python.exe', ["-m", "clawlink", "mcp"]) == after, text
        moved = merging.with_table(after, "/new", ["-m", "clawlink", "mcp"])
        assert moved.count("[mcp_servers.clawlink]") == 1, text
        assert '"/new"' in moved, text
        back = merging.without_table(after)
        assert (back or "").rstrip("\r\n") == text.rstrip("\r\n"), text
        more = after + "\n[later]\nb = 2\n"
        assert (merging.without_table(more) or "").endswith("[later]\nb = 2\n"), text


def test_a_hook_is_ours_only_if_it_runs_clawlink_and_nothing_else() -> None:
    theirs = (
        "/home/u/backup.sh && clawlink hook Stop --host claude",
        "echo 'see: clawlink hook docs' >> ~/log; audit.sh",
        "clawlink hook Stop --host claude; audit.sh",
        "clawlink hook Stop\naudit.sh",
        "clawlink hook Stop | tee log",
        "clawlink hook Stop > log",
        "clawlink hook Stop < in",
        "clawlink hook Stop & audit.sh",
        "clawlink hook Stop --host `audit.sh`",
        'clawlink hook Stop --host "$(audit.sh)"',
        'clawlink hook Stop \\"; audit.sh \\"',
        "(clawlink hook Stop)",
        "echo clawlink hook Stop",
        "env A=b clawlink hook Stop",
        "pytest -m clawlink hook Stop",
        "python -m other hook Stop",
        "python -I -m other hook Stop",
        "python -c -m clawlink hook Stop",
        "/opt/clawlink-audit hook Stop",
        "clawlink hook docs",
        "clawlink hook",
        "clawlink poll",
        "clawlink 'hook Stop'",
        "clawlink hook 'Stop",
        r"C:\audit.exe & C:\x\clawlink.exe hook Stop",
        "",
    )
    ours = (
        "clawlink hook Stop",
        "~/.local/bin/clawlink hook Wait --host claude",
        "clawlink agent hook SessionEnd",
        "'/home/u/R&D (x)/bin/python3.13' -m clawlink hook Stop --host claude --relay 'http://r/?a=1&b=2'",
        """'/home/it'"'"'s; mine/clawlink' hook Stop""",
        "py -m clawlink hook Stop",
        "/usr/bin/python3 -I -m clawlink hook Stop --host claude",
        "/usr/bin/python3 -P -m clawlink hook Stop --host claude",
        r"C:\x\python.exe -m clawlink hook Stop --host claude",
        r'"C:\Program Files (x86)\R&D\pythonw.exe" -m clawlink hook Stop',
        r"C:\x\Scripts\clawlink.exe hook PostToolUse",
    )
    for command in (*theirs, *ours):
        text = json.dumps({"hooks": {"Stop": [grouped(command)]}})
        kept = [] if command in ours else [grouped(command)]
        assert json.loads(hooked(text))["hooks"]["Stop"] == [*kept, grouped(COMMANDS["Stop"])], command
        assert unhooked(text) == (None if command in ours else text), command


def test_a_server_is_ours_only_if_it_runs_the_server_of_clawlink() -> None:
    theirs: tuple[tuple[str, list[Any]], ...] = (
        ("docker", ["run", "mcp"]),
        ("/opt/mcp", ["clawlink", "mcp"]),
        ("python", ["-m", "other", "mcp"]),
        ("clawlink", ["serve"]),
        ("clawlink", [1, "mcp"]),
    )
    for command, args in theirs:
        text = json.dumps({"mcpServers": {"clawlink": {"command": command, "args": args}}})
        assert merging.without_server(text) == text, command
        with pytest.raises(Unmergeable, match="another server"):
            merging.with_server(text, SERVER)
    table = "[mcp_servers.clawlink]\ncommand = 'docker'\nargs = ['run']  # an mcp server\n"
    assert merging.without_table(table) == table
    with pytest.raises(Unmergeable, match="another server"):
        merging.with_table(table, "/py", ["-m", "clawlink", "mcp"])
    for command, args in (
        ("/usr/bin/clawlink", [*SERVER["args"][2:], "--relay", "r"]),
        (r"C:\x\python.exe", SERVER["args"]),
        ("/py/python3", ["-I", *SERVER["args"]]),
    ):
        text = json.dumps({"mcpServers": {"clawlink": {"command": command, "args": args}}})
        assert merging.without_server(text) is None, command


def test_a_key_that_stands_twice_is_refused_and_nothing_is_dropped() -> None:
    text = '{"hooks": {"Stop": [1]}, "hooks": {}}'
    server = '{"mcpServers": {"a": {"x": 1, "x": 2}}}'
    for change, given in (
        (hooked, text),
        (unhooked, text),
        (lambda t: merging.with_server(t, SERVER), server),
        (merging.without_server, server),
    ):
        with pytest.raises(Unmergeable, match="more than once; keep one of them"):
            change(given)


def test_numbers_and_halves_of_characters_come_back_as_they_were() -> None:
    for number in ("1e400", "-1E+2", "1.0", "0.1000", "12345678901234567890.123456789", "-0", "9" * 5000):
        text = f'{{"a": [{number}], "b": {number}}}'
        for after in (hooked(text), merging.with_server(text, SERVER)):
            assert after.startswith(text[:-1]), number
    for constant in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(Unmergeable, match="no plain JSON"):
            hooked(f'{{"a": {constant}}}')
    text = '{"\\udc00": "x\\ud83d", "pair": "☃😀"}'
    for after in (hooked(text), merging.with_server(text, SERVER)):
        assert after.encode().decode().startswith(text[:-1])


def test_what_has_nothing_of_ours_is_not_touched() -> None:
    for text in ("", "{}", '{"hooks": {}}', '{"mcpServers": {}}', '{"a":1}\n'):
        assert (unhooked(text), merging.without_server(text)) == (text, text), text
    for text in ("", "\n", "# mine\n", "[mcp_servers]\n"):
        assert merging.without_table(text) == text, text


def test_a_table_keeps_the_comments_and_keys_of_users() -> None:
    ours = (
        "[mcp_servers.clawlink]  # [mine]\n# first\n"
        'command = "/old/python"  # "old"\nargs = [\n  ["-m"],\n]\nenv.A = "b"\nstartup_timeout_sec = 1.50\n'
    ).replace('["-m"],', '"-m", "clawlink",\n# ]\n  "mcp",')
    after = "\n# of the next table\n\n[next]\nlist = [\n[1],\n]\n"
    for before in ("", "a = nan\ntext = '''\n[mcp_servers.clawlink]\n'''\n\n"):
        for end in ("\n", "\r\n"):
            text, rest = ((before + ours + after).replace("\n", end), after.replace("\n", end))
            new = merging.with_table(text, "/new/python", ["-m", "clawlink", "mcp"])
            assert new == text.replace("/old/python", "/new/python"), text
            more = merging.with_table(text, "/old/python", ["-m", "clawlink", "mcp", "--relay", "r"])
            assert f'args = ["-m", "clawlink", "mcp", "--relay", "r"]{end}env.A = "b"{end}' in more, text
            assert more.endswith(rest), text
            assert merging.with_table(more, "/old/python", ["-m", "clawlink", "mcp", "--relay", "r"]) == more, text
            gone = merging.without_table(text)
            assert gone is not None, text
            assert gone == before.replace("\n", end) + rest.lstrip("\r\n"), text


def test_forms_of_a_table_that_are_not_known_are_refused() -> None:
    body = "command = 'python'\nargs = ['-m', 'clawlink', 'mcp']\n"
    for text in (
        f"[mcp_servers]\nx.a = 1\n[mcp_servers.clawlink]\n{body}[mcp_servers.clawlink.env]\nA = 'b'\n",
        f"['mcp_servers'.clawlink]\n{body}",
        "[mcp_servers]\nclawlink = {command = 'python', args = ['-m', 'clawlink', 'mcp']}\n",
        "mcp_servers = 1\n",
        "a = 1\na = 2\n",
    ):
        for change in (lambda t: merging.with_table(t, "/py", ["-m", "clawlink", "mcp"]), merging.without_table):
            with pytest.raises(Unmergeable):
                change(text)
