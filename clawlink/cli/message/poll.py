"""``clawlink poll``: show waiting messages, and acknowledge the shown ones.

The order matters: print, flush, acknowledge. A failure before the last step gives the messages back. With ``--follow``
the next poll acknowledges; without a next poll a request of its own does.
"""

from __future__ import annotations

import contextlib
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import count, lease, seconds

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.shared import Absences
    from clawlink.client.calls import Claimed
    from clawlink.client.sync import Client

_WAIT_SECONDS = 25.0
_MOST = 50
# A request waits this many seconds at most, so that a silently dead connection is noticed.
_STEP_SECONDS = 30.0
# A relay that shuts down answers waiting polls at once; asking again at once would only load it.
_HURRIED_SECONDS = 0.5
# After Ctrl-C the last ack takes this many seconds at most.
_LAST_ACK_SECONDS = 2.0


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--wait",
        nargs="?",
        type=seconds,
        const=_WAIT_SECONDS,
        default=0.0,
        metavar="SECONDS",
        help=f"seconds to wait for the first message (default {_WAIT_SECONDS:g}); exit code 6 if none came",
    )
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C, or until --max messages were shown")
    parser.add_argument("--max", type=count, metavar="N", help=f"most messages to show (default {_MOST})")
    parser.add_argument(
        "--no-ack", action="store_true", help="show the messages without an ack; they come again when their lease ends"
    )
    parser.add_argument(
        "--lease", type=lease, metavar="S", help="seconds to hold the messages (default: as the relay is set, 60)"
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Claim, show, acknowledge; once, or for ever."""
    if not ctx.out.open:
        raise OSError("there is no standard output to show messages on; they stay where they are")
    client = ctx.client
    if args.follow:
        return _follow(args, ctx, client)
    absences, claimed = _first(ctx, client, args)
    with _given_back_on_failure(client, claimed):
        if ctx.json:
            _print_json(ctx, claimed)
        else:
            _print(ctx, claimed, more=len(claimed) >= (args.max or _MOST))
        ctx.out.flush()
        if claimed and not args.no_ack:
            absences.bear(lambda: _settle(ctx, client, claimed))
    return Exit.PENDING if args.wait and not claimed else Exit.DONE


def _first(ctx: Context, client: Client, args: Namespace) -> tuple[Absences, list[Claimed]]:
    """Claim the first messages within the time of ``--wait``; none if they do not come, or the relay stays away.

    Raises the failure of a relay that never answered, and the refusal of a relay that is back.
    """
    from clawlink.cli.shared import Absences
    from clawlink.client.retry import passes
    from clawlink.errors import ClawLinkError, Stopped

    until = time.monotonic() + args.wait
    absences = Absences(ctx, until)
    claimed: list[Claimed] = []
    try:
        while not claimed and ((left := until - time.monotonic()) > 0 or not absences.answered):
            claimed = _claim_patiently(ctx, client, args, [], absences, limit=args.max or _MOST, wait=max(0.0, left))
    except ClawLinkError as error:
        stays_away = passes(error, answered=True) or isinstance(error, Stopped)
        if not (absences.answered and absences.away and stays_away):
            raise
    return absences, claimed


def _follow(args: Namespace, ctx: Context, client: Client) -> Exit:
    from clawlink.cli.shared import Absences

    left = args.max
    absences = Absences(ctx, float("inf"))
    shown: list[Claimed] = []  # and not acknowledged yet: the next poll does it
    with _acknowledged_at_the_end(client, shown):
        while left is None or left > 0:
            most = min(left or _MOST, _MOST)
            claimed = _claim_patiently(ctx, client, args, shown, absences, limit=most, wait=_STEP_SECONDS)
            with _given_back_on_failure(client, claimed):
                if ctx.json:
                    for one in claimed:
                        ctx.out.json({"message": one.raw, "delivery": _delivery(one)}, one_line=True)
                else:
                    _print_all(ctx, claimed)
                ctx.out.flush()
                if not args.no_ack:
                    shown += claimed
            left = None if left is None else left - len(claimed)
    if shown:
        absences.bear(lambda: _settle(ctx, client, shown))
    return Exit.DONE


@contextlib.contextmanager
def _acknowledged_at_the_end(client: Client, shown: list[Claimed]) -> Iterator[None]:
    """Acknowledge the shown messages if no further poll can do it, as after Ctrl-C. It tries once."""
    from clawlink.client.retry import Backoff
    from clawlink.errors import ClawLinkError

    try:
        yield
    except BaseException:
        if shown:
            client.timeout, client.backoff = min(client.timeout, _LAST_ACK_SECONDS), Backoff(tries=1)
            with contextlib.suppress(ClawLinkError):
                client.ack([one.receipt for one in shown])
        raise


def _claim(
    ctx: Context, client: Client, args: Namespace, shown: list[Claimed], *, limit: int, wait: float
) -> list[Claimed]:
    """Claim messages, in as many requests as the wait takes.

    The first acknowledges the messages of ``shown``, and empties the list.
    """
    until = time.monotonic() + wait
    while True:
        started = time.monotonic()
        step = min(max(0.0, until - started), _STEP_SECONDS)
        acks = [one.receipt for one in shown]
        claimed = client.poll(wait=round(step, 3), max=limit, lease=args.lease, ack=acks)
        if acks:
            shown.clear()
            _warn_of_lost(ctx, sum(result.status != "acked" for result in claimed.results))
        now = time.monotonic()
        if claimed or now >= until:
            return claimed
        if now - started < min(step, _HURRIED_SECONDS):
            time.sleep(min(_HURRIED_SECONDS, until - now))


def _claim_patiently(
    ctx: Context,
    client: Client,
    args: Namespace,
    shown: list[Claimed],
    absences: Absences,
    *,
    limit: int,
    wait: float,
) -> list[Claimed]:
    """Claim messages for up to ``wait`` seconds, and through times when the relay is away.

    The first poll, and the first after an absence, does not wait: it shows that a relay is there.
    """
    return absences.bear(
        lambda: _claim(
            ctx, client, args, shown, limit=limit, wait=wait if absences.answered and not absences.away else 0.0
        )
    )


@contextlib.contextmanager
def _given_back_on_failure(client: Client, claimed: list[Claimed]) -> Iterator[None]:
    """Give the messages back if they could not be shown, rather than keep them until their lease ends."""
    from clawlink.errors import ClawLinkError

    try:
        yield
    except BaseException:
        with contextlib.suppress(ClawLinkError):
            if claimed:
                client.nack([one.receipt for one in claimed])
        raise


def _settle(ctx: Context, client: Client, claimed: list[Claimed]) -> None:
    settled = client.ack([one.receipt for one in claimed])
    _warn_of_lost(ctx, len(claimed) - settled.count)


def _warn_of_lost(ctx: Context, lost: int) -> None:
    if lost:
        ctx.warn(f"{lost} of these were shown too late to be acknowledged and may come again; use a longer --lease")


def _delivery(one: Claimed) -> dict[str, object]:
    delivery: dict[str, object] = {
        "message_id": one.message_id,
        "receipt": one.receipt,
        "attempt": one.attempt,
        "lease_expires_at": one.lease_expires_at,
    }
    return delivery if one.reported is None else {**delivery, "reported": one.reported}


def _print_json(ctx: Context, claimed: list[Claimed]) -> None:
    ctx.out.json(
        {
            "messages": [one.raw for one in claimed],
            "count": len(claimed),
            "deliveries": [_delivery(one) for one in claimed],
        }
    )


def _print(ctx: Context, claimed: list[Claimed], *, more: bool) -> None:
    from clawlink.cli.messages import is_notice
    from clawlink.cli.render import plural

    _print_all(ctx, claimed)
    if not claimed:
        ctx.out.line("No messages.")
    elif ctx.args.no_ack:
        ctx.out.line(f"{plural(len(claimed), 'message')}, not acknowledged.")
    else:
        shown = sum(not is_notice(one.message) for one in claimed)
        hint = f"; there may be more: {ctx.command('poll')}" if more else ""
        if shown or more:
            ctx.out.line(f"{plural(shown, 'message')}{hint}.")


def _print_all(ctx: Context, claimed: list[Claimed]) -> None:
    """Print each message, and all notices as one line."""
    from clawlink.cli.messages import is_notice, notices_line

    for one in claimed:
        if ctx.args.no_ack or not is_notice(one.message):  # the holder needs each receipt
            _print_one(ctx, one)
    if not ctx.args.no_ack:
        line = notices_line(one.message for one in claimed)
        if line:
            ctx.out.line(line)


def _print_one(ctx: Context, one: Claimed) -> None:
    from clawlink.cli.messages import next_command, show_message
    from clawlink.cli.render import duration, epoch
    from clawlink.cli.tasks import timeline, why_over
    from clawlink.domain.message import TaskDelegation, TaskResponse
    from clawlink.domain.terminal import cell

    left = (epoch(one.lease_expires_at) or ctx.now) - ctx.now
    show_message(ctx, one.message, one.message_id, one.raw, attempt=one.attempt, reported=one.reported or ())
    if one.reported:
        ctx.out.line("  reported before:")
        timeline(ctx, one.reported, began=str(one.raw.get("queued_at")), me=ctx.me.agent_id)
    receipt = one.receipt if ctx.args.no_ack else None
    todo = next_command(ctx, one.message, receipt=receipt)
    over = why_over(ctx, one.message) if todo is not None and isinstance(one.message, TaskResponse) else None
    if over is not None:
        ctx.out.facts(("over", over))
    elif todo is not None:
        keep = None
        silence = None if ctx.args.no_ack else ctx.silence
        # The ack does not shorten the lease of the poll.
        within = left if ctx.args.no_ack else silence and max(left, silence)
        if isinstance(one.message, TaskDelegation) and within is not None:
            claim = {} if receipt is None else {"receipt": receipt}
            report = ctx.command("respond", one.message_id, **claim, progress="N")
            keep = f"{report}   within {duration(within)}, again and again"
        ctx.out.facts(todo, ("keep it", keep))
    if ctx.args.no_ack:
        ctx.out.facts(
            ("receipt", cell(one.receipt)),
            ("held until", f"{cell(one.lease_expires_at)} (for {duration(left)}), then it comes again"),
        )
    ctx.out.line()
