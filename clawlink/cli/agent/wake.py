"""``clawlink wake``: the program that wakes the idle agents of this account."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink import private
from clawlink.cli.arguments import Parser
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from pathlib import Path

    from clawlink.cli.context import Context
    from clawlink.service import Service


PROGRAMS = ("claude", "codex", "openclaw", "cursor", "gemini", "opencode")
_STATUS_SECONDS = 5.0


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--install", action="store_true", help="have the system start it with the account, and now")
    doing.add_argument("--uninstall", action="store_true", help="stop it, and start it no more")
    doing.add_argument(
        "--try",
        dest="client",
        choices=PROGRAMS,
        metavar="CLIENT",
        help="send a test message to an idle session of claude, codex, opencode, gemini or cursor, or to openclaw",
    )
    if isinstance(parser, Parser):
        parser.flags()["--timeout"].help = "with --try: seconds until the message must be read (default 60)"
    doing.add_argument("--status", action="store_true", help="show whether it runs, and each agent that it watches")


def run(args: Namespace, ctx: Context) -> Exit:
    """Run it here until it is stopped, or do what a flag says."""
    from clawlink.client.identity import home

    folder = home(ctx.environ)
    if args.client:
        from clawlink.cli.agent import wake_try

        return wake_try.run(ctx, folder, args.client)
    if args.install or args.uninstall:
        return _serve(args, ctx)
    return _show(ctx, folder) if args.status else _wake(ctx, folder)


def _wake(ctx: Context, folder: Path) -> Exit:
    import time

    from filelock import FileLock, Timeout

    from clawlink.cli.exits import LocalFailure
    from clawlink.cli.render import plural
    from clawlink.domain.terminal import cell
    from clawlink.loop_run import run
    from clawlink.wake.program import Program

    private.make_folder(folder)
    lock = FileLock(folder / "wake.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LocalFailure("it runs already for this account; see: clawlink wake --status") from None

    def log(text: str) -> None:
        if ctx.json:
            ctx.out.json({"at": time.time(), "event": text}, one_line=True)
        else:
            ctx.out.line(f"{time.strftime('%H:%M:%S')} {cell(text)}")
        ctx.out.flush()

    def opened(number: int) -> None:
        log(f"watching {plural(len(program.watched()), 'agent')}; the local port is {number}")

    program = Program(folder, log=log, environ=ctx.environ)
    with lock:
        run(program.run(opened))
    return Exit.DONE


def _serve(args: Namespace, ctx: Context) -> Exit:
    from clawlink.cli.exits import LocalFailure
    from clawlink.client.identity import account_home
    from clawlink.service import ServiceError, Services

    services = Services(account_home())
    try:
        if args.install:
            place = services.install(_service(ctx))
            said: dict[str, Any] = {"installed": True, "place": str(place)}
            text = f"Installed and started: {place}"
            if (advice := services.advice()) is not None:
                ctx.err.line(f"clawlink: {advice}")
        else:
            said = {"installed": False, "removed": services.uninstall(_service(ctx))}
            text = "Stopped and removed." if said["removed"] else "It was not installed."
    except ServiceError as error:
        raise LocalFailure(str(error)) from None
    if ctx.json:
        ctx.out.json(said)
    else:
        ctx.out.line(text)
    return Exit.DONE


def _service(ctx: Context) -> Service:
    from clawlink.client.hooks.rules import HOSTS
    from clawlink.service import Service, own_command

    # The interpreter itself: a service has another PATH.
    words = (*own_command(), "wake")
    own = [name for host in HOSTS.values() for name in host.variables]
    kept = ["CLAWLINK_HOME", *own, "OPENCLAW_GATEWAY_URL", "OPENCLAW_HOOKS_TOKEN"]
    if sys.platform != "win32":  # there a service has the account's
        kept.append("PATH")
    environ = {name: ctx.environ[name] for name in kept if ctx.environ.get(name)}
    return Service("clawlink-wake", "ClawLink: wakes idle agents", words, environ)


def _show(ctx: Context, folder: Path) -> Exit:
    """Show the service, and the agents. Without the running program there are none to show."""
    from clawlink.client.hooks import port
    from clawlink.client.identity import account_home
    from clawlink.service import ServiceError, Services

    try:
        service = Services(account_home()).status(_service(ctx))._asdict()
    except ServiceError:
        service = {"installed": False, "running": False, "place": None, "kind": None}
    try:
        agents = port.ask(str(folder), {"ask": "status"}, _STATUS_SECONDS)["agents"]
    except OSError:
        agents = None
    if ctx.json:
        ctx.out.json({"runs": agents is not None, "service": service, "agents": agents or []})
        return Exit.DONE
    installed = f"installed ({service['place']})" if service["installed"] else "not installed"
    ctx.out.facts(("runs", "no; start it with: clawlink wake" if agents is None else "yes"), ("service", installed))
    if agents:
        _table(ctx, agents)
    return Exit.DONE


def _table(ctx: Context, agents: list[dict[str, Any]]) -> None:
    import time

    from clawlink.cli.render import when
    from clawlink.domain.terminal import cell

    rows = []
    for agent in agents:
        ways = [cell(name) for name, why in agent["ways"].items() if why is None]
        last = "never" if agent["last_woken"] is None else when(_iso(agent["last_woken"]), time.time())
        unread = "?" if agent["unread"] is None else str(agent["unread"])
        closed = "; ".join(cell(why) for why in agent["ways"].values() if why is not None)
        by = ", ".join(ways) or f"not wakeable: {closed}"
        rows.append((cell(agent["name"]), unread, by, last, cell(agent["why"])))
    ctx.out.table(("agent", "unread", "wakeable by", "last woken", "now"), rows, least=("last woken", "unread"))


def _iso(at: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(at, timezone.utc).isoformat()
