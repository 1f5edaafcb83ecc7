"""The command line: parse, dispatch, and turn every error into one sentence and an exit code, here and nowhere else."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from clawlink.cli.exits import Exit, LocalFailure, exit_of
from clawlink.errors import (
    ClawLinkError,
    FileLocked,
    NameTaken,
    NotAllowed,
    NotAuthenticated,
    RelayUnreachable,
    UnknownAgent,
    UnknownFile,
    UnknownMessage,
    UnknownTask,
    VersionConflict,
)

if TYPE_CHECKING:
    from clawlink.cli.context import Context


# Most commands live for a tenth of a second, much of it imports, which make no garbage: looking for some takes a tenth.
_GC_THRESHOLD = 50_000
# `timeout` and shells send a signal to a process and to its group. Within this time it counts once.
_SAME_SECONDS = 1.0
# Advice for refusals of this machine.
_NO_ROOM = "make room there, or choose another place"
_NO_RIGHT = "see who may read and write it, or choose another place"
_HELP = {
    errno.ENOENT: "see whether the path is right, and its folder is there",
    errno.ENOTDIR: "see whether the path is right: what it goes through is no folder",
    errno.EISDIR: "name a file",
    errno.EEXIST: "choose another place",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "choose a place where files may be as large, or raise the limit (ulimit -f)",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "nothing can be written there: choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; never raises, and never shows a traceback."""
    if argv is not None:
        return _run(list(argv))
    gc.set_threshold(_GC_THRESHOLD)
    try:
        _end_in_order()
        code = _run(sys.argv[1:])
    except KeyboardInterrupt as interrupt:  # a second one, before the first had its end
        code = Exit.TERMINATED if isinstance(interrupt, _Terminated) else Exit.INTERRUPTED
    gc.freeze()  # the process ends here: nothing needs to be taken apart first
    return code


class _Terminated(KeyboardInterrupt):
    """The process has to end: unfinished work is cleaned up, as after Ctrl-C."""


def _end_in_order() -> None:
    """Treat SIGTERM and the end of the terminal as an interrupt, unless the parent process has them ignored."""

    came = -_SAME_SECONDS

    def end(number: int, frame: object) -> None:
        nonlocal came
        now = time.monotonic()
        if now - came < _SAME_SECONDS:
            return
        came = now
        raise _Terminated

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
            # The end of the interpreter brings the default action back, which would change the exit code.
            atexit.register(signal.signal, number, signal.SIG_IGN)


def _run(argv: list[str]) -> int:
    # A host of hooks takes an exit code of 2 for a veto, whatever it comes from.
    is_hook = argv[:1] == ["hook"] or argv[:2] == ["agent", "hook"]
    try:
        code = _main(argv)
        return Exit.DONE if is_hook else code
    except _Terminated:
        return _close(Exit.TERMINATED)
    except KeyboardInterrupt:
        return _close(Exit.INTERRUPTED)


def _main(argv: list[str]) -> Exit:
    as_json = "--json" in argv
    ctx: Context | None = None
    noun = ""
    try:
        from clawlink.cli.parser import parse

        verb, args = parse(argv)
        as_json, noun = args.json, verb.noun

        from clawlink.cli.context import Context

        ctx = Context(args, out=sys.stdout, err=sys.stderr)
        with ctx:
            code = verb.load().run(args, ctx)
            ctx.out.flush()
        return _close(code)
    except SystemExit as done:  # argparse has printed its help or the version
        return _close(Exit(int(done.code or 0)))
    except ClawLinkError as error:
        report(_explained(error, ctx, noun), as_json)
        return _close(exit_of(error))
    except BrokenPipeError:  # the reader of the output has closed it
        return _close(Exit.FAILED)
    except OSError as error:
        report(_local(error), as_json)
        return _close(Exit.FAILED)
    except Exception as error:
        if os.environ.get("CLAWLINK_DEBUG"):
            raise
        report(ClawLinkError(f"{_defect(error)}; CLAWLINK_DEBUG=1 shows where; please report it"), as_json)
        return _close(Exit.FAILED)


def _defect(error: Exception) -> str:
    return f"clawlink has a defect: {type(error).__name__}: {error}"


def _local(error: OSError) -> LocalFailure:
    """Return this machine's refusal, with its path and the fix, if the sentence does not have them itself."""
    what, _, next_step = (error.strerror or str(error)).partition("; ")
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    next_step = next_step or _HELP.get(error.errno or 0, "")
    return LocalFailure(f"{what}{where}" + (f"; {next_step}" if next_step else ""))


