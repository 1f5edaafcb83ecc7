"""``clawlink instance``: which instances of Agent Link a relay serves, in its operator's relay-config.json."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import names

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_FILE = "relay-config.json"


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", choices=("add", "list"), help="add an instance, or list all")
    parser.add_argument("instance_id", nargs="?", metavar="ID", help="the instance to add")
    parser.add_argument("--config", dest="file", metavar="FILE", default=_FILE, help=f"the file (default {_FILE})")
    parser.add_argument("--name", help="name of the instance")
    parser.add_argument("--public-key", metavar="KEY", help="public key, kept in the file; no signature uses it")
    parser.add_argument(
        "--secret", help="the instance's secret; - reads standard input (default: a new one, shown once)"
    )
    parser.add_argument("--legacy", action="store_true", help="allow signatures of old clients, which can be replayed")
    parser.add_argument("--agents", type=names, metavar="A,B", help="agents that exist before they first connect")
    parser.add_argument("--replace", action="store_true", help="replace an instance with this id")


def run(args: Namespace, ctx: Context) -> Exit:
    """Add, or list."""
    from clawlink.cli.exits import UsageError

    if args.action == "list":
        return _list(args, ctx)
    if args.instance_id is None:
        raise UsageError("say which instance to add: clawlink instance add ID")
    return _add(args, ctx)


def _add(args: Namespace, ctx: Context) -> Exit:
    from clawlink.cli.exits import UsageError
    from clawlink.domain.terminal import cell
    from clawlink.doors.agentlink.wire.files import InstanceEntry, add_instance
    from clawlink.doors.agentlink.wire.signing import new_secret, require_agent, require_instance
    from clawlink.errors import BadRequest

    try:
        require_instance(args.instance_id)
        for agent_id in args.agents or []:
            require_agent(agent_id, field="agents")
    except BadRequest as error:
        raise UsageError(error.message, field=error.field) from None
    secret = new_secret() if args.secret is None else ctx.read(args.secret)
    entry = InstanceEntry(
        instance_id=args.instance_id,
        name=args.name,
        public_key=args.public_key,
        secret=secret,
        legacy=args.legacy,
        agents=args.agents or [],
    )
    add_instance(args.file, entry, replace=args.replace)
    made = args.secret is None
    if ctx.json:
        ctx.out.json({"instance_id": entry.instance_id, "config": args.file, "secret": secret if made else None})
        return Exit.DONE
    ctx.out.line(f"Added instance {cell(entry.instance_id)} to {cell(args.file)}.", style="bold")
    ctx.out.facts(
        ("secret", secret if made else None),
        (
            "relay",
            f"clawlink serve --agentlink-config {cell(args.file)}   (restart it: it reads the file at its start)",
        ),
        (
            "its machine",
            "its client stays as it is, but for its URL, ws://RELAY:9077/agentlink, and this secret"
            if entry.legacy
            else "clawlink agentlink setup --relay-url ws://RELAY:9077/agentlink "
            f"--instance-id {cell(entry.instance_id)} --agent-id ID --secret -",
        ),
    )
    return Exit.DONE


def _list(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.agentlink.wire.files import read_relay

    file = read_relay(args.file)
    if ctx.json:
        shown = [
            {
                "instance_id": entry.instance_id,
                "name": entry.name,
                "public_key": entry.public_key,
                "legacy": entry.legacy,
                "agents": entry.agents,
                "own_secret": entry.secret is not None,
            }
            for entry in file.registered_instances
        ]
        ctx.out.json({"instances": shown, "count": len(shown)})
    elif not file.registered_instances:
        ctx.out.line(f"{cell(args.file)} has no instances; add one: clawlink instance add ID")
    else:
        ctx.out.table(
            ("instance", "name", "signs", "secret", "agents"),
            [
                (
                    cell(entry.instance_id),
                    cell(entry.name or ""),
                    "as old clients" if entry.legacy else "canonically",
                    "shared" if entry.secret is None else "its own",
                    cell(", ".join(entry.agents)),
                )
                for entry in file.registered_instances
            ],
            least=("secret", "signs", "name"),
        )
    return Exit.DONE
