"""Sentences that several commands share."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from clawlink.cli.render import named, reached

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.output import Output
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.replies import RecipientInfo

T = TypeVar("T")


def show_recipient(ctx: Context, what: str, to: RecipientInfo | None, *, out: Output | None = None) -> None:
    """Print the recipient and its presence."""
    out = out or ctx.out
    if to is None:
        out.line("Stored at the first request; the recipient has left since.", style="bold")
        return
    later = "" if to.status == "online" or to.through else "; it will get it when it polls"
    out.line(f"{what} {named(to.name, to.agent_id)}, {reached(to, ctx.now)}{later}.", style="bold")


@contextlib.contextmanager
def repeatable(key: str) -> Iterator[None]:
    """Print how to repeat a write with its idempotency key, if it is not known whether it was stored."""
    from clawlink.errors import InternalError, RelayUnreachable

    try:
        yield
    except (RelayUnreachable, InternalError) as error:
        import shlex

        if isinstance(error, RelayUnreachable) and error.unsent:
            raise
        raise type(error)(
            f"{error.message}; it may have been stored; repeat it safely with --key {shlex.quote(key)}",
            field=error.field,
            retry_after=error.retry_after,
        ) from error


@contextlib.contextmanager
def task_named(ctx: Context, id: str) -> Iterator[None]:
    """Say where ids are found if the relay knows no such task."""
    from clawlink.errors import UnknownTask

    try:
        yield
    except UnknownTask:
        raise UnknownTask(
            f"no task {id!r} is known here; list yours with: {ctx.command('tasks')}", field="task_id"
        ) from None


def tell_away(
    ctx: Context,
    error: ClawLinkError | None,
    *,
    back: str = "the relay is back",
    meanwhile: str = "waiting until it is back",
) -> None:
    """Say that the relay is away, and why; None: that it is back."""
    if error is None:
        ctx.warn(back)
    else:
        what, _, _ = error.message.partition(";")  # without the error's next step, which this code does itself
        ctx.warn(f"{what}; {meanwhile}")
    ctx.err.flush()


class Absences:
    """Does the requests of a waiting command through times when the relay is away, and tells of these times.

    It asks again until the monotonic time ``until``. ``answered`` is True once the relay has answered, and ``away``
    while it is away.
    """

    def __init__(self, ctx: Context, until: float) -> None:
        self.answered = False
        self.away = False
        self._ctx = ctx
        self._until = until

    def bear(self, work: Callable[[], T]) -> T:
        """Return the value of ``work``, which asks the relay. Raises its last failure when the time is over."""
        from clawlink.client.retry import passes, pause_of_wait
        from clawlink.errors import ClawLinkError, Stopped

        failed = 0
        while True:
            try:
                done = work()
            except ClawLinkError as error:
                left = self._until - time.monotonic()
                if left <= 0 or not (passes(error, answered=self.answered) or isinstance(error, Stopped)):
                    raise
                if not self.away:
                    tell_away(self._ctx, error)
                self.away = True
                failed += 1
                time.sleep(min(pause_of_wait(error, attempt=failed, random=random.random()), left))
            else:
                if self.away:
                    tell_away(self._ctx, None)
                self.answered, self.away = True, False
                return done
