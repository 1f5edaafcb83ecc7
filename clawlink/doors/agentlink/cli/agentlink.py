"""``clawlink agentlink``: be an agent of Agent Link and show its messages; and set a machine up for it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.doors.agentlink.client.link import AgentLink, Message

_TEST_SECONDS = 10.0
_LOOK_SECONDS = 0.5


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", nargs="?", choices=("setup",), help="write the configuration, for this machine")
    parser.add_argument(
        "--config",
        dest="file",
        metavar="FILE",
        help="the configuration (default: agent-link-config.json here, or in ~/.clawlink)",
    )
    parser.add_argument("--relay-url", metavar="URL", help="the relay, as ws://relay:9077/agentlink")
    parser.add_argument(
        "--secret", help="the instance's secret; - reads it from standard input, so that it is not visible"
    )
    parser.add_argument("--instance-id", metavar="ID", help="the instance, as the relay's operator added it")
    parser.add_argument("--agent-id", metavar="ID", help="id of this agent within the instance")
    parser.add_argument("--test", action="store_true", help="send a message to this agent, wait for it and end")


def run(args: Namespace, ctx: Context) -> Exit:
    """Set up, or connect."""
    secret = None if args.secret is None else ctx.read(args.secret)
    if args.action == "setup":
        return _set_up(args, ctx, secret)
    from clawlink.cli.exits import UsageError
    from clawlink.doors.agentlink.client.link import AgentLink
    from clawlink.errors import NotAllowed

    try:
        link = AgentLink(
            args.relay_url, secret, args.instance_id, args.agent_id, config_path=args.file, ca=args.ca or None
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no configuration {error.filename}; write one with: clawlink agentlink setup --relay-url URL "
            "--instance-id ID --secret -, or give --relay-url, --secret, --instance-id and --agent-id"
        ) from None
    try:
        return _test(link, ctx) if args.test else _listen(link, ctx)
    except NotAllowed as error:
        raise NotAllowed(f"{error.message}{_what_to_do(error.message, link, args)}", field=error.field) from None


def _what_to_do(refused: str, link: AgentLink, args: Namespace) -> str:
    """Return the next step after a refused register; the relay tells strangers next to nothing about the reason."""
    from clawlink.doors.agentlink.client.link import default_config
    from clawlink.doors.agentlink.wire.frames import INVALID_SIGNATURE, NOT_REGISTERED

    instance = link.address.partition("/")[0]
    file = args.file or default_config()
    if refused == INVALID_SIGNATURE:
        source = f"in {file}" if args.secret is None else "given with --secret"
        return (
            f": the secret {source} is not the one that the relay has for instance {instance!r}; ask its operator for "
            "it, and write it down with: clawlink agentlink setup --secret -"
        )
    if refused == NOT_REGISTERED:
        source = f"in {file}" if args.instance_id is None else "given with --instance-id"
        return (
            f": the relay knows no instance {instance!r}, which is {source}; its operator adds it with: clawlink "
            f"instance add {instance}, and restarts the relay, which reads its file at its start"
        )
    return ""


def _set_up(args: Namespace, ctx: Context, secret: str | None) -> Exit:
    """Write the configuration; missing values stay as they were."""
    import secrets
    from pathlib import Path

    from clawlink.cli.exits import UsageError
    from clawlink.client.identity import home
    from clawlink.domain.terminal import cell
    from clawlink.doors.agentlink.client.link import CONFIG_NAME
    from clawlink.doors.agentlink.wire.files import read_link, write_private
    from clawlink.doors.agentlink.wire.signing import require_agent, require_instance

    path = Path(args.file) if args.file else home(ctx.environ) / CONFIG_NAME
    given: dict[str, Any] = {
        "relay_url": args.relay_url,
        "secret": secret,
        "instance_id": args.instance_id,
        "agent_id": args.agent_id,
        "ca": args.ca,
    }
    before = _written(path)
    after = {"auto_reconnect": True, **before, **{name: value for name, value in given.items() if value is not None}}
    missing = [f"--{name.replace('_', '-')}" for name in ("relay_url", "secret") if not after.get(name)]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given; see: clawlink agentlink --help")
    made_up = not after.get("instance_id")
    if made_up:
        after["instance_id"] = f"instance-{secrets.token_hex(4)}"
    require_instance(after["instance_id"])
    if after.get("agent_id") is not None:
        require_agent(after["agent_id"])
    write_private(path, after)
    read_link(path)
    if ctx.json:
        ctx.out.json({"config": str(path), **{name: value for name, value in after.items() if name != "secret"}})
        return Exit.DONE
    ctx.out.line(f"Wrote {cell(str(path))}, for your account only.", style="bold")
    agent = "" if after.get("agent_id") else " --agent-id ID"
    named = f" --config {path}" if args.file else ""
    if made_up:
        id = after["instance_id"]
        ctx.out.facts(
            ("instance", f"{id}   (made up; --instance-id names another)"),
            ("its relay", f"clawlink instance add {id} --secret -   (the same secret, where the relay runs)"),
        )
    if "," not in after["relay_url"]:
        ctx.out.facts(("of a mesh", "--relay-url URL,URL names several relays: if one ends, the link goes to the next"))
    ctx.out.facts(("try it", cell(f"clawlink agentlink --test{agent}{named}")))
    return Exit.DONE


def _written(path: Any) -> dict[str, Any]:
    """Return the fields of a configuration, with those that this version does not know."""
    import msgspec

    from clawlink.doors.agentlink.wire.files import read_link

    if not path.exists():
        return {}
    read_link(path)
    kept: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return kept


def _test(link: AgentLink, ctx: Context) -> Exit:
    """Send a message to oneself, and wait until it has come and its receipt."""
    from clawlink.client.wait_steps import StillPending

    with link:
        link.on_message(lambda message: None)
        sent = link.send(link.address, "Agent Link works")
        try:
            sent.receipt().result(_TEST_SECONDS)
        except TimeoutError:
            raise StillPending(f"message {sent.id} was stored but did not come back in {_TEST_SECONDS:g} s") from None
    if ctx.json:
        ctx.out.json({"status": "ok", "address": link.address, "message_id": sent.message_id})
    else:
        ctx.out.line(f"{link.address} works: a message to itself came back, and so did its receipt.")
    return Exit.DONE


def _listen(link: AgentLink, ctx: Context) -> Exit:
    """Show messages as they come, until interrupted. Each is acked once it is printed."""
    import asyncio
    import queue
    from concurrent.futures import Future

    waiting: queue.Queue[tuple[Message, Future[None]]] = queue.Queue()

    @link.on_message
    async def keep(message: Message) -> None:
        printed: Future[None] = Future()
        waiting.put((message, printed))
        await asyncio.wrap_future(printed)

    @link.on_state
    def tell(state: str) -> None:
        if state == "disconnected" and link.why:
            ctx.warn(f"disconnected: {link.why}")

    with link:
        if not ctx.json:
            ctx.out.line(f"{link.address} is connected; Ctrl-C ends it.", style="bold")
            ctx.out.flush()
        while True:
            try:
                message, printed = waiting.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            try:
                _show(message, ctx)
            except BaseException as error:  # it is not shown: the link must not wait for it at its end
                printed.set_exception(error)
                raise
            printed.set_result(None)


def _show(message: Message, ctx: Context) -> None:
    from clawlink.domain.terminal import cell

    if ctx.json:
        ctx.out.json(message.fields, one_line=True)
    else:
        proven = ", sealed" if message.sealed else ""
        ctx.out.line(f"{cell(str(message.fields.get('timestamp', '')))}  from {cell(message.from_agent)}{proven}")
        ctx.out.quote(message.message)
    ctx.out.flush()
