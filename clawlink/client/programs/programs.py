"""The programs that ClawLink connects to: their files, and the changes that connect them or undo that."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clawlink import private
from clawlink.client.hooks.rules import WAIT
from clawlink.client.programs import json_text, merging, openclaw, opencode
from clawlink.client.programs.json_text import Unmergeable
from clawlink.client.programs.places import Place
from clawlink.errors import Conflicted
from clawlink.service import own_command

# In seconds: a little more than the hook waits.
_WAIT_TIMEOUT = 21_600
# The end of the name of a file that stands beside a file that connect made. It has the number of folders that connect
# made for it, and a digest of what connect wrote last.
_MADE = ".made-by-clawlink"
# All of Codex, Gemini CLI, Cursor and opencode read it. Gemini CLI warns of a skill that it finds twice.
_SHARED_SKILLS = ".agents/skills"
_CLAUDE = {event: event for event in ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd")}


class Program(NamedTuple):
    """A program. Paths are below the home folder, where no variable moves them, or below a project.

    ``events`` maps its events to those of ``clawlink hook``. A program with a ``plugin`` has no hooks in its settings:
    the file of its hooks is a program of ours. One with a ``webhook`` is woken over HTTP, and has a ``package``.
    ``skills`` is its folder of skills, ``at`` the path to the servers in their file.
    """

    name: str
    title: str
    executable: str
    folder: str
    hooks: str
    servers: str
    events: Mapping[str, str]
    project_servers: str | None  # None where a project has no settings
    skills: str
    flat: bool = False  # an entry of hooks is the command itself
    head: Mapping[str, Any] = {}
    cuts_comments: bool = False  # to it, two slashes begin a comment in the file of hooks, also within a text
    waits: tuple[str, ...] = ()  # events after which a hook waits for mail, to wake the session
    plugin: bool = False
    project_hooks: str | None = None
    webhook: bool = False
    at: tuple[str, ...] = ("mcpServers",)
    server_flags: tuple[str, ...] = ()
    package: str | None = None  # the folder of a plugin that has several files

    def files(self, place: Place) -> tuple[Path, Path]:
        """Return the file with the hooks and that with the MCP servers."""
        hooks = self.project_hooks if place.project and self.project_hooks else self.hooks
        servers = self.project_servers if place.project and self.project_servers else self.servers
        return place.of(self.name, hooks), place.of(self.name, servers)

    def skill(self, place: Place) -> Path:
        """Return the file of our skill."""
        return place.of(self.name, f"{self.skills}/{merging.NAME}/SKILL.md")


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "claude",
            "Claude Code",
            "claude",
            ".claude",
            ".claude/settings.json",
            ".claude.json",
            _CLAUDE,
            ".mcp.json",
            ".claude/skills",
            waits=("SessionStart", "Stop"),
        ),
        Program(
            "codex",
            "Codex",
            "codex",
            ".codex",
            ".codex/hooks.json",
            ".codex/config.toml",
            {event: event for event in _CLAUDE if event != "SessionEnd"},
            ".codex/config.toml",
            _SHARED_SKILLS,
        ),
        Program(
            "gemini",
            "Gemini CLI",
            "gemini",
            ".gemini",
            ".gemini/settings.json",
            ".gemini/settings.json",
            {
                "SessionStart": "SessionStart",
                "BeforeAgent": "UserPromptSubmit",
                "AfterTool": "PostToolUse",
                "AfterAgent": "Stop",
                "SessionEnd": "SessionEnd",
            },
            ".gemini/settings.json",
            _SHARED_SKILLS,
        ),
        Program(
            "cursor",
            "Cursor",
            "cursor",
            ".cursor",
            ".cursor/hooks.json",
            ".cursor/mcp.json",
            {
                "sessionStart": "SessionStart",
                "beforeSubmitPrompt": "UserPromptSubmit",
                "postToolUse": "PostToolUse",
                "stop": "Stop",
                "sessionEnd": "SessionEnd",
            },
            ".cursor/mcp.json",
            _SHARED_SKILLS,
            True,
            {"version": 1},
            cuts_comments=True,
        ),
        Program(
            "opencode",
            "opencode",
            "opencode",
            ".config/opencode",
            ".config/opencode/plugins/clawlink.js",
            ".config/opencode/opencode.json",
            {},
            "opencode.json",
            _SHARED_SKILLS,
            plugin=True,
            project_hooks=".opencode/plugins/clawlink.js",
        ),
        Program(
            "openclaw",
            "OpenClaw",
            "openclaw",
            ".openclaw",
            ".openclaw/openclaw.json",
            ".openclaw/openclaw.json",
            {},
            None,
            ".openclaw/skills",
            webhook=True,
            at=("mcp", "servers"),
            server_flags=("--host", "openclaw"),
            package=f".openclaw/{openclaw.FOLDER}",
        ),
    )
}


class Change(NamedTuple):
    """A file, its bytes now and afterwards; None where there is no file."""

    path: Path
    before: bytes | None
    after: bytes | None


def is_found(program: Program, place: Place) -> bool:
    """Return True if the program seems to be installed: its command, or its folder."""
    return shutil.which(program.executable) is not None or place.of(program.name, program.folder).is_dir()


def plan(program: Program, place: Place, *, flags: Sequence[str] = (), undo: bool = False) -> list[Change]:
    """Return the changes that connect a program, or undo that. Raises Unmergeable naming the file."""
    if not undo:
        _require_utf8((*_command(), *flags))
    files = program.files(place)
    before = {path: _bytes(path) for path in files}
    texts = _texts(program, files, before, flags=flags, undo=undo)
    for path, text in texts.items():
        is_plugin = program.plugin and path == files[0]  # all of it is ours
        if text is None and before[path] is not None and not is_plugin and not _mark(path).exists():
            texts[path] = (
                "" if path.suffix == ".toml" else json.dumps(dict(program.head) if path == files[0] else {}) + "\n"
            )
    changes = [Change(path, before[path], None if text is None else text.encode()) for path, text in texts.items()]
    return [change for change in changes if change.before != change.after]


def entries(program: Program, place: Place, *, flags: Sequence[str] = ()) -> dict[Path, str]:
    """Return the settings that connect a program which has none, by their files."""
    files = program.files(place)
    texts = _texts(program, files, dict.fromkeys(files), flags=flags, undo=False)
    return {path: text for path, text in texts.items() if text is not None}


def _texts(
    program: Program,
    files: tuple[Path, Path],
    before: Mapping[Path, bytes | None],
    *,
    flags: Sequence[str],
    undo: bool,
) -> dict[Path, str | None]:
    """Return the files of the hooks and of the servers after the change; None for no file. Raises Unmergeable."""
    texts: dict[Path, str | None] = {}
    for path, is_hooks in zip(files, (True, False), strict=True):
        try:
            text = texts[path] if path in texts else _text(before[path])
            texts[path] = _step(program, text, path, is_hooks=is_hooks, flags=flags, undo=undo)
        except Unmergeable as why:
            raise Unmergeable(f"{path} is left as it is: {why}") from None
    return texts


def is_connected(program: Program, place: Place) -> bool:
    """Return True if settings of the program have entries of ClawLink."""
    try:
        return bool(plan(program, place, undo=True))
    except (Unmergeable, OSError):
        return False


def plan_skill(
    program: Program, place: Place, skill: bytes, *, undo: bool = False, shared: bool = False
) -> list[Change]:
    """Return the change that puts the skill where the program looks, or takes it out. Raises Unmergeable.

    ``shared`` says that another connected program reads it there. A skill that was changed by hand stays.
    """
    path = program.skill(place)
    if undo and shared:
        return []
    mend = f"clawlink skill --dir {shlex.quote(str(path.parent.parent))} --force"
    return _plan_own(path, skill, undo=undo, other="another skill of that name", mend=mend)


def plan_package(program: Program, place: Place, *, flags: Sequence[str] = (), undo: bool = False) -> list[Change]:
    """Return the changes that put the files of a plugin into a folder of its own, or take them out. Raises Unmergeable.

    A file that was changed by hand stays.
    """
    if program.package is None:
        return []
    changes = []
    for name, content in openclaw.package(_command(), flags).items():
        path = place.of(program.name, f"{program.package}/{name}")
        mend = f"remove it, and run: clawlink connect {program.name}"
        changes += _plan_own(path, content, undo=undo, other="another plugin of that name", mend=mend)
    return changes


def _plan_own(path: Path, content: bytes, *, undo: bool, other: str, mend: str) -> list[Change]:
    """Return the change of a file that is ours as a whole. A mark beside it has the digest of what connect wrote."""
    now, made = _bytes(path), _made(path)
    untouched = now is None or (made is not None and made[1] == _digest(now))
    if undo:
        if now is None or made is None:
            return []
        if untouched:
            return [Change(path, now, None)]
        raise Unmergeable(f"{path} is left as it is: it was changed by hand")
    if now == content:
        return []
    if untouched:
        return [Change(path, now, content)]
    raise Unmergeable(f"{path} is left as it is: it was changed by hand, or is {other}; to replace it: {mend}")


def _step(
    program: Program, text: str | None, path: Path, *, is_hooks: bool, flags: Sequence[str], undo: bool
) -> str | None:
    if undo and text is None:
        return None
    if program.plugin:
        if is_hooks:
            return opencode.without_plugin(text or "") if undo else opencode.with_plugin(text, _command(), flags)
        words = [*_command(), "mcp", *flags]
        return merging.without_local(text or "") if undo else merging.with_local(text, words)
    if is_hooks and program.webhook:
        return openclaw.without_gateway(text or "") if undo else openclaw.with_gateway(text)
    if is_hooks:
        if undo:
            return merging.without_hooks(text or "", program.head)
        entries = {event: _entry(program, event, flags) for event in program.events}
        merged = merging.with_hooks(text, entries, program.head)
        return json_text.without_double_slashes(merged) if program.cuts_comments else merged
    command, args = _command()[0], [*_command()[1:], "mcp", *program.server_flags, *flags]
    if path.suffix == ".toml":
        return merging.without_table(text or "") if undo else merging.with_table(text, command, args)
    if undo:
        return merging.without_server(text or "", program.at)
    return merging.with_server(text, {"command": command, "args": args}, program.at)


def _command() -> list[str]:
    # The interpreter itself: programs run hooks with another PATH, and a shim costs time at each call.
    return list(own_command())


def _require_utf8(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise Unmergeable(
                f"{word!r} is not UTF-8, and settings are; nothing is changed; install ClawLink below another folder"
            ) from None


def _shell(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _entry(program: Program, event: str, flags: Sequence[str]) -> dict[str, Any]:
    """Return the entry of an event, as the program's documents have it."""

    def command(ours: str) -> str:
        return _shell([*_command(), "hook", ours, "--host", program.name, *flags])

    if program.flat:
        return {"command": command(program.events[event])}
    hooks: list[dict[str, Any]] = [{"type": "command", "command": command(program.events[event])}]
    if event in program.waits:
        waits = {"type": "command", "command": command(WAIT), "asyncRewake": True, "timeout": _WAIT_TIMEOUT}
        hooks.append(waits)
    return {"hooks": hooks}


