"""``clawlink completion``: a script that completes commands and flags in a shell."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_EPILOG = (
    'bash: eval "$(clawlink completion bash)" in ~/.bashrc. '
    "zsh: clawlink completion zsh > a folder of $fpath, as _clawlink. "
    "fish: clawlink completion fish > ~/.config/fish/completions/clawlink.fish."
)


def add(parser: ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = _EPILOG


def run(args: Namespace, ctx: Context) -> Exit:
    """Make the script from the parser itself."""
    import shtab

    from clawlink.cli.parser import everything

    script = shtab.complete(everything(), shell=args.shell)
    if ctx.json:
        ctx.out.json({"shell": args.shell, "script": script})
    else:
        ctx.out.line(script)
    return Exit.DONE
