"""``backup``, ``restore`` and ``doctor --data``, beside a relay that runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from clawlink.client.sync import Client
from tests.cli.conftest import Run
from tests.conftest import Start


def test_a_relay_is_copied_while_it_runs_and_its_copy_goes_on(call: Run, start_relay: Start, tmp_path: Path) -> None:
    data, backup, again = (str(tmp_path / name) for name in ("data", "a backup", "and again"))
    relay = start_relay("--data", data)
    alice, bob = Client(relay.url), Client(relay.url)
    alice.register("alice", claim=True)
    bob.register("bob")
    alice.send("bob", "before the copy")
    alice.put_file("plan", "a plan")
    told = call("backup", data, backup).ok()
    assert f"1 contents, {sum(f.stat().st_size for f in Path(backup).rglob('*') if f.is_file())} bytes" in told.out
    assert f"clawlink restore {shlex.quote(backup)} DIR" in told.out
    alice.send("bob", "after it")
    assert call("backup", data, backup).failed(1).err.startswith(f"clawlink: {backup} is there already")
    relay.stop()

    told = call("relay", "restore", backup, again).ok()
    assert f"clawlink serve --data {shlex.quote(again)} " in told.out
    copy = start_relay("--data", again)
    alice.relay = bob.relay = copy.url
    contents = [getattr(claimed.message, "content", None) for claimed in bob.poll()]
    assert [content for content in contents if content is not None] == ["before the copy"]
    assert alice.get_file("plan").content == b"a plan"
    assert alice.heartbeat().status == "ok"  # with its key


def test_doctor_looks_at_a_folder_alone(call: Run, start_relay: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    start_relay("--data", str(data))
    found = call("doctor", "--data", str(data), "--json").ok().json
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == ["folder", "sqlite", "database", "time", "contents", "disk"]
    if os.name != "posix":
        return
    data.chmod(0o755)
    failed = call("doctor", "--data", str(data))
    assert failed.code == 1
    assert f"FAIL  folder      others on this machine may read {data}" in failed.out
    assert f"fix: chmod 700 {data}" in failed.out
    assert "no clawlink.db" in call("doctor", "--data", str(tmp_path)).out
