"""``clawlink portal password``: another password for an owner who has lost it, on the portal's own machine."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def run(args: Namespace, ctx: Context) -> Exit:
    """Set the password in the folder of the portal, or over its server."""
    from clawlink.cli.exits import UsageError
    from clawlink.doors.portal import DOOR

    if (args.data is None) is not args.store:
        raise UsageError(
            "password needs --data DIR, the folder of the portal, or --store for that of CLAWLINK_STORE; stop the "
            "portal first"
        )
    if args.data is not None and not (Path(args.data) / "clawlink.db").exists():
        raise UsageError(f"{args.data} is no folder of a portal that has run; the first start prints the password")
    given = args.words[0].strip() if args.words else None
    made = DOOR.set_password(None if args.data is None else Path(args.data), given)
    if ctx.json:
        ctx.out.json({"changed": True, **({} if given else {"password": made})})
    else:
        ctx.out.line("The password is changed." if given else f"The owner's password, shown this once: {made}")
    return Exit.DONE
