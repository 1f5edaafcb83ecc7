"""``clawlink bench``: measure a relay, beside a bare aiohttp server."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit, UsageError
from clawlink.doors.registry import Door, doors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from clawlink.bench.scenarios import Relay, Row
    from clawlink.bench.servers import Server
    from clawlink.cli.context import Context

SCENARIOS = (
    *("delegate", "tasks", "work", "legacy", "takeover", "lists", "agents", "memory", "waiting"),
    "polls",
    *("sockets", "latency", "idle", "stuck", "restarts"),
    *("files", "spool", "listing", "upkeep", "attacks", "data"),
)


_COMPARED = ("delegate", "tasks", "sockets", "files")
_TOKENS = {"attacks": "bench"}


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--floor",
        action="store_true",
        help="measure a bare aiohttp application in the same run too, and show ratios to it",
    )
    parser.add_argument("--seconds", type=_seconds, default=1.0, help="seconds to measure each figure (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of compared figures (default 5)")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*SCENARIOS, "store", *_of_doors()),
        metavar="SCENARIO",
        help=f"measure only this; repeat the flag for more: {', '.join((*SCENARIOS, 'store', *_of_doors()))}",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="make the folders of relays with --data here, not in a temporary folder"
    )
    parser.add_argument("--store", metavar="redis://HOST:PORT", help="the server for --only store")


def run(args: Namespace, ctx: Context) -> Exit:
    """Start a relay of its own, or use that of --relay, and print the measurements."""
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from clawlink.bench import data_scenarios, link_scenarios, servers, store_scenarios, upkeep_scenarios
    from clawlink.bench.scenarios import Relay
    from clawlink.loop_run import run as run_loop

    def say(what: str) -> None:
        if ctx.err.terminal and not ctx.json:
            ctx.err.line(f"measuring: {what}")

    rows: list[Row] = []
    of_doors = _of_doors()
    for name in args.only or (*SCENARIOS, *of_doors):
        if name == "restarts":  # which needs a relay that it may kill
            rows += run_loop(link_scenarios.restarts(say=say))
            continue
        if name == "data":  # which needs one in memory and others beside it
            with TemporaryDirectory(dir=args.data) as folder:
                rows += data_scenarios.lives(folder, seconds=args.seconds, rounds=args.rounds, say=say)
            continue
        if name == "store":
            if args.store is None:
                raise UsageError("--only store needs a server: give --store redis://HOST:PORT")
            rows += store_scenarios.lives(args.store, seconds=args.seconds, rounds=args.rounds, say=say)
            continue
        if name in of_doors:  # which need none
            with TemporaryDirectory() as folder:
                rows += of_doors[name].measure(name, folder, say=say)
            continue
        if name == "upkeep":  # which looks into relays without sockets
            steps = {what: step for door in doors() for what, step in door.upkeep_steps().items()}
            rows += run_loop(upkeep_scenarios.upkeep(say=say, of_doors=steps))
            continue
        # Every scenario gets a fresh relay, so that the leftovers of another do not count.
        with ExitStack() as stack:
            named = ctx.given.relay
            folder = stack.enter_context(TemporaryDirectory())
            flags = _flags(name, folder)
            server = servers.Server(named) if named is not None else stack.enter_context(servers.relay(*flags))
            beside = []
            if args.floor and name in _COMPARED:
                beside = [stack.enter_context(servers.floor())]
            elif name == "legacy":
                beside = [stack.enter_context(servers.legacy(*least)) for least in ((), ("--least",))]
            stack.enter_context(servers.on_the_other_core())
            relay = Relay(server, ctx.given.token if named is not None else _TOKENS.get(name))
            rows += run_loop(_scenario(name, relay, beside, args, say))
    if ctx.json:
        ctx.out.json([row._asdict() for row in rows])
    else:
        _show(ctx, rows)
    return Exit.DONE


def _of_doors() -> dict[str, Door]:
    """Return the scenarios that doors have, each with its door."""
    return {name: door for door in doors() for name in door.scenarios}


def _scenario(
    name: str, relay: Relay, beside: Sequence[Server], args: Namespace, say: Callable[[str], None]
) -> Coroutine[Any, Any, list[Row]]:
    from clawlink.bench import (
        attack_scenarios,
        file_scenarios,
        legacy_scenarios,
        poll_scenarios,
        scenarios,
        socket_scenarios,
        task_scenarios,
    )

    seconds = args.seconds
    floor = beside[0] if beside else None
    if name == "delegate":
        return scenarios.delegate(relay, floor, seconds=seconds, rounds=args.rounds, say=say)
    if name == "tasks":
        return task_scenarios.lives(relay, floor, seconds=seconds, rounds=args.rounds, say=say)
    if name == "takeover":
        return task_scenarios.takeovers(relay, say=say)
    if name == "lists":
        return task_scenarios.lists(relay, seconds=seconds, say=say)
    if name == "work":
        return scenarios.work(relay, seconds=seconds, say=say)
    if name == "polls":
        return poll_scenarios.messages(relay, seconds=seconds, rounds=args.rounds, say=say)
    if name == "legacy":
        return legacy_scenarios.rounds(relay, *beside, seconds=seconds, rounds=args.rounds, say=say)
    if name == "agents":
        return scenarios.many_agents(relay, seconds=seconds, say=say)
    if name == "memory":
        return scenarios.memory(relay, say=say)
    if name == "sockets":
        return socket_scenarios.messages(relay, floor, seconds=seconds, rounds=args.rounds, say=say)
    if name == "latency":
        return socket_scenarios.latency(relay, seconds=seconds, say=say)
    if name == "idle":
        return socket_scenarios.idle(relay, seconds=seconds, say=say)
    if name == "stuck":
        return socket_scenarios.stuck(relay, say=say)
    if name == "files":
        return file_scenarios.streams(relay, floor, rounds=args.rounds, say=say)
    if name == "spool":
        return file_scenarios.many_uploads(relay, say=say)
    if name == "attacks":
        return attack_scenarios.attacks(relay, seconds=seconds, say=say)
    if name == "listing":
        return file_scenarios.listing(relay, seconds=seconds, say=say)
    return scenarios.waiting_polls(relay, seconds=seconds, say=say)


def _flags(name: str, folder: str) -> Sequence[str]:
    from clawlink.bench.task_scenarios import STALE_SECONDS

    if name == "takeover":
        return ("--stale-after", f"{STALE_SECONDS:g}")
    if name in _TOKENS:
        from clawlink.bench.attack_scenarios import FLAGS

        return ("--token", _TOKENS[name], *FLAGS)
    return ("--spool", folder, "--max-files-bytes", str(10**10)) if name == "spool" else ()


def _show(ctx: Context, rows: Sequence[Row]) -> None:
    from clawlink.bench.servers import can_pin

    compared = any(row.ratio is not None for row in rows)
    ctx.out.table(
        ("what", "measured", "unit", *(["of the floor"] if compared else [])),
        [
            (
                row.what,
                f"{row.value:,.0f}" if abs(row.value) >= 100 else f"{row.value:.3f}",
                row.unit,
                *([_ratio(row.ratio)] if compared else []),
            )
            for row in rows
        ],
    )
    if not can_pin():
        ctx.out.line("Relay and load shared their cores here: compare ratios only, and with care.")


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise ArgumentTypeError(f"0.1 to 60 seconds are possible, not {text!r}")
    return seconds
