"""A relay that the system would end below its limits says so at its start, with the flags that help."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest

from clawlink.domain.limits import Limits
from clawlink.server.memory_limit import memory_warning

MIB = 1024 * 1024
SMALL = replace(Limits(), max_memory=MIB, max_unread_total=MIB)


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write what Linux tells of control groups below a folder."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/\n", "sys/fs/cgroup/memory.max"),
        ("0::/system.slice/clawlink.service\n", "sys/fs/cgroup/system.slice/clawlink.service/memory.max"),
        ("0::/system.slice/clawlink.service\n", "sys/fs/cgroup/system.slice/memory.max"),
        ("5:cpu,cpuacct:/\n4:memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
        ("4:memory:/a:b\n", "sys/fs/cgroup/memory/a:b/memory.limit_in_bytes"),
    ],
)
def test_a_limit_of_a_container_or_service_below_the_relays_is_told(tmp_path: Path, groups: str, file: str) -> None:
    told = memory_warning(Limits(), system(tmp_path, groups, {file: f"{512 * MIB}\n"}))
    assert told is not None
    assert "512 MiB" in told
    found = dict(re.findall(r"--(max-[a-z-]+) (\d+)", told))
    helped = replace(Limits(), **{name.replace("-", "_"): int(size) for name, size in found.items()})
    assert helped.max_memory >= 256 * MIB
    assert memory_warning(helped, tmp_path) is None, "the flags that it names are enough"


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "", "x", "0\n", "-1\n"])
def test_what_is_no_limit_is_not_told(tmp_path: Path, text: str) -> None:
    assert memory_warning(SMALL, system(tmp_path, "0::/\nodd\n", {"sys/fs/cgroup/memory.max": text})) is None
    assert memory_warning(SMALL, tmp_path / "elsewhere") is None


def test_too_little_for_any_relay_is_told(tmp_path: Path) -> None:
    told = memory_warning(Limits(), system(tmp_path, "0::/", {"sys/fs/cgroup/memory.max": str(16 * MIB)}))
    assert told is not None
    assert told.endswith("give it more memory")


def test_a_relay_warns_at_its_start_if_all_is_in_memory(tmp_path: Path) -> None:
    much = ("--max-memory", str(2**60))  # no machine has it
    for flags, word in ((much, "by its limits"), ((*much, "--data", str(tmp_path / "data")), "the data folder keeps")):
        command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--no-mdns", *flags]
        with Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as relay:
            assert relay.stderr is not None
            heard = [relay.stderr.readline()]
            while heard[-1] and word not in heard[-1]:
                heard.append(relay.stderr.readline())
            relay.kill()
        assert word in heard[-1], heard
        assert "by its limits" not in "".join(heard[:-1]), heard
