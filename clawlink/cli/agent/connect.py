"""``clawlink connect``: put hooks, tools and the skill into the places of a program, and take them out again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit, UsageError

if TYPE_CHECKING:
    from typing import Any

    from clawlink.cli.context import Context
    from clawlink.client.programs.places import Place
    from clawlink.client.programs.programs import Change, Program

_NAMES = ("claude", "codex", "gemini", "cursor", "opencode", "openclaw")
_OF_A_CHANGE = ("project", "dry_run", "undo", "yes")
_SKILL = "SKILL.md"
_VERSION_SECONDS = 10.0
_STATUS_SECONDS = 5.0
_NONE_FOUND = "No program is found here. Install one, or name one that you install later: clawlink connect claude"


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "program",
        nargs="?",
        metavar="PROGRAM",
        choices=(*_NAMES, "all"),
        help=f"{', '.join(_NAMES)}, or all that are found; without one, show which are connected",
    )
    parser.add_argument("--project", action="store_true", help="for the project in this folder (default: all projects)")
    parser.add_argument("--dry-run", action="store_true", help="show the changes, and write nothing")
    parser.add_argument("--undo", action="store_true", help="take ClawLink's entries out again")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: Namespace, ctx: Context) -> Exit:
    """Show the changes as a diff, ask, and write them."""
    from clawlink.client.identity import account_home
    from clawlink.client.programs.places import Place
    from clawlink.client.programs.programs import PROGRAMS, is_found
    from clawlink.domain.terminal import cell

    user = Place(account_home(), environ=ctx.environ)
    if args.program is None:
        flags = [f"--{name.replace('_', '-')}" for name in _OF_A_CHANGE if getattr(args, name)]
        if flags:
            raise UsageError(f"name the program, or all: clawlink connect all {' '.join(flags)}")
        return _show(ctx, user)
    place = Place(Path.cwd(), project=True) if args.project else user
    found = [program for program in PROGRAMS.values() if is_found(program, user)]
    chosen = found if args.program == "all" else [PROGRAMS[args.program]]
    changes, left, settled = _planned(args, ctx, chosen, place)
    for change in changes:
        _diff(ctx, change)
    for why, program in left.items():
        ctx.warn(why)
        if program is not None:
            _by_hand(ctx, program, place, _flags(args, ctx))
    wanted = changes if changes and not args.dry_run and _agreed(args, ctx) else []
    # Undone in turn: a folder can go with the last file in it.
    written, copies, failed = _write(wanted[::-1] if args.undo else wanted)
    for why in failed.values():
        ctx.warn(why)
    if failed and written:
        ctx.warn(_half_written(args, written))
    left |= dict.fromkeys(failed.values())
    if ctx.json:
        files = [{"path": str(change.path), "written": change in written} for change in changes]
        ctx.out.json({"files": files, "copies": copies, "left": list(left)})
    elif not changes and not left:
        ctx.out.line("Nothing to undo." if args.undo else "Connected already." if chosen else _NONE_FOUND)
    elif args.dry_run:
        ctx.out.line("Nothing was written.", style="bold")
    elif written:
        settled = [one for one in settled if not failed.keys() & set(one.files(place))]
        _told(
            args,
            ctx,
            settled,
            written,
            left=bool(left),
            failed=bool(failed),
            missing=[one for one in settled if one not in found],
        )
        ctx.out.facts(*(("as before", cell(copy)) for copy in copies))
    return Exit.FAILED if left or (changes and not wanted and not args.dry_run) else Exit.DONE


def _planned(
    args: Namespace, ctx: Context, chosen: list[Program], place: Place
) -> tuple[list[Change], dict[str, Program | None], list[Program]]:
    """Return the changes, each file once, why others are left, and the programs whose settings can be written.

    A reason has its program if a person may add that program's entries by hand.
    """
    from clawlink.cli.learn.skill import packaged
    from clawlink.client.programs.json_text import Unmergeable
    from clawlink.client.programs.programs import (
        PROGRAMS,
        is_connected,
        plan,
        plan_package,
        plan_skill,
        require_writable,
    )

    flags = _flags(args, ctx)
    skill = packaged().read_bytes()
    changes: dict[Path, Change] = {}
    left: dict[str, Program | None] = {}
    settled: list[Program] = []
    for program in chosen:
        if args.project and program.project_servers is None:
            if args.program != "all":
                left[f"{program.title} has no settings of a project; leave --project out"] = None
            continue
        others = [one for one in PROGRAMS.values() if one not in chosen and one.skill(place) == program.skill(place)]
        shared = args.undo and any(is_connected(one, place) for one in others)
        for planned in (
            partial(plan, program, place, flags=flags, undo=args.undo),
            partial(plan_package, program, place, flags=flags, undo=args.undo),
            partial(plan_skill, program, place, skill, undo=args.undo, shared=shared),
        ):
            try:
                new = planned()
                for change in new:
                    require_writable(change)
                changes.update((change.path, change) for change in new)
                if planned.func is plan:
                    settled.append(program)
            except Unmergeable as why:
                if planned.func is not plan:
                    left[str(why)] = None
                elif args.undo:
                    left[f"{why}; mend this, and run the command again"] = None
                else:
                    left[f"{why}; mend this, and run the command again, or add these entries by hand"] = program
    return list(changes.values()), left, settled


def _flags(args: Namespace, ctx: Context) -> list[str]:
    """Return the flags of the commands in the settings."""
    return ["--relay", ctx.given.relay] if args.relay is not None and ctx.given.relay is not None else []


def _by_hand(ctx: Context, program: Program, place: Place, flags: list[str]) -> None:
    """Print the entries of a program whose settings are left as they are, where its diff would stand.

    A secret among them is new and stored nowhere. It is shown, for a placeholder would be copied in its place.
    """
    from clawlink.client.programs.programs import entries
    from clawlink.domain.terminal import cell

    out = ctx.err if ctx.json else ctx.out
    for path, text in entries(program, place, flags=flags).items():
        out.line(cell(f"{path}:"), style="bold")
        for line in text.splitlines():
            out.line(f"  {cell(line)}")


def _diff(ctx: Context, change: Change) -> None:
    """Print the change of a file, on standard error where the result is JSON."""
    import difflib

    from clawlink.client.programs.openclaw import TOKEN
    from clawlink.domain.terminal import cell

    out = ctx.err if ctx.json else ctx.out
    if change.path.name == _SKILL:
        did = "the skill goes" if change.after is None else "the skill, as `clawlink skill` prints it"
        out.line(cell(f"{'-' if change.after is None else '+'} {change.path}: {did}"))
        return
    now, then = ([] if data is None else data.decode().splitlines() for data in (change.before, change.after))
    for line in difflib.unified_diff(now, then, f"{change.path} (now)", f"{change.path} (then)", lineterm=""):
        shown = TOKEN.sub("clawlink-(a new secret)", line)
        out.line(cell(shown), style={"+": "green", "-": "red"}.get(line[:1]))


def _agreed(args: Namespace, ctx: Context) -> bool:
    if args.yes:
        return True
    import sys

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("no question can be asked here: add --yes to write this, or --dry-run to see it only")
    return ctx.agreed("Write this?")


def _write(changes: list[Change]) -> tuple[list[Change], list[str], dict[Path, str]]:
    """Write the changes. Return those that were written, the copies, and why others could not be."""
    import time

    from clawlink.client.programs.programs import apply
    from clawlink.errors import Conflicted

    backup = time.strftime(".before-clawlink-%Y%m%d-%H%M%S")
    written: list[Change] = []
    copies: list[str] = []
    failed: dict[Path, str] = {}
    for change in changes:
        try:
            copy = apply(change, backup)
        except Conflicted as error:
            failed[change.path] = error.message
        except OSError as error:
            failed[change.path] = (
                f"{change.path} could not be written: {error.strerror or error}; mend this, and run the command again"
            )
        else:
            written.append(change)
            copies += [] if copy is None else [str(copy)]
    return written, copies, failed


def _half_written(args: Namespace, written: list[Change]) -> str:
    files = ", ".join(str(change.path) for change in written)
    project = " --project" if args.project else ""
    again = f"clawlink connect {args.program}{project} --undo"
    if args.undo:
        return f"these files are without ClawLink's entries now: {files}; to go on: {again}"
    return f"these files have ClawLink's entries now: {files}; to take them out again: {again}"


def _told(
    args: Namespace,
    ctx: Context,
    settled: list[Program],
    written: list[Change],
    *,
    left: bool,
    failed: bool,
    missing: list[Program],
) -> None:
    """Say what holds now. ``settled`` are the programs whose settings are as wanted, ``missing`` those not here."""
    if args.undo:
        said = "Undone, but not all of it." if left else "Undone."
    elif not settled:
        parts = sorted({"the skill" if change.path.name == _SKILL else "the plugin" for change in written})
        were = "was" if len(parts) == 1 else "were"
        only = f"Only {' and '.join(parts)} {were} written; the settings are as they were."
        said = "Not all was written." if failed else only
    elif missing:
        said = f"Connected. {' and '.join(one.title for one in missing)} is not installed here: it counts once it is."
    elif args.program == "openclaw":
        said = "Connected. Restart its gateway if it runs: openclaw gateway restart"
    elif left:
        said = f"Connected: {', '.join(one.title for one in settled)}. It counts for sessions that begin from now on."
    else:
        said = "Connected. It counts for sessions that begin from now on."
    ctx.out.line(said, style="bold")


def _show(ctx: Context, user: Place) -> Exit:
    """Show the programs: whether they are here, where they are connected, and whether their sessions can be woken."""
    from clawlink.client.programs.programs import PROGRAMS, is_connected, is_found

    watched = _watched(ctx)
    project = user._replace(root=Path.cwd(), project=True)
    rows = []
    for program in PROGRAMS.values():
        found = is_found(program, user)
        places = [
            word
            for word, place in (("user", user), ("project", project))
            if not (place.project and (program.project_servers is None or place.root == user.root))
            and is_connected(program, place)
        ]
        version = _version(program) or ("unknown" if found else "not found")
        wakeable, woken, why = _wakeable(program, watched, connected=bool(places), found=found)
        skill = "yes" if any(_has_skill(program, place) for place in (user, project)) else "no"
        rows.append((program.title, version, ", ".join(places) or "no", skill, wakeable, woken, why))
    if any(agent["host"] is None for agent in watched or ()):
        rows.append(("(none)", "", "", "", *_wakeable(None, watched, connected=True, found=True)))
    head = ("program", "version", "connected", "skill", "wakeable", "last woken", "why not")
    if ctx.json:
        ctx.out.json([dict(zip((name.replace(" ", "_") for name in head), row, strict=True)) for row in rows])
    else:
        ctx.out.table(head, rows, least=("skill", "version", "last woken", "connected"))
    return Exit.DONE


def _watched(ctx: Context) -> list[dict[str, Any]] | None:
    """Return the agents that the program watches which wakes them; None if it does not run."""
    from clawlink.client.hooks import port
    from clawlink.client.identity import home

    try:
        agents: list[dict[str, Any]] = port.ask(str(home(ctx.environ)), {"ask": "status"}, _STATUS_SECONDS)["agents"]
    except OSError:
        return None
    return agents


def _wakeable(
    program: Program | None, watched: list[dict[str, Any]] | None, *, connected: bool, found: bool
) -> tuple[str, str, str]:
    """Return by which way a session of a program can be woken, when one was, and why none can be.

    Without a program it is about identities that no session acts as.
    """
    import time

    from clawlink.cli.render import duration
    from clawlink.domain.terminal import cell

    name = None if program is None else program.name
    own = [agent for agent in watched or () if agent["host"] == name]
    last = max((agent["last_woken"] for agent in own if agent["last_woken"] is not None), default=None)
    woken = "never" if last is None else f"{duration(time.time() - last)} ago"
    ways = sorted({name for agent in own for name, why in agent["ways"].items() if why is None})
    if ways:
        return cell(", ".join(ways)), woken, ""
    if not connected and not found:
        return "no", woken, "not installed here"
    if not connected:
        return "no", woken, f"not connected: clawlink connect {name}"
    if watched is None:
        return "no", woken, "clawlink wake does not run: clawlink wake --install"
    closed = next((why for agent in own for why in agent["ways"].values() if why), "no session was begun")
    return "no", woken, cell(closed)


def _has_skill(program: Program, place: Place) -> bool:
    import os

    return os.path.exists(program.skill(place))  # also where it may not be looked for


def _version(program: Program) -> str | None:
    """Return the first line of the program's own ``--version``; None if it does not tell."""
    import shutil
    import subprocess

    from clawlink.domain.terminal import cell

    executable = shutil.which(program.executable)
    if executable is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the program that the user connects
            [executable, "--version"],
            capture_output=True,
            timeout=_VERSION_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    said = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return cell(said[0][:60]) if said else None
