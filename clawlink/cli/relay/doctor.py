"""``clawlink doctor``: check all that agents need to work, and name the fix of each fault."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from clawlink.cli.exits import Exit, exit_of

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.settings import Where
    from clawlink.client.sync import Client
    from clawlink.errors import ClawLinkError, NotAuthenticated
    from clawlink.protocol.replies import Info

_SKEW_SECONDS = 5.0
_OTHERS = 0o077
_STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "FAIL": "bold red"}
_SET_CLOCK = {"darwin": "sudo sntp -sS time.apple.com", "win32": "w32tm /resync"}


class Check(NamedTuple):
    """A check: its subject, its outcome, and the command that puts it right."""

    name: str
    status: str
    detail: str
    fix: str | None = None
    exit: Exit = Exit.DONE


def add(parser: ArgumentParser) -> None:
    """Add the flag for a folder."""
    parser.add_argument("--data", metavar="DIR", help="check the folder of a relay with --data, and nothing else")


def run(args: Namespace, ctx: Context) -> Exit:
    """Check one fact after the other, and show each result at once."""
    done: list[Check] = []
    for check in _checks(ctx) if args.data is None else _check_data(args.data):
        done.append(check)
        if not ctx.json:
            _show(ctx, check)
    first = next((check.exit for check in done if check.status == "FAIL"), Exit.DONE)
    if ctx.json:
        checks = [{name: value for name, value in check._asdict().items() if name != "exit"} for check in done]
        ctx.out.json({"ok": first is Exit.DONE, "checks": checks})
    return first


def _show(ctx: Context, check: Check) -> None:
    from clawlink.domain.terminal import cell

    ctx.out.hanging(f"{check.status:<4}  {check.name:<10}  ", cell(check.detail), style=_STYLES[check.status])
    if check.fix is not None:
        ctx.out.line(f"{'':18}fix: {check.fix}")


def _checks(ctx: Context) -> Iterator[Check]:
    yield _check_install()
    yield from _check_doors()
    yield from _check_hooks(ctx)
    places, identity = _choose(ctx)
    relay_answers = False
    for place in places:
        where, address = _check_address(ctx, place)
        client = ctx.connect(where)
        yield address
        if address.status != "ok":
            continue
        relays = [where._replace(relay=relay) for relay in where.relay.split(",")]
        connections = [_check_connection(relay, ctx.timeout) for relay in relays]
        some_answer = any(connection.status == "ok" for connection in connections)
        answered: list[Where] = []
        for relay, connection in zip(relays, connections, strict=True):
            if connection.status != "ok":  # commands go on at another relay
                yield connection._replace(status="warn", exit=Exit.DONE) if some_answer else connection
                continue
            detail = connection.detail if len(relays) == 1 else f"{relay.relay} {connection.detail}"
            yield connection._replace(detail=detail)
            for check in _check_relay(ctx, relay, client if len(relays) == 1 else ctx.connect(relay)):
                relay_answers = relay_answers or (check.name == "token" and check.status == "ok")
                if check.name == "relay" and check.status != "FAIL":
                    answered.append(relay)
                yield check
        yield from _check_mesh(ctx, answered)
    yield identity
    if relay_answers and where.saved is not None:
        yield _check_agent(ctx, client)
    yield from _check_files(ctx)


def _check_data(folder: str) -> Iterator[Check]:
    """Look at the folder of a relay, which may be running."""
    from pathlib import Path

    from clawlink.store.sqlite.check import findings

    for found in findings(Path(folder)):
        yield Check(*found, exit=Exit.FAILED if found.status == "FAIL" else Exit.DONE)


def _check_install() -> Check:
    from clawlink.version import DISTRIBUTION, VERSION, former_distribution

    former = former_distribution()
    if former is None:
        return Check("install", "ok", f"{DISTRIBUTION} {VERSION}")
    what, _, fix = former.partition(": ")
    return Check("install", "FAIL", what, fix, Exit.FAILED)


def _check_doors() -> Iterator[Check]:
    """Name the doors that cannot be loaded."""
    from clawlink.doors.registry import find

    for broken in find().broken:
        detail = f"the door {broken.name} of {broken.package} cannot be loaded and is left out: {broken.reason}"
        yield Check("door", "warn", detail, f"pip install --upgrade {broken.package}, or uninstall it")


def _check_hooks(ctx: Context) -> Iterator[Check]:
    """Tell why the last hook of a coding agent did nothing. A hook itself is silent."""
    from clawlink.client.hooks.sessions import Sessions
    from clawlink.client.identity import NoHome, home

    with contextlib.suppress(NoHome):
        why = Sessions(home(ctx.environ)).noted()
        if why is not None:
            yield Check("hook", "warn", f"the last hook of a coding agent did nothing: {why}")


def _choose(ctx: Context) -> tuple[list[Where], Check]:
    """Return the relays to check, and the findings about the identity."""
    from clawlink.cli.settings import Where, acting, visiting
    from clawlink.client.identity import IdentityUnreadable, NoIdentity, SeveralIdentities, listed, to_register
    from clawlink.config import DEFAULT_RELAY

    given = ctx.given
    try:
        me = ctx.me
        where = acting(me, given)
        key = "its agent key is kept" if me.agent_key else "it has no agent key"
        return [where], Check("identity", "ok", f"{me.name} ({me.agent_id}); {key}")
    except (NoIdentity, SeveralIdentities, IdentityUnreadable) as error:
        failed = ctx.identities.unreadable()
        fix = to_register(given.relay) if isinstance(error, NoIdentity) else "clawlink --as NAME doctor"
        fix = failed[0].fix if failed and isinstance(error, IdentityUnreadable) else fix
        detail = error.message.partition("; register first")[0]  # the fix says it
        problem = Check("identity", "FAIL", detail, fix, exit_of(error))
        if isinstance(error, SeveralIdentities):
            # Several agents are no fault: each command takes the one that it is told.
            problem = problem._replace(status="note", exit=Exit.DONE)
        elif isinstance(error, NoIdentity) and given.named is not None and ctx.identities.all():
            kept = ctx.identities.matching(named=None, relay=given.relay) or ctx.identities.all()
            detail = error.message.partition("; see which")[0]
            problem = problem._replace(detail=f"{detail}; kept are {listed(kept)}", fix="clawlink --as NAME doctor")
            given = given._replace(named=None, insisted=False)  # the relays of the kept agents are checked
        elif isinstance(error, NoIdentity) and given.named is None and _connected(ctx):
            detail = "none is kept here; each session of a connected program registers an agent of its own"
            fix = f"{fix}   for an agent of your own commands"
            problem = problem._replace(status="note", detail=detail, fix=fix, exit=Exit.DONE)
    try:
        return [visiting(given, ctx.identities)._replace(saved=None)], problem
    except SeveralIdentities:
        found = ctx.identities.matching(named=given.named, relay=given.relay)
        return list(dict.fromkeys(acting(saved, given)._replace(saved=None) for saved in found)), problem
    except (NoIdentity, IdentityUnreadable):
        return [Where(given.relay or DEFAULT_RELAY, given.token, given.ca, None)], problem


def _connected(ctx: Context) -> bool:
    """Return True if a coding agent of this account is connected."""
    from clawlink.client.identity import NoHome, account_home
    from clawlink.client.programs.places import Place
    from clawlink.client.programs.programs import PROGRAMS, is_connected

    try:
        place = Place(account_home(), environ=ctx.environ)
    except NoHome:
        return False
    return any(is_connected(program, place) for program in PROGRAMS.values())


def _check_address(ctx: Context, where: Where) -> tuple[Where, Check]:
    """Look which relay is meant, also on the local network, and whether that is an address at all."""
    from clawlink.errors import ClawLinkError

    fix = "clawlink --relay http://HOST:9077 doctor"
    try:
        where = ctx.located(where)
    except ClawLinkError as error:
        return where, Check("address", "FAIL", error.message, fix, exit_of(error))
    try:
        parts = urlsplit(where.relay.partition(",")[0])
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if fine:
        return where, Check("address", "ok", where.relay)
    return where, Check("address", "FAIL", f"{where.relay!r} is no address of a relay", fix, Exit.UNREACHABLE)


def _check_connection(where: Where, timeout: float) -> Check:
    """Connect as the commands do: to the relay itself, or to the proxy that stands between."""
    import socket
    import time

    from clawlink.client.proxy import on_this_machine, proxy_for

    parts = urlsplit(where.relay.partition(",")[0])
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = proxy_for(where.relay)
    started = time.perf_counter()
    try:
        socket.create_connection((host, port) if proxy is None else proxy.place, timeout=timeout).close()
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if proxy is not None:
            detail = f"the proxy {proxy.shown}, through which {host} is asked, does not answer: {reason}"
            directly = proxy.variable.startswith("CLAWLINK_")
            way = f"unset {proxy.variable}" if directly else f"export NO_PROXY={host}"
            return Check("connection", "FAIL", detail, f"{way}   to ask the relay directly", Exit.UNREACHABLE)
        from clawlink.client.connection_errors import serve_on, start_again

        if on_this_machine(host):
            command, left_out = start_again(port, with_token=where.token is not None)
            fix = f"{command}   {left_out}".rstrip()
            if isinstance(error, TimeoutError):  # a system refuses at once where nothing listens
                fix = f"clawlink serve --port PORT   with another port: the program at {port} takes no connections"
        else:
            fix = f"{serve_on(port)} --host 0.0.0.0   on that machine; clawlink relay scan shows which relays there are"
        if isinstance(error, socket.gaierror):
            fix = "clawlink --relay http://HOST:9077 doctor   with a name that this machine knows, or a number"
        return Check("connection", "FAIL", f"nothing answers at {host} port {port}: {reason}", fix, Exit.UNREACHABLE)
    took = f"answers within {(time.perf_counter() - started) * 1000:.1f} ms"
    return Check("connection", "ok", took if proxy is None else f"the proxy {proxy.shown} {took}")


def _check_relay(ctx: Context, where: Where, client: Client) -> Iterator[Check]:
    import time

    from clawlink.errors import ClawLinkError, NotAuthenticated

    before = time.time()
    try:
        info = client.info()
    except NotAuthenticated as error:
        yield Check("relay", "ok", "a ClawLink relay")
        yield _wrong_token(ctx, where, error)
        return
    except ClawLinkError as error:
        yield Check("relay", "FAIL", error.message, _fix_of(error, where), exit_of(error))
        return
    middle = (before + time.time()) / 2
    if info.draining:
        yield Check("relay", "warn", "it is shutting down and takes no new work", "clawlink serve")
    elif info.stopped_at is not None:
        from clawlink.cli.render import ago

        since = ago(info.stopped_at, ctx.now)
        yield Check("relay", "warn", f"its operator stopped all work, {since}", "clawlink resume-all   as the operator")
    else:
        yield Check("relay", "ok", info.service)
    yield Check("token", "ok", "right" if info.auth_required else "not asked for")
    if info.undeclared_proxy:
        fix = "clawlink serve --trust-proxy 127.0.0.1   and have the proxy send X-Forwarded-For"
        yield Check("proxy", "warn", "the relay is behind a proxy it was not told of: no limit by address holds", fix)
    yield _check_version(info)
    yield _check_clock(info, middle)


def _wrong_token(ctx: Context, where: Where, error: NotAuthenticated) -> Check:
    """Say where the token comes from, and how the right one gets in its place."""
    from clawlink.config import variable
    from clawlink.errors import ClawLinkError

    source = ctx.source_of(error)
    detail = error.message if source is None else f"{error.message}; the wrong one comes from {source}"
    fix = f"clawlink --relay {where.relay} --token TOKEN register --name NAME   with the token that serve printed"
    if source == (name := variable("--token")):  # it goes before a kept token
        fix = f"export {name}=TOKEN   with the token that serve printed"
    kept = None if where.saved is None else where.saved.token
    if source in ("--token", name) and kept not in (None, where.token):
        with contextlib.suppress(ClawLinkError):
            ctx.connect(where._replace(token=kept)).info()
            fix = f"{f'unset {name}' if source == name else 'leave --token out'}   as the kept token is right"
    return Check("token", "FAIL", detail, fix, exit_of(error))


def _check_mesh(ctx: Context, relays: list[Where]) -> Iterator[Check]:
    """Look whether the relays that answered have one store: all of them are one relay to agents then."""
    from clawlink.errors import ClawLinkError

    ids: dict[str, str] = {}
    for relay in relays:
        with contextlib.suppress(ClawLinkError):
            ids.setdefault(ctx.connect(relay).health().relay_id, relay.relay)
    if len(ids) > 1:
        fix = "clawlink serve   at each of them, with the same CLAWLINK_STORE and --store-prefix"
        yield Check("store", "FAIL", f"{' and '.join(ids.values())} do not share a store", fix, Exit.FAILED)


def _fix_of(error: ClawLinkError, where: Where) -> str:
    from clawlink.errors import NotARelay

    if " try http" in error.message:  # the sentence says that it is the other of http and https
        return f"clawlink --relay {error.message.rpartition(' try ')[2]} doctor"
    if isinstance(error, NotARelay) and where.relay.startswith("https:"):
        return (
            f"clawlink --relay {where.relay} --ca CERTIFICATE.pem doctor   if that relay has a certificate of its own"
        )
    return "clawlink --relay http://HOST:9077 doctor   with the address that serve printed"


def _check_version(info: Info) -> Check:
    from clawlink.version import VERSION

    if info.version == VERSION:
        return Check("version", "ok", f"{VERSION}, as the relay's")
    fix = f"pip install .   in a checkout of {VERSION} where the relay runs, or of {info.version} here"
    return Check("version", "warn", f"the relay has {info.version}, this is {VERSION}", fix)


def _check_clock(info: Info, here: float) -> Check:
    from clawlink.cli.render import duration, epoch

    there = epoch(info.server_time)
    if there is None:
        return Check("clock", "warn", f"the relay's time is not readable: {info.server_time!r}")
    skew = there - here
    if abs(skew) <= _SKEW_SECONDS:
        return Check("clock", "ok", f"{abs(skew):.1f} s apart from the relay's")
    which = "ahead of" if skew < 0 else "behind"
    fix = _SET_CLOCK.get(sys.platform, "sudo timedatectl set-ntp true") + "   here or where the relay runs"
    return Check("clock", "warn", f"{duration(abs(skew))} {which} the relay's: ages are shown wrong", fix)


def _check_agent(ctx: Context, client: Client) -> Check:
    from clawlink.errors import ClawLinkError, NotAllowed

    again = ctx.register_command(ctx.me)
    try:
        beat = client.heartbeat()
    except NotAllowed as error:
        fix = f"{ctx.command('leave', offline=True)}   then   clawlink register --name ANOTHER-NAME"
        return Check("agent", "FAIL", error.message, fix, exit_of(error))
    except ClawLinkError as error:
        return Check("agent", "FAIL", error.message, again, exit_of(error))
    if beat.status != "ok":
        detail = "the relay does not know this agent any more; perhaps it was restarted"
        return Check("agent", "FAIL", detail, again, Exit.NOT_FOUND)
    return Check("agent", "ok", "known to the relay, and the key is right")


def _check_files(ctx: Context) -> Iterator[Check]:
    """Look whether others on this machine can read tokens and keys. Windows keeps a profile to its owner by itself."""
    from clawlink.client.identity import NoHome

    failed = ctx.identities.unreadable()
    for one in failed:
        yield Check("files", "FAIL", f"{one.path} cannot be read: {one.why}", one.fix, Exit.FAILED)
    try:
        folder = ctx.identities.folder
    except NoHome as error:
        yield Check("files", "FAIL", error.message, "export CLAWLINK_HOME=FOLDER", exit_of(error))
        return
    if os.name != "posix" or not folder.is_dir():
        return

    open_to_others = []
    with contextlib.suppress(PermissionError):  # then the folder itself was told of
        open_to_others = [
            (path, mode)
            for path, mode in [(folder, "700"), *((file, "600") for file in sorted(folder.glob("*.json")))]
            if path.stat().st_mode & _OTHERS
        ]
    for path, mode in open_to_others:
        fix = f"chmod {mode} {shlex.quote(str(path))}"
        yield Check("files", "FAIL", f"others on this machine may read {path}", fix, Exit.FAILED)
    if not open_to_others and not failed:
        yield Check("files", "ok", f"only you may read {folder}")
