"""``clawlink skill``: the instructions for agents, printed or put where a program looks for them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink import private
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

# Both programs read <folder>/<name of the skill>/SKILL.md under the home of the account, for all its projects.
_PROGRAMS = ("claude", "openclaw")
_SKILL = "clawlink"
_FILE = "SKILL.md"


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--install",
        nargs="?",
        choices=_PROGRAMS,
        const="openclaw",
        metavar="PROGRAM",
        help="install it where the program looks: openclaw (default) or claude",
    )
    parser.add_argument("--dir", metavar="DIR", help="install it into this folder of skills instead")
    parser.add_argument("--force", action="store_true", help="overwrite a file that differs")


def run(args: Namespace, ctx: Context) -> Exit:
    """Print the skill, or install it."""
    content = packaged().read_bytes()
    if args.install is None and args.dir is None:
        if ctx.json:
            ctx.out.json({"skill": content.decode()})
        else:
            ctx.out.line(content.decode().rstrip("\n"))
        return Exit.DONE
    if args.dir is not None:
        target = Path(args.dir) / _SKILL / _FILE
    else:
        from clawlink.client.identity import account_home
        from clawlink.client.programs.places import Place
        from clawlink.client.programs.programs import PROGRAMS

        target = PROGRAMS[args.install].skill(Place(account_home(), environ=ctx.environ))
    changed = _install(target, content, force=args.force)
    if ctx.json:
        ctx.out.json({"installed": str(target), "changed": changed})
    else:
        said = "Installed" if changed else "Already up to date:"
        ctx.out.line(f"{said} {target}")
    return Exit.DONE


def packaged() -> Path:
    """Return the file with the instructions."""
    import clawlink

    return Path(clawlink.__file__).with_name(_FILE)


def _install(target: Path, content: bytes, *, force: bool) -> bool:
    """Write the file; return True if that changed it. Raises Conflicted for a different file, without ``force``."""
    from clawlink.errors import Conflicted

    if target.exists():
        if target.read_bytes() == content:
            return False
        if not force:
            raise Conflicted(f"{target} is there already and differs; to overwrite it add: --force")
    private.make_folder(target.parent, 0o755)
    target.write_bytes(content)
    return True