def _mark(path: Path) -> Path:
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + _MADE)


def _said(folders: int, data: bytes) -> bytes:
    return f"{folders} {_digest(data)}".encode()


def _made(path: Path) -> tuple[int, str] | None:
    """Return how many folders were made for a file, and the digest of what was written last; None without a mark."""
    try:
        folders, _, digest = _mark(path).read_text("ascii").strip().partition(" ")
        return int(folders or 0), digest
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0, ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(path: Path) -> bytes | None:
    """Return the bytes of a plain file; None where there is none. Raises Unmergeable naming the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise Unmergeable(f"{path} is left as it is: it is no plain file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unmergeable(f"{path} is left as it is: {error.strerror or error}") from None


def require_writable(change: Change) -> None:
    """Look whether a change can be written, and write nothing. Raises Unmergeable naming the file."""
    path = Path(os.path.realpath(change.path))
    if change.before is not None and not os.access(path, os.W_OK):
        raise Unmergeable(f"{change.path} is left as it is: it is read-only")
    # The copy, the mark and the new file are made in the folder of the file, or in one that is made.
    folder = next((folder for folder in path.parents if os.path.lexists(folder)), path.parent)
    if not folder.is_dir():
        raise Unmergeable(f"{change.path} is left as it is: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Unmergeable(f"{change.path} is left as it is: the folder {folder} is read-only")


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise Unmergeable("it is not UTF-8") from None


def apply(change: Change, backup: str) -> Path | None:
    """Write a change, and return the copy of the file before. Raises Conflicted if the file has changed meanwhile.

    Raises OSError if it cannot be written; then the file is as it was, and there is no copy.
    A link stays a link: the file that it leads to is written. ``backup`` is the end of the copy's
    name. Beside a file that was not there before, a small file marks that. Such a file goes without a copy, and so do
    the folders that were made for it, where they are empty.
    """
    path = Path(os.path.realpath(change.path))
    if not _is_still(path, change.before):
        raise Conflicted(f"{change.path} has changed at this moment; run the command again")
    kept: Path | None = None
    if change.before is not None and (change.after is not None or not _mark(path).exists()):
        kept = path.with_name(path.name + backup)
    try:
        if kept is not None and change.before is not None:
            private.write(kept, change.before)
        if change.after is None:
            path.unlink()
            _unmake(path)
        else:
            _put(path, change, change.after)
    except OSError:
        if _is_still(path, change.before):
            if kept is not None:
                kept.unlink(missing_ok=True)
            if change.before is None:
                _unmake(path)
        raise
    return kept


def _is_still(path: Path, before: bytes | None) -> bool:
    try:
        return _bytes(path) == before
    except Unmergeable:
        return False


def _put(path: Path, change: Change, after: bytes) -> None:
    """Write a file, and the mark beside a file that is ours."""
    mode = path.stat().st_mode & 0o777 if change.before is not None else 0o600
    missing = sum(not folder.exists() for folder in path.parents)
    private.make_folder(path.parent, 0o755)
    made = _made(path)
    if change.before is None:
        private.write(_mark(path), _said(missing, after))
    elif not all(merging.NAME.encode() in data for data in (change.before, after)):
        _mark(path).unlink(missing_ok=True)  # another file has its place, or all that is left is of others
    elif made is not None:
        private.write(_mark(path), _said(made[0], after))
    private.write(path, after)
    path.chmod(mode)


def _unmake(path: Path) -> None:
    """Remove the mark of a file that is gone, and the folders that were made for it, where they are empty."""
    made = _made(path)
    _mark(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in a folder: it stays, and so do those above
        for folder in path.parents[: 0 if made is None else max(made[0], 0)]:
            folder.rmdir()
