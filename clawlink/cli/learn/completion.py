"""``clawlink completion``: a script that completes commands, flags, paths, names and keys in a shell.

The script comes from the parser. It gets names and keys when they are needed, by ``clawlink completion agents`` and the
like. Other agents choose these words, so each is quoted for the shell, and nothing expands it.
"""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clawlink.cli.arguments import may_be_empty
from clawlink.cli.completing import WORDS
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """\
bash: eval "$(clawlink completion bash)" in ~/.bashrc
zsh:  clawlink completion zsh > "${fpath[1]}/_clawlink"
fish: clawlink completion fish > ~/.config/fish/completions/clawlink.fish

agents, identities, keys: print the words of a script."""
# A person waits at the prompt.
_TIMEOUT_SECONDS = 2.0
_MOST_WORDS = 500
_MOST_PAGES = 5


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("what", choices=(*SHELLS, *WORDS), help="the shell, or the kind of words to print")
    may_be_empty(
        parser.add_argument(
            "beginning", nargs="?", default="", metavar="BEGINNING", help="print only words that begin with this"
        )
    )
    parser.add_argument("--line", metavar="TEXT", help="the typed line; its --relay, --token and --as count")
    parser.add_argument("--shell", choices=SHELLS, help="quote the words for this shell")
    parser.epilog = _EPILOG


def run(args: Namespace, ctx: Context) -> Exit:
    """Make the script from the parser itself; or print words, and nothing where there are none to be had."""
    if args.what in WORDS:
        for word in _offered(args, ctx):
            ctx.out.line(word)
        return Exit.DONE
    script = _script(args.what)
    if ctx.json:
        ctx.out.json({"shell": args.what, "script": script})
    else:
        ctx.out.line(script)
    return Exit.DONE


# -- words ---------------------------------------------------------------------------------------------------------


def _offered(args: Namespace, ctx: Context) -> list[str]:
    from clawlink.cli.completing import as_typed, flags_in, typed
    from clawlink.errors import ClawLinkError

    args.__dict__.update(flags_in(args.line or ""))
    ctx.timeout = _TIMEOUT_SECONDS
    beginning = typed(args.beginning, args.shell)
    # Of several names, separated by commas, the last one is completed.
    before, comma, last = beginning.text.rpartition(",") if args.what == "agents" else ("", "", beginning.text)
    try:
        words = _words(args.what, ctx)
        found = [word for word in words if word.startswith(last) and not word.startswith("-")]
    except (ClawLinkError, OSError):
        return []
    quoted = (as_typed(before + comma + word, beginning, args.shell) for word in dict.fromkeys(found[:_MOST_WORDS]))
    return [word for word in quoted if word is not None]


def _words(kind: str, ctx: Context) -> Iterator[str]:
    """Give words that can be typed. An agent with another name is offered by its id."""
    from clawlink.cli.settings import visiting
    from clawlink.domain.terminal import cell

    if kind == "identities":
        yield from (saved.typed for saved in ctx.identities.all())
        return
    where = visiting(ctx.given, ctx.identities)
    # Files may be for some agents alone, so the identity lists them. A prompt never registers again.
    client = ctx.connect(where if kind == "keys" else where._replace(saved=None))
    client._on_forgotten = None
    if kind == "agents":
        for agent in client.discover(status="all").agents:
            yield agent.name if cell(agent.name) == agent.name and "," not in agent.name else agent.agent_id
        return
    after: str | None = None
    for _ in range(_MOST_PAGES):
        page = client.list_files(after=after)
        yield from (file.file_key for file in page.files if cell(file.file_key) == file.file_key)
        after = page.next
        if after is None:
            return


# -- scripts -------------------------------------------------------------------------------------------------------


def _script(shell: str) -> str:
    import shtab

    from clawlink.cli.completing import BASH, BASH_END, FISH, ZSH
    from clawlink.cli.parser import everything

    # shtab's script for zsh gives `file-put` and `file put` one name, and would know the second only.
    parser = everything(hyphened=shell != "zsh")
    _mark(parser, {"file": shtab.FILE, "directory": shtab.DIRECTORY})
    preamble = {"bash": BASH, "zsh": ZSH, "fish": FISH}
    script = str(shtab.complete(parser, shell=shell, preamble=preamble[shell]))
    return script + BASH_END if shell == "bash" else script


def _mark(parser: argparse.ArgumentParser, paths: dict[str, Any]) -> None:
    """Set the completion of each argument: its own kind, or a path if its name says so."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for one in dict.fromkeys(action.choices.values()):
                _mark(one, paths)
            continue
        kind = getattr(action, "kind", None)
        if kind is not None:
            complete: Any = {
                "bash": f"_clawlink_{kind}",
                "zsh": f"_clawlink_{kind}",
                "fish": f"(__clawlink_words {kind})" if kind in WORDS else f"(__clawlink_{kind})",
            }
        elif action.metavar in ("FILE", "PATH"):
            complete = paths["file"]
        elif action.metavar == "DIR":
            complete = paths["directory"]
        else:
            continue
        action.complete = complete  # type: ignore[attr-defined]
