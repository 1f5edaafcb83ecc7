"""``clawlink work``: a command or a coding agent does the tasks. Foreign text only ever goes to its standard input."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clawlink.cli.arguments import completed_by
from clawlink.cli.exits import Exit
from clawlink.cli.values import add_caps, count, names, span

if TYPE_CHECKING:
    from types import FrameType

    from clawlink import Link
    from clawlink.cli.command_worker import Way
    from clawlink.cli.context import Context
    from clawlink.cli.running import Commands
    from clawlink.client.acp.permission import Policy

_DRAIN_SECONDS = 60.0


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument(
        "--exec",
        metavar="COMMAND",
        help="command to run for each task: its standard input is the task as JSON, its output the result",
    )
    by.add_argument(
        "--acp", metavar="COMMAND", help="coding agent that does the tasks by the Agent Client Protocol: 'gemini --acp'"
    )
    parser.add_argument(
        "--shell", action="store_true", help="run the command in a shell (default: as a program with arguments)"
    )
    parser.add_argument(
        "--allow",
        type=names,
        metavar="A,B",
        help="with --acp: kinds of tools that need no answer, as read,edit; 'all', 'none', and 'ask' to ask the "
        "requester about the others, which are refused otherwise (default ask)",
    )
    name = parser.add_argument(
        "--name", help="register as this agent first, or resume it (default: the identity kept here)"
    )
    completed_by(name, "identities")
    add_caps(parser)
    parser.add_argument("--concurrency", type=count, default=1, metavar="N", help="most tasks at once (default 1)")
    parser.add_argument(
        "--timeout",
        type=span,
        default=SUPPRESS,
        metavar="S",
        help="longest time of a task, as 90 or 10m; then the command is killed, and the task has failed",
    )
    parser.add_argument("--json-result", action="store_true", help="take the output as JSON if it is valid JSON")
    parser.add_argument(
        "--drain",
        type=span,
        default=_DRAIN_SECONDS,
        metavar="S",
        help=f"seconds that commands may go on after SIGTERM or Ctrl-C (default {_DRAIN_SECONDS:g}); "
        "a second signal ends them",
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Work until told to stop."""
    from clawlink.cli.running import Commands
    from clawlink.cli.worker import Worker

    policy = _policy(args)
    commands = Commands(_command(args), shell=args.shell, timeout=ctx.take_patience())
    link, subscriptions = _link(args, ctx)
    worker = Worker(ctx, _way(args, commands, link, policy), link)
    link.on_task(worker.do)
    link.on_message(worker.hear)
    for pattern in subscriptions:
        link.on_broadcast(pattern)(worker.hear_all)
    if os.getpid() == 1:
        ctx.warn(
            "this is process 1 here, and does not collect what commands leave running when it ends; "
            "start it under an init, as with: docker run --init"
        )
    with _ended_by_signals(commands), worker.telling():
        try:
            link.run()
        finally:
            commands.end_all()
    return Exit.DONE


def _policy(args: Namespace) -> Policy:
    """Return the tools that need no answer. Raises UsageError."""
    from clawlink.cli.exits import UsageError
    from clawlink.client.acp.permission import ASK, policy

    if args.allow is not None and args.acp is None:
        raise UsageError("--allow is about the tools of an agent; give --acp, too")
    try:
        return policy([ASK] if args.allow is None else args.allow)
    except ValueError as error:
        raise UsageError(f"--allow: {error}") from None


def _way(args: Namespace, commands: Commands, link: Link, policy: Policy) -> Way:
    if args.acp is None:
        from clawlink.cli.command_worker import ByCommand

        return ByCommand(commands, json_result=args.json_result)
    from clawlink.cli.acp_worker import ByAcp

    return ByAcp(commands, link, policy, json_result=args.json_result)


def _command(args: Namespace) -> str | list[str]:
    """Return the program and arguments to run. Raises UsageError if there is no such program."""
    from clawlink.cli.exits import UsageError

    flag = "--exec" if args.acp is None else "--acp"
    given: str = args.exec if args.acp is None else args.acp
    if args.shell:
        if not given.strip():
            raise UsageError(f"{flag} is empty; give a command to run for each task")
        return given
    try:
        # On Windows a program takes its command line apart by itself.
        words = shlex.split(given, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"{flag} is no command: {error}") from None
    if not words:
        raise UsageError(f"{flag} is empty; give a command to run for each task")
    if shutil.which(words[0].strip('"')) is None:
        raise UsageError(f"there is no program {words[0]!r}; for what a shell understands, add --shell")
    return given if os.name == "nt" else words


def _link(args: Namespace, ctx: Context) -> tuple[Link, list[str]]:
    """Return the link of the working agent, and its subscriptions."""
    from clawlink import Link
    from clawlink.cli.reregistration import known_elsewhere
    from clawlink.cli.settings import acting, registering
    from clawlink.domain.broadcast import EVERYTHING

    if args.name is None:
        where = acting(ctx.me, ctx.given)
    else:
        where = known_elsewhere(ctx, ctx.located(registering(ctx.given, args.name, ctx.identities)), args.name)
    me = where.saved
    link = Link(
        args.name if me is None else me.name,
        capabilities=args.caps if args.caps is not None or me is None else me.capabilities,
        description=None if me is None else me.description,
        relay=where.relay,
        token=where.token,
        ca=where.ca,
        concurrency=args.concurrency,
        drain=args.drain,
        timeout=ctx.timeout,
    )
    if me is None:
        return link, []
    # An agent that hears broadcasts goes on hearing them: those without a handler would not come any more.
    return link, [EVERYTHING] if me.subscriptions is None else me.subscriptions


@contextlib.contextmanager
def _ended_by_signals(commands: Commands) -> Iterator[None]:
    """Have a signal that the link does not take, as it takes the first, end everything at once: commands and us."""

    def end(number: int, frame: FrameType | None) -> None:
        commands.end_all()
        os._exit(Exit.INTERRUPTED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
