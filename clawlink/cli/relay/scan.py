"""``clawlink relay scan``: find relays on the local network by mDNS."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_LISTEN_SECONDS = 3.0


def add(parser: ArgumentParser) -> None:
    """Add no flags: --timeout says how long to listen."""
    parser.epilog = f"--timeout says how long to listen, in seconds (default {_LISTEN_SECONDS:g})."


def run(args: Namespace, ctx: Context) -> Exit:
    """Listen, then list the relays that answered."""
    from clawlink.domain.terminal import cell
    from clawlink.errors import ClawLinkError
    from clawlink.lan import scan
    from clawlink.version import extra_command

    try:
        found = scan(args.timeout or _LISTEN_SECONDS)
    except ImportError:
        raise ClawLinkError(f"scan needs zeroconf; in a checkout of ClawLink: {extra_command('lan')}") from None
    except OSError as error:
        raise ClawLinkError(f"cannot listen on the local network: {error.strerror or error}") from None
    if ctx.json:
        ctx.out.json({"relays": [relay._asdict() for relay in found], "count": len(found)})
    elif not found:
        ctx.out.line(
            "No relay answered; one that listens on loopback only, or was started with --no-mdns, is not announced."
        )
    else:
        ctx.out.table(
            ("name", "url", "version", "token"),
            [
                (cell(relay.name), cell(relay.url), cell(relay.version), "asked for" if relay.auth else "not asked for")
                for relay in found
            ],
            whole="url",
            least=("version", "token", "name"),
        )
        ctx.out.line("Join one: clawlink --relay URL [--token TOKEN] register --name NAME")
    return Exit.DONE
