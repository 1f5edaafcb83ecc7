"""The command line: parse, dispatch, and turn every error into one sentence and an exit code, here and nowhere else."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from clawlink.cli.exits import Exit, exit_of
from clawlink.errors import ClawLinkError, NotAllowed, RelayUnreachable, UnknownAgent, UnknownFile

if TYPE_CHECKING:
    from clawlink.cli.context import Context


# Fields of a request that name the agent which it acts as.
_ACTING = frozenset({"from_agent", "agent_id"})
# Most commands live for a tenth of a second, much of it imports, which make no garbage: looking for some takes a tenth.
_GC_THRESHOLD = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; never raises, and never shows a traceback."""
    if argv is not None:
        return _run(list(argv))
    gc.set_threshold(_GC_THRESHOLD)
    code = _run(sys.argv[1:])
    gc.freeze()  # the process ends here: nothing needs to be taken apart first
    return code


def _run(argv: list[str]) -> int:
    try:
        return _main(argv)
    except KeyboardInterrupt:
        return _close(Exit.INTERRUPTED)


def _main(argv: list[str]) -> Exit:
    as_json = "--json" in argv
    ctx: Context | None = None
    try:
        from clawlink.cli.parser import parse

        verb, args = parse(argv)
        as_json = args.json

        from clawlink.cli.context import Context

        ctx = Context(args, out=sys.stdout, err=sys.stderr)
        with ctx:
            code = verb.run(args, ctx)
            ctx.out.flush()
        return _close(code)
    except SystemExit as done:  # argparse has printed its help or the version
        return _close(Exit(int(done.code or 0)))
    except ClawLinkError as error:
        _report(_explained(error, ctx), as_json)
        return _close(exit_of(error))
    except BrokenPipeError:  # whoever read our output has seen enough
        return _close(Exit.FAILED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _report(ClawLinkError(f"{error.strerror or error}{where}"), as_json)
        return _close(Exit.FAILED)
    except Exception as error:
        if os.environ.get("CLAWLINK_DEBUG"):
            raise
        _report(ClawLinkError(f"{_defect(error)}; CLAWLINK_DEBUG=1 shows where; please report it"), as_json)
        return _close(Exit.FAILED)


def _defect(error: Exception) -> str:
    return f"clawlink has a defect: {type(error).__name__}: {error}"


def _explained(error: ClawLinkError, ctx: Context | None) -> ClawLinkError:
    """Say what to do about an error whose sentence is the relay's, where the command line knows more."""
    if isinstance(error, UnknownFile):
        return UnknownFile(f"{error.message}; see which there are: clawlink file-list", field=error.field)
    if isinstance(error, NotAllowed) and error.field == "claim" and ctx is not None and "no_claim" in ctx.args:
        # What the relay says is in the words of a request, where the flag has another name.
        return NotAllowed("this relay takes only agents that hold a key: leave out --no-claim", field="claim")
    if isinstance(error, RelayUnreachable) and ctx is not None and ctx.nobody_nearby:
        return RelayUnreachable(f"{error.message}; nor does one announce itself on the local network")
    if not isinstance(error, UnknownAgent) or error.field not in _ACTING or ctx is None or ctx.acting_as is None:
        return error
    me = ctx.acting_as
    return UnknownAgent(
        f"the relay at {me.relay} has no agent {me.name!r} any more (perhaps it was restarted); "
        f"register again: {ctx.register_command(me)}",
        field=error.field,
    )


def _report(error: ClawLinkError, as_json: bool) -> None:
    """Tell of an error on stderr, in one line."""
    from clawlink.cli.output import Output
    from clawlink.cli.render import cell, harmless_json

    err = Output(sys.stderr)
    with contextlib.suppress(OSError):  # nobody reads what goes wrong: the exit code still tells
        if as_json:
            from clawlink.protocol.failure import to_body

            err.line(harmless_json(to_body(error)).decode())
        else:
            err.line(f"clawlink: {cell(error.message)}")


def _close(code: Exit) -> Exit:
    """Flush what is left. What cannot be written now has been told of, if that was possible."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or Exit.FAILED
                _silence(stream)
    return code


def _silence(stream: TextIO) -> None:
    """Point a broken stream at nothing, so that the interpreter does not complain of it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
