"""Foreign names, made safe as names of files here: pure functions, the same on every system.

Other agents choose a key, the name of an attachment and a member of a tar. ``safe_name`` makes a plain name of any of
them, which cannot leave its folder. A path of several names is not repaired: it is either harmless or refused, because
two repaired paths could become the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from clawlink.domain.devices import is_device

# The longest file name of most systems, in bytes, less the marks around it while it is written.
_MOST_BYTES = 200
_LONGEST_SUFFIX = 20
# Characters that hide or end a name: controls, line separators, text direction, zero width, lone surrogates.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
# Windows takes none of these within a name. A colon is a drive there, or a stream of the file; both slashes part names.
_WINDOWS = re.compile(r'[<>:"|?*]')
_SLASHES = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_FALLBACK = "file"


def safe_name(name: str, fallback: str = _FALLBACK) -> str:
    """Return a plain name for a foreign name of a file: the last part of a path, with either kind of slash.

    It is no path, no ``.`` or ``..``, no device or drive of Windows, not hidden and no flag. It has no invisible
    characters, ends in neither dot nor space, and is short enough for all systems. If nothing is left of it, it is
    ``fallback``.
    """
    parts = [part for part in _SLASHES.split(name) if part.strip(" .")]
    last = _WINDOWS.sub("_", _HIDDEN.sub("_", parts[-1] if parts else ""))
    last = _shortened(last.strip(" ").rstrip(" ."))
    if not last.strip("._ "):
        return fallback
    return f"_{last}" if is_device(last) or last.startswith(("-", "~", ".")) else last


def _shortened(name: str) -> str:
    """Cut a name at its end, but before its suffix."""
    if len(name.encode()) <= _MOST_BYTES:
        return name
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    room = _MOST_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + suffix


def parts_within(path: str, *, windows: bool = os.name == "nt") -> tuple[str, ...]:
    """Return the names of a relative path that stays in its folder. Raises ValueError with the fault.

    A ``.`` and a doubled slash mean nothing, as everywhere. With ``windows`` it also refuses a backslash, a drive, a
    device, and a dot or space at the end of a name.
    """
    if not path:
        raise ValueError("has no name")
    if "\x00" in path:
        raise ValueError("has a NUL in its name")
    # A drive or a backslash at the beginning is refused on every system, because no honest name has it.
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        raise ValueError("is an absolute path")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    for part in parts:
        for fault in _faults(part, windows):
            raise ValueError(fault)
    return parts


def _faults(part: str, windows: bool) -> Iterator[str]:
    if ".." in _SLASHES.split(part):
        yield "leads out of the folder by .."
    if _HIDDEN.search(part) and not _is_undecoded(part):
        yield "has characters in its name that cannot be seen"
    if len(os.fsencode(part) if _is_undecoded(part) else part.encode()) > 255:
        yield "has a name longer than 255 bytes"
    if not windows:
        return
    if "\\" in part or _WINDOWS.search(part):
        yield "has a character in its name that Windows does not take"
    if part.endswith((" ", ".")):
        yield "ends in a dot or space, which Windows leaves out"
    if is_device(part):
        yield "is named as a device of Windows"


def _is_undecoded(part: str) -> bool:
    """Return True if a name is only not UTF-8: Python keeps each such byte as a surrogate of its own."""
    plain = re.sub("[\udc80-\udcff]", "", part)
    return plain != part and not _HIDDEN.search(plain) and os.name != "nt"


def link_within(path: tuple[str, ...], target: str, *, windows: bool = os.name == "nt") -> None:
    """Refuse a symbolic link at ``path`` that leads out of the folder, step by step. Raises ValueError."""
    if not target or "\x00" in target or target.startswith(("/", "\\")) or _DRIVE.match(target):
        raise ValueError("is a link to an absolute path")
    depth = len(path) - 1
    for step in _SLASHES.split(target) if windows else target.split("/"):
        depth += -1 if step == ".." else 0 if step in ("", ".") else 1
        if depth < 0:
            raise ValueError("is a link that leads out of the folder")
