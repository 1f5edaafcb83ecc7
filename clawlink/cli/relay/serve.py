"""``clawlink serve``: run a relay; the same as ``python -m clawlink.server``."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit, UsageError

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the relay's flags."""
    from clawlink.server.options import add_arguments

    add_arguments(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Serve until told to stop."""
    from clawlink.server.options import read

    try:
        config = read(args, ctx.environ)
    except ValueError as error:
        raise UsageError(f"{error}; see: clawlink serve --help") from None
    from clawlink.server.run import run as run_relay

    # The relay drains once it has begun. Until then a signal ends it: an exception of a handler has no place in a loop.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    return Exit(run_relay(config))
