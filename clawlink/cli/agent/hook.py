"""``clawlink hook``: what the hooks of a coding agent run. It never fails its host: at worst it says nothing."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from clawlink.cli.context import Context
    from clawlink.client.hooks.rules import Host
    from clawlink.client.hooks.run import Where
    from clawlink.client.hooks.sessions import Sessions

# All requests of a hook together may take this long.
_RELAY_SECONDS = 0.2
# A host that keeps standard input open is waited for this long.
_INPUT_SECONDS = 2.0
# An idle session is waited for this long. Claude Code ends a hook after the timeout that its settings say.
_LASTING_SECONDS = 21_000.0
_WAKES = 2
# Claude Code without a screen (``claude -p``) runs no hook in the background: it would wait for this one.
_ENTRYPOINT, _HEADLESS = "CLAUDE_CODE_ENTRYPOINT", "sdk-cli"
# The program that wakes agents answers at once.
_PROGRAM_SECONDS = 0.05
# To write down what came of it.
_GRACE_SECONDS = 0.03
_MAX_INPUT_BYTES = 16 * 2**20


def add(parser: ArgumentParser) -> None:
    """Add the arguments. Each word is taken, since an exit code other than 0 may stop the host."""
    parser.add_argument(
        "event", metavar="EVENT", help="SessionStart, UserPromptSubmit, PostToolUse, Stop, SessionEnd or Wait"
    )
    parser.add_argument(
        "--host", default="claude", help="the program: claude (default), codex, gemini, cursor, opencode or openclaw"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=_RELAY_SECONDS,
        metavar="S",
        help=f"longest time for the relay (default {_RELAY_SECONDS:g}); give more for a distant one",
    )

    parser.add_argument(
        "--for",
        dest="lasting",
        type=float,
        default=_LASTING_SECONDS,
        metavar="S",
        help=f"with Wait: seconds to wait for mail (default {_LASTING_SECONDS:g})",
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Read the event from standard input, and print an answer for the host if there is something to say."""
    import json
    import threading

    from clawlink.client.hooks.rules import WAIT

    if args.event == WAIT:
        return _wait(args, ctx)
    answers: list[dict[str, Any]] = []
    ends_at: list[float] = []  # once the first request begins
    begun = threading.Event()

    def until() -> float:
        if not ends_at:
            ends_at.append(time.monotonic() + args.seconds)
            begun.set()
        return ends_at[0]

    def work() -> None:
        try:
            answer = _answer(args, ctx, until)
            if answer is not None:
                answers.append(answer)
        finally:
            begun.set()

    # Nothing limits the look-up of a name and the read of standard input. As a daemon the thread ends with the process.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    begun.wait(_INPUT_SECONDS)
    thread.join((max(ends_at[0] - time.monotonic(), 0.0) if ends_at else 0.0) + _GRACE_SECONDS)
    if answers:
        ctx.out.line(json.dumps(answers[0]))
    elif thread.is_alive():
        _note(ctx, args, "it did not end in time; is the relay away?")
    return Exit.DONE


def _wait(args: Namespace, ctx: Context) -> Exit:
    """Wait until mail comes for an idle session, and wake it: Claude Code does that at exit code 2.

    The text for the session is on standard error then. In all other cases it ends silently, with exit code 0.
    """
    import os
    import sys

    from clawlink.client.hooks import rules
    from clawlink.client.hooks.ancestors import end_of_host
    from clawlink.client.hooks.run import read
    from clawlink.client.hooks.sessions import Sessions
    from clawlink.client.hooks.waiting import Waiter, begun
    from clawlink.config import own_folder

    try:
        host = rules.HOSTS[args.host]
        if ctx.environ.get(_ENTRYPOINT) == _HEADLESS:
            return Exit.DONE
        said = read(ctx.stdin.read(_MAX_INPUT_BYTES))
        if not rules.belongs(host, said):
            return Exit.DONE
        sessions = Sessions(own_folder(ctx.environ))
        session = begun(sessions, host.name, str(said[host.session_field]))
        text = Waiter(sessions, session, gone=end_of_host()).wait(args.lasting)
    except Exception as error:  # whatever it is, the host goes on
        _note(ctx, args, str(error) or type(error).__name__)
        return Exit.DONE
    if text is not None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
        os._exit(_WAKES)  # past the rule that a hook ends with 0
    return Exit.DONE


def _answer(args: Namespace, ctx: Context, until: Callable[[], float]) -> dict[str, Any] | None:
    from clawlink.client.hooks import rules
    from clawlink.client.hooks.run import Hook, read
    from clawlink.client.hooks.sessions import Sessions
    from clawlink.config import own_folder

    host = rules.HOSTS.get(args.host)
    try:
        if host is None or args.event not in rules.EVENTS:
            raise ValueError(f"no host {args.host!r} with an event {args.event!r} is known")
        said = read(ctx.stdin.read(_MAX_INPUT_BYTES))
        if not rules.belongs(host, said):
            return None
        sessions = Sessions(own_folder(ctx.environ))
        if host.lasting and host.session_field not in said:
            from clawlink.client.hooks.acting import of_gateway  # it loads more than other hooks need

            left = until() - time.monotonic()
            said[host.session_field] = of_gateway(sessions, lambda: _where(ctx), left, begins=True).session_id
        answer = Hook(sessions, host, said, until=until).run(args.event, lambda: _where(ctx))
        sessions.note(None)
        _tell_program(sessions, args.event, host, said, is_over=answer is None)
    except Exception as error:  # whatever it is, the host goes on
        _note(ctx, args, str(error) or type(error).__name__)
        return None
    return answer


def _tell_program(sessions: Sessions, event: str, host: Host, said: dict[str, Any], *, is_over: bool) -> None:
    """Tell the program that wakes agents, where it runs, whether the session works or is idle."""
    import contextlib

    from clawlink.client.hooks import port

    works = event in ("UserPromptSubmit", "PostToolUse") or (event == "Stop" and not is_over)
    state = {"ask": "state", "host": host.name, "session": said[host.session_field]}
    with contextlib.suppress(OSError, ValueError):
        port.ask(str(sessions.folder.parent), {**state, "state": "busy" if works else "idle"}, _PROGRAM_SECONDS)


def _where(ctx: Context) -> Where:
    """Return the relay for a new session, as for any command that acts as no agent."""
    from clawlink.cli.settings import visiting
    from clawlink.client.hooks.run import Where

    where = visiting(ctx.given._replace(named=None, insisted=False), ctx.identities)
    return Where(where.relay, where.token, where.ca)


def _note(ctx: Context, args: Namespace, why: str) -> None:
    """Keep the reason for ``clawlink doctor``."""
    import contextlib

    from clawlink.client.hooks.sessions import Sessions
    from clawlink.config import own_folder

    with contextlib.suppress(RuntimeError, OSError):  # as for an account without a home
        Sessions(own_folder(ctx.environ)).note(f"{args.host} {args.event}: {why}")
