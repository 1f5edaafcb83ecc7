"""``clawlink portal skill``: the instructions for the owner's agent, in English or Chinese, printed or installed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

LANGUAGES = {"en": "SKILL.md", "zh": "SKILL.zh.md"}
FOLDER = "clawlink-portal"


def run(args: Namespace, ctx: Context) -> Exit:
    """Print the skill, or put it into a folder of skills."""
    from clawlink import private
    from clawlink.errors import Conflicted

    content = (Path(__file__).parents[1] / LANGUAGES[args.language]).read_bytes()
    if not args.words:
        if ctx.json:
            ctx.out.json({"skill": content.decode()})
        else:
            ctx.out.line(content.decode().rstrip("\n"))
        return Exit.DONE
    target = Path(args.words[0]) / FOLDER / "SKILL.md"
    own = [(Path(__file__).parents[1] / name).read_bytes() for name in LANGUAGES.values()]
    if target.exists() and target.read_bytes() not in own:
        raise Conflicted(f"{target} is there already, and ClawLink did not write it; move it away first")
    private.make_folder(target.parent, 0o755)
    private.write(target, content)
    if ctx.json:
        ctx.out.json({"installed": str(target)})
    else:
        ctx.out.line(f"Installed {target}")
    return Exit.DONE