def _explained(error: ClawLinkError, ctx: Context | None, noun: str) -> ClawLinkError:
    """Return the next step for an error of the relay, where the command line knows more."""
    if isinstance(error, UnknownTask | UnknownMessage):
        error = _of_short_id(error)
    if isinstance(error, UnknownFile) and noun == "file":
        kept = "clawlink file list"
        if error.field == "version" and ctx is not None:
            kept = ctx.command("file-history", key=ctx.args.key)
        what = error.message
        if what == _NO_FILE and ctx is not None and "key" in ctx.args:
            what = f"there is no file {ctx.args.key!r}"
        return UnknownFile(f"{what}; see which there are: {kept}", field=error.field)
    if isinstance(error, NameTaken) and (what := error.message.partition(_RESUMED)[0]) != error.message:
        # The relay speaks of fields of a request. A name that is kept here is resumed without any of them.
        then = "choose another name, or use the account that has its key"
        return NameTaken(f"{what}; {then}", field=error.field, current=error.current)
    if isinstance(error, UnknownTask | UnknownMessage) and error.message.endswith(" at most"):
        # The relay says how long ended ones are kept, and knows no command.
        return type(error)(f"{error.message}; list your tasks with: clawlink task list", field=error.field)
    if isinstance(error, NotAllowed) and error.field == "claim" and ctx is not None and "no_claim" in ctx.args:
        # The relay names a field of the request; the flag has another name.
        return NotAllowed("this relay takes only agents that hold a key: leave out --no-claim", field="claim")
    if isinstance(error, VersionConflict | FileLocked) and ctx is not None:
        return _with_flag(error, ctx)
    if isinstance(error, NotAuthenticated) and ctx is not None and (source := ctx.source_of(error)) is not None:
        return NotAuthenticated(f"{error.message}; the wrong one comes from {source}", field=error.field)
    if isinstance(error, RelayUnreachable) and ctx is not None and ctx.nobody_nearby:
        return RelayUnreachable(f"{error.message}; nor does one announce itself on the local network")
    if isinstance(error, UnknownAgent) and (named := _unknown(error)) is not None:
        what, meant = error.message.removesuffix(_DISCOVER), None if ctx is None else ctx.agents.alike(named)
        then = "list the agents with: clawlink discover"
        return UnknownAgent(
            f"{what}; {then}" if meant is None else f"{what}; did you mean: {meant}; {then}",
            field=error.field,
            current=error.current,
        )
    me = None if ctx is None or not isinstance(error, UnknownAgent) else ctx.acting_as
    if ctx is None or me is None:
        return error
    from clawlink.client.base_client import WHO_ASKS

    if error.field not in WHO_ASKS:
        return error
    return UnknownAgent(
        f"the relay at {me.relay} has no agent {me.name!r} any more (perhaps it was restarted); "
        f"register again: {ctx.register_command(me)}",
        field=error.field,
    )


def _of_short_id(error: UnknownTask | UnknownMessage) -> ClawLinkError:
    """Return the error with a note if the id that is not known was cut too short."""
    import re

    from clawlink.cli.ids import too_short

    found = re.match(_NOT_KNOWN, error.message)
    if found is None or not (note := too_short(found[1])):
        return error
    told = found[0] + note + error.message[found.end() :]
    return type(error)(told, field=error.field, current=error.current)


def _unknown(error: UnknownAgent) -> str | None:
    """Return the id or name that no agent has; None if the error is about another agent."""
    if isinstance(error.current, str):
        return error.current
    import re

    found = re.match(_NO_AGENT, error.message)  # an earlier relay tells it in its sentence alone
    return None if found is None else found[1]


# Sentences of the relay that are the same for each of its clients.
_NO_FILE = "file not found"
_NOT_KNOWN = "no (?:task|message) '(.*?)' is known here"
_RESUMED = "; register with its agent_id (and key)"
_DISCOVER = "; list the agents with discover"
_NO_AGENT = f"no agent with the id or name ['\"](.*)['\"] is registered here{_DISCOVER}$"
# The arguments that the relay calls by the header of a request.
_ARGUMENTS = {"If-Match": "if_version", "If-None-Match": "if_version", "ClawLink-Force": "force"}


def _with_flag(error: VersionConflict | FileLocked, ctx: Context) -> ClawLinkError:
    """Name the flag that the relay calls by the field of a request, if the command has it."""
    argument = _ARGUMENTS.get(error.field or "", error.field)
    if argument is None or argument not in ctx.args or (flag := "--" + argument.replace("_", "-")) in error.message:
        return error
    message = f"{error.message} ({flag})"
    if argument == "if_version" and isinstance(error.current, int):
        # The relay says how to go on in the words of a request.
        what = error.message.partition("; ")[0]
        then = "to make the file write" if error.current == 0 else "read it, merge, and write"
        message = f"{what.replace(error.field or '', flag)}; {then} with {flag} {error.current}"
    return type(error)(message, field=error.field, retry_after=error.retry_after, current=error.current)


def report(error: ClawLinkError, as_json: bool) -> None:
    """Tell of an error on stderr, in one line."""
    from clawlink.cli.output import Output
    from clawlink.cli.render import harmless_json
    from clawlink.domain.terminal import cell

    err = Output(sys.stderr)
    with contextlib.suppress(OSError):  # standard error has no reader: the exit code still tells
        if as_json:
            from clawlink.protocol.failure import to_body

            err.line(harmless_json(to_body(error)).decode())
        else:
            err.pieces(("clawlink:", "bold red"), (f" {cell(error.message)}", None))


def _close(code: Exit) -> Exit:
    """Flush the rest. A failure here has been reported before, if that was possible."""
    from clawlink.client.files.whole import flush_all

    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                flush_all(stream)
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
