"""How much memory the system lets the relay take: the machine's, or what its container or service may have."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from clawlink.domain.limits import Limits

_MIB = 1024 * 1024
# references/operations.md has the measurement: of what is counted, the process takes this much at most, plus itself.
_TAKEN, _IDLE_BYTES = 1.15, 45 * _MIB
# A limit is told in whole steps of this size.
_STEP = 16 * _MIB
_GROUPS, _OWN_GROUPS = "sys/fs/cgroup", "proc/self/cgroup"


def memory_warning(limits: Limits, root: Path = Path("/")) -> str | None:
    """Return what an operator should change if the system would end the relay below its limits, or None.

    ``root`` is where the folders ``proc`` and ``sys`` of Linux are.
    """
    have = _allowed(root)
    if have is None or (may_take := _most_taken(limits.max_memory, limits.max_unread_total)) <= have:
        return None
    unread = min(limits.max_unread_total, have // 8 // _STEP * _STEP)
    memory = int((have - _IDLE_BYTES - unread) / _TAKEN) // _STEP * _STEP
    told = f"the relay may take {_mib(may_take)} of memory by its limits, and the system gives it {_mib(have)}"
    if unread <= 0 or memory <= 0:
        return f"{told}: it would end the relay; give it more memory"
    flags = f"--max-memory {memory}"
    if unread < limits.max_unread_total:
        flags += f" --max-unread-total {unread}"
    return f"{told}: it would end a full relay, and all in memory would be lost; start it with {flags}"


def _most_taken(memory: int, unread: int) -> int:
    return int(memory * _TAKEN) + _IDLE_BYTES + unread


def _mib(size: int) -> str:
    return f"{size // _MIB} MiB"


def _allowed(root: Path) -> int | None:
    """Return the bytes that the system lets this process take, or None if it does not say."""
    found = _group_limits(root)
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in found if limit > 0), default=None)


def _group_limits(root: Path) -> list[int]:
    """Return the limits of the control groups of Linux that hold this process, and of those above them.

    A container often sees its own group at the root, and the name that it has outside: a missing folder says nothing.
    """
    found = []
    try:
        lines = (root / _OWN_GROUPS).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            top, file = root / _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(name.lstrip("/"))
        for group in (inside, *inside.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                found.append(int((top / group / file).read_text("ascii")))
    return found
