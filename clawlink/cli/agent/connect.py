"""``clawlink connect``: put hooks and tools into the settings of a coding agent, and take them out again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.programs.programs import Change, Program

_NAMES = ("claude", "codex", "gemini", "cursor")
_VERSION_SECONDS = 10.0


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "program",
        nargs="?",
        metavar="PROGRAM",
        choices=(*_NAMES, "all"),
        help="claude, codex, gemini, cursor, or all that are found; without one, show which are connected",
    )
    parser.add_argument("--project", action="store_true", help="for the project in this folder (default: all projects)")
    parser.add_argument("--dry-run", action="store_true", help="show the changes, and write nothing")
    parser.add_argument("--undo", action="store_true", help="take ClawLink's entries out again")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: Namespace, ctx: Context) -> Exit:
    """Show the changes as a diff, ask, and write them."""
    from clawlink.client.identity import account_home
    from clawlink.client.programs.programs import PROGRAMS, is_found

    home = account_home()
    if args.program is None:
        return _show(ctx, home)
    found = [program for program in PROGRAMS.values() if is_found(program, home)]
    chosen = found if args.program == "all" else [PROGRAMS[args.program]]
    changes, left = _planned(args, ctx, chosen, home)
    for change in changes:
        _diff(ctx, change)
    for why in left:
        ctx.warn(why)
    wanted = changes if changes and not args.dry_run and _agreed(args, ctx) else []
    copies = _write(wanted)
    if ctx.json:
        files = [{"path": str(change.path), "written": change in wanted} for change in changes]
        ctx.out.json({"files": files, "copies": copies, "left": left})
    elif not changes and not left:
        ctx.out.line("Nothing to undo." if args.undo else "Connected already." if chosen else "No program is found.")
    elif wanted:
        _told(args, ctx, copies)
    return Exit.FAILED if left or (changes and not wanted and not args.dry_run) else Exit.DONE


def _planned(args: Namespace, ctx: Context, chosen: list[Program], home: Path) -> tuple[list[Change], list[str]]:
    from clawlink.client.programs.merging import Unmergeable
    from clawlink.client.programs.programs import plan

    flags = ["--relay", ctx.given.relay] if args.relay is not None and ctx.given.relay is not None else []
    root = Path.cwd() if args.project else home
    changes: list[Change] = []
    left: list[str] = []
    for program in chosen:
        try:
            changes += plan(program, root, project=args.project, flags=flags, undo=args.undo)
        except Unmergeable as why:
            left.append(f"{why}; references/hooks.md shows the entries to add by hand")
    return changes, left


def _diff(ctx: Context, change: Change) -> None:
    """Print the change of a file, on standard error where the result is JSON."""
    import difflib

    from clawlink.domain.terminal import cell

    out = ctx.err if ctx.json else ctx.out
    now, then = ([] if data is None else data.decode().splitlines() for data in (change.before, change.after))
    for line in difflib.unified_diff(now, then, f"{change.path} (now)", f"{change.path} (then)", lineterm=""):
        out.line(cell(line), style={"+": "green", "-": "red"}.get(line[:1]))


def _agreed(args: Namespace, ctx: Context) -> bool:
    if args.yes:
        return True
    import sys

    if sys.stdin is None or not sys.stdin.isatty():
        from clawlink.cli.exits import UsageError

        raise UsageError("nobody can be asked here: add --yes to write this, or --dry-run to see it only")
    ctx.err.pieces(("Write this? [y/N] ", "bold"))
    ctx.err.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(changes: list[Change]) -> list[str]:
    import time

    from clawlink.client.programs.programs import apply

    backup = time.strftime(".before-clawlink-%Y%m%d-%H%M%S")
    return [str(copy) for change in changes if (copy := apply(change, backup)) is not None]


def _told(args: Namespace, ctx: Context, copies: list[str]) -> None:
    from clawlink.domain.terminal import cell

    ctx.out.line("Undone." if args.undo else "Connected. It counts for sessions that begin from now on.", style="bold")
    ctx.out.facts(*(("as before", cell(copy)) for copy in copies))


def _show(ctx: Context, home: Path) -> Exit:
    """Show the programs: whether they are here, in which version, and where they are connected."""
    from clawlink.client.programs.programs import PROGRAMS, is_found

    rows = []
    for program in PROGRAMS.values():
        found = is_found(program, home)
        places = [
            word
            for word, root, project in (("user", home, False), ("project", Path.cwd(), True))
            if _is_connected(program, root, project=project)
        ]
        rows.append(
            (program.title, _version(program) or ("found" if found else "not found"), ", ".join(places) or "no")
        )
    if ctx.json:
        ctx.out.json([dict(zip(("program", "version", "connected"), row, strict=True)) for row in rows])
    else:
        ctx.out.table(("program", "version", "connected"), rows)
    return Exit.DONE


def _is_connected(program: Program, root: Path, *, project: bool) -> bool:
    from clawlink.client.programs.merging import Unmergeable
    from clawlink.client.programs.programs import plan

    try:
        return bool(plan(program, root, project=project, undo=True))
    except (Unmergeable, OSError):
        return False


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
