"""``clawlink portal bridge``: wakes the OpenClaw of this account for what comes to the portal."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.doors.portal.client.portal import Place
    from clawlink.service import Service

NAME = "clawlink-portal-bridge"
_OLD_UNIT = Path(".config") / "systemd" / "user" / "agent-p2p-bridge.service"
_LOG_BYTES, _LOGS = 5 * 1024 * 1024, 2


def run(args: Namespace, ctx: Context) -> Exit:
    """Bridge until told to stop; with ``--install`` have the system do it."""
    from clawlink.cli.exits import LocalFailure, UsageError
    from clawlink.doors.portal.client.portal import authority, place
    from clawlink.doors.portal.client.start_script import FOLDER
    from clawlink.errors import BadRequest
    from clawlink.service import ServiceError

    if args.install and args.uninstall:
        raise UsageError("--install and --uninstall exclude each other; give one")
    home = Path.home()
    folder = Path(args.folder) if args.folder else home / FOLDER
    try:
        if args.uninstall:
            return _uninstall(ctx, home, folder)
        try:
            own = place(ctx.environ, at=args.at, key=args.key)
        except BadRequest as error:
            raise UsageError(
                error.message if args.at or args.key else f"{error.message}, or give --at and --key"
            ) from None
        _require_safe(own.url)
        try:
            ca = authority(args.ca, ctx.environ)
        except BadRequest as error:
            raise UsageError(error.message) from None
        if args.install:
            return _install(ctx, home, folder, own, ca)
        return _run(ctx, folder, own, ca)
    except ServiceError as error:
        raise LocalFailure(str(error)) from None
    except OSError as error:
        raise LocalFailure(f"{error.filename or folder}: {error.strerror or error}") from None


def _require_safe(url: str) -> None:
    """Refuse to send the key over a network in plain text."""
    from urllib.parse import urlsplit

    from clawlink.cli.exits import UsageError
    from clawlink.domain.networks import is_loopback

    for one in url.split(","):
        parts = urlsplit(one)
        if parts.scheme == "https" or is_loopback(parts.hostname or ""):
            continue
        raise UsageError(f"{one} would show the key on the way: the address of the portal begins with https://")


def _service(folder: Path, ca: str | None = None) -> Service:
    from clawlink.service import Service, own_command

    words: tuple[str, ...] = (*own_command(), "portal", "bridge", "--folder", str(folder.resolve()))
    if ca is not None:
        words += ("--ca", ca)
    return Service(NAME, "Wakes OpenClaw for what comes to the portal", words)


def _install(ctx: Context, home: Path, folder: Path, own: Place, ca: str | None) -> Exit:
    from clawlink import private
    from clawlink.doors.portal.client.portal import GATEWAY_FILE, KEY, URL
    from clawlink.doors.portal.rules.wake_texts import merged
    from clawlink.service import Services
    from clawlink.wake import openclaw

    path = home / GATEWAY_FILE
    text = path.read_text("utf-8") if path.exists() else ""
    values = {URL: own.url, KEY: own.key}
    values |= {name: ctx.environ[name] for name in (openclaw.URL, openclaw.TOKEN) if ctx.environ.get(name)}
    after, others = merged(text, values)
    if others:
        ctx.err.line(
            f"clawlink: {path} has another value for {', '.join(others)}, and keeps it; the service uses that one"
        )
    if after != text:
        private.make_folder(path.parent, 0o755)
        private.write(path, after.encode())
    private.make_folder(folder, 0o755)
    services = Services(home)
    where = services.install(_service(folder, ca))
    if (advice := services.advice()) is not None:
        ctx.err.line(f"clawlink: {advice}")
    old = home / _OLD_UNIT
    if old.exists():
        ctx.err.line(f"clawlink: {old} is there, too: stop the old bridge, or each has a part of the messages")
    return _done(ctx, {"installed": str(where)}, f"The bridge runs, and starts with your account: {where}")


def _uninstall(ctx: Context, home: Path, folder: Path) -> Exit:
    from clawlink.service import Services

    there = Services(home).uninstall(_service(folder))
    return _done(ctx, {"removed": there}, "The bridge is removed." if there else "The bridge was not installed.")


def _done(ctx: Context, told: dict[str, object], said: str) -> Exit:
    if ctx.json:
        ctx.out.json(told)
    else:
        ctx.out.line(said)
    return Exit.DONE


def _run(ctx: Context, folder: Path, own: Place, ca: str | None) -> Exit:
    from functools import partial

    from filelock import Timeout

    from clawlink import private
    from clawlink.cli.exits import LocalFailure
    from clawlink.doors.portal.client.bridge import Bridge, Status
    from clawlink.doors.portal.client.start_script import held
    from clawlink.loop_run import run
    from clawlink.wake import openclaw

    private.make_folder(folder / "local", 0o755)
    try:
        with held(folder):
            status = Status(folder, own.url)
            try:
                _log_to(folder / "local" / "bridge.log")
                ctx.out.line(f"The bridge wakes OpenClaw for {own.url}; its state is in {folder}")
                bridge = Bridge(own, partial(openclaw.find, ctx.environ), status, ca=ca)
                run(bridge.run())
            finally:  # also if it has to end before it began
                status.tell("stopped", "the bridge has ended")
    except Timeout:
        raise LocalFailure(f"another bridge runs with {folder}; stop it first, or give --folder another one") from None
    return Exit.DONE


def _log_to(path: Path) -> None:
    import logging
    from logging.handlers import RotatingFileHandler

    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("clawlink.bridge")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
