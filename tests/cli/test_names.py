"""Names instead of ids where a person reads, and ids where a name cannot be typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import Run

Fresh = Callable[[str], str]


@pytest.fixture
def names(call: Run, relay: str, fresh: Fresh) -> tuple[str, str]:
    """Register two agents of this account: one that asks, and one that does."""
    asks, does = fresh("asks"), fresh("does")
    for name in (asks, does):
        call("register", "--name", name, "--notices").ok()
    return asks, does


def test_every_view_names_agents(call: Run, names: tuple[str, str], fresh: Fresh, tmp_path: Path) -> None:
    asks, does = names
    ids = {one: call("whoami", "--as", one, "--offline", "--json").ok().json["chosen"]["agent_id"] for one in names}
    key, file = fresh("file"), tmp_path / "text"
    for name, text in ((asks, "one\n"), (does, "two\n")):
        file.write_text(text)
        call("file-put", "--as", name, "--key", key, "--file", str(file)).ok()
    call("file-lock", "--as", does, "--key", key).ok()
    pooled = call("delegate", "--as", asks, "--to-any-of", f"{does},{asks}", "--task", "x", "-q").ok().out.strip()
    task = call("delegate", "--as", asks, "--to", does, "--task", "x", "-q").ok().out.strip()
    call("poll", "--as", does, "--max", "50").ok()
    call("respond", "--as", does, "--msg-id", task, "--status", "in_progress", "--note", "half").ok()
    call("cancel", "--as", asks, task).ok()
    views = [
        (("file-diff", "--as", asks, "--key", key, "1", "2"), (asks, does)),
        (("file-history", "--as", asks, "--key", key), (asks, does)),
        (("file-list", "--as", asks), (does,)),
        (("tasks", "--as", does), (asks,)),
        (("task", "--as", does, task), (asks,)),
        (("task", "--as", asks, pooled), (asks, does)),
        (("status", "--as", asks, task), (asks, does)),
        (("poll", "--as", does, "--max", "50"), (asks,)),
    ]
    for command, expected in views:
        shown = call(*command).ok().out
        for name in expected:
            assert f'"{name}"' in shown, (command, shown)
        for name in expected:
            bare = [line for line in shown.splitlines() if ids[name] in line and f'"{name}"' not in line]
            assert not [line for line in bare if "clawlink " not in line], (command, bare)


def test_ages_have_the_time_of_day(call: Run, names: tuple[str, str]) -> None:
    asks, does = names
    task = call("delegate", "--as", asks, "--to", does, "--task", "x", "-q").ok().out.strip()
    call("cancel", "--as", asks, task).ok()
    for command, label in (("status", "stored"), ("task", "asked"), ("wait", "ended")):
        shown = call(command, "--as", asks, task).raw.decode()
        assert re.search(rf"{label}: +\d+ s ago \(\d\d:\d\d:\d\d\)\n", shown), (command, shown)
    history = call("task", "--as", asks, task).ok().out
    assert re.search(r"\+0 s +\(\d\d:\d\d:\d\d\) queued, by you", history), history


def test_agents_are_listed_once_however_many_are_named(
    call: Run, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, does = names
    listed: list[Any] = []
    real = Client.discover

    def discover(self: Client, *asked: Any, **how: Any) -> Any:
        listed.append(how)
        return real(self, *asked, **how)

    monkeypatch.setattr(Client, "discover", discover)
    call("delegate", "--as", asks, "--to", f"{does},abcd,{asks}", "--task", "x").failed(5)
    assert len(listed) == 1


def test_the_id_stands_for_a_name_that_cannot_be_typed(call: Run, relay: str, fresh: Fresh) -> None:
    name = fresh("na\u200dme")
    agent_id = call("register", "--name", name, "--json").ok().json["agent"]["agent_id"]
    call("register", "--name", fresh("other")).ok()
    refused = call("poll").failed(2).err
    assert f"{agent_id} (on " in refused
    again = call("register", "--name", agent_id, "--json").ok().json
    assert (again["agent"]["name"], again["agent"]["agent_id"], again["resumed"]) == (name, agent_id, True)
