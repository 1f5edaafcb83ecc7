"""The relay's flags, shared by ``python -m clawlink.server`` and ``clawlink serve``. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from ipaddress import ip_address
from typing import Any

from clawlink.config import DEFAULT_HOST, DEFAULT_PORT, PAGES, ServerConfig, from_environment, variable
from clawlink.domain.limits import LIMIT_FIELDS, Limits
from clawlink.doors.registry import doors, settings_of
from clawlink.errors import ClawLinkError

LOOPS = ("auto", "asyncio", "uvloop")
SYNCS = ("full", "normal")
_MOST_PERCENT = 100
_LEVELS = ("debug", "info", "warning", "error")
_SCHEMES = ("redis://", "rediss://", "unix://")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Larger files need a folder that all relays of a mesh share.
_SERVER_FILE_BYTES = 1024 * 1024
# A time so far ahead still is one of the calendar, which ends with the year 9999.
_MOST_AMOUNT = 10**11
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags, without defaults: a missing value comes from the environment, then from the default.

    Raises ClawLinkError for a door's flag that is taken.
    """
    taken = {field.metadata["flag"] for field in LIMIT_FIELDS}
    group: argparse._ActionsContainer = parser

    def add(flag: str, help: str, default: Any = None, **options: Any) -> None:
        taken.add(flag)
        shown = "" if default in (None, "") else f" (default {default})"
        group.add_argument(flag, help=help + shown, default=None, **options)

    add("--host", "address to listen on; 0.0.0.0 for all of IPv4, :: for all", DEFAULT_HOST)
    add("--port", "port to listen on; 0 for any free one", DEFAULT_PORT, type=_port)
    add(
        "--token",
        "bearer token of every request; without it, that of the last start on the --data folder, or else the relay "
        "makes and keeps one if other machines can reach it",
    )
    add("--admin-token", "bearer token of the operator, as for clawlink agent kick; made and kept as the token is")
    add("--new-token", "make another token in place of the one that was kept", action="store_true")
    add("--no-auth", "ask for no token, even where other machines can reach the relay", action="store_true")
    add("--require-agent-keys", "refuse agents without a key of their own", action="store_true")
    add("--allow-host", "another name under which browsers and clients may reach this relay", action="append")
    add("--allow-origin", "an origin whose pages may use this relay, as https://example.org", action="append")
    add(
        "--trust-proxy",
        "a proxy, as an address or a network, whose X-Forwarded-For is believed",
        type=_network,
        action="append",
        metavar="CIDR",
    )
    add("--tls-cert", "certificate chain, PEM", metavar="FILE")
    add("--tls-key", "private key, PEM", metavar="FILE")
    add("--no-mdns", "do not announce the relay on the local network", action="store_true")
    group = parser.add_argument_group("what the relay keeps, and where")
    add("--data", "keep everything in this folder, over a restart too; without it all is in memory", metavar="DIR")
    add(
        "--sync",
        "with --data: full answers after the disk has it; normal is faster and may lose the last commits at power loss",
        "full",
        choices=SYNCS,
    )
    add("--spool", "keep the contents of large files in this folder while the relay runs", metavar="DIR")
    add("--spool-above", "smallest size of a large file, in bytes", ServerConfig.spool_above, type=_count, metavar="N")
    add(
        "--store",
        "share everything with other relays over this Valkey or Redis server; an address with a password belongs in "
        "CLAWLINK_STORE, because others see command lines",
        metavar="redis://HOST:PORT",
    )
    add("--store-prefix", "with --store: the mesh, before all its keys", ServerConfig.store_prefix, metavar="NAME")
    add(
        "--store-replicas",
        "with --store: answer a request when this number of replicas has its commit, too",
        type=_count,
        metavar="N",
    )
    add("--blobs", "with --store: keep contents over 1 MiB in this folder, which all relays share", metavar="DIR")
    group = parser.add_argument_group("page, log and event loop")
    add("--page", "what the page at / shows: metadata withholds texts of messages", "full", choices=PAGES)
    add("--loop", "event loop; auto takes uvloop where it is installed", "auto", choices=LOOPS)
    add("--log-level", "debug also shows every request", "info", choices=_LEVELS)
    add("--log-json", "log lines as JSON objects", action="store_true")
    limits = list(LIMIT_FIELDS)
    for door in doors():
        options = fields(door.settings)
        if options:
            group = parser.add_argument_group(f"the door {door.name}")
        for field in options:
            flag, help = field.metadata["flag"], field.metadata["help"]
            if flag in taken:
                raise ClawLinkError(f"the door {door.name} has the flag {flag}, which is taken; uninstall its package")
            taken.add(flag)
            if field.metadata["unit"] is not None:
                limits.append(field)
            elif field.default is False:
                add(flag, help, action="store_true")
            else:
                add(flag, help, field.default, metavar=field.metadata["metavar"])
    group = parser.add_argument_group("limits")
    for field in limits:
        add(field.metadata["flag"], field.metadata["help"], _default_of(field), type=_kind_of(field), metavar="N")


def _default_of(limit: Field[Any]) -> str:
    """Return the default of a limit with its unit, and a size in a larger unit, too."""
    unit = limit.metadata["unit"]
    shown = f"{limit.default:.15g}" if isinstance(limit.default, float) else str(limit.default)
    if unit == "bytes" and isinstance(limit.default, int):
        for larger, size in _SIZES:
            if limit.default % size == 0:
                return f"{shown} bytes, {limit.default // size} {larger}"
    return f"{shown} {unit}"


def _kind_of(limit: Field[Any]) -> Callable[[str], Any]:
    """Return the function that reads the value of a limit, and refuses one out of its range."""
    read = _count if isinstance(limit.default, int) else _amount
    least, most = limit.metadata.get("least"), limit.metadata.get("most")
    if least is None:
        return read

    def in_range(text: str) -> Any:
        value = read(text)
        if value < least or (most is not None and value > most):
            bounds = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
            default = _default_of(limit)
            raise argparse.ArgumentTypeError(
                f"it must be {bounds} {limit.metadata['unit']}, not {text!r}; leave it out for {default}"
            )
        return value

    return in_range


def _name_of(field: Field[Any]) -> str:
    """Return the name of a flag's value among the arguments."""
    flag: str = field.metadata["flag"]
    return flag.lstrip("-").replace("-", "_")


def _text(name: str, given: str) -> str:
    """Return the value of a flag. Raises ValueError for an empty one, as an unset variable gives."""
    if not given.strip():
        raise ValueError(f"--{name.replace('_', '-')} may not be empty; give a value, or leave it out")
    return given


def _plain(host: str) -> str:
    """Return an address as the system takes it and in its shortest form, also where it is typed as in an URL.

    Raises ValueError for a text that has more than an address.
    """
    _, scheme, rest = host.rpartition("://")
    place = rest.partition("/")[0]
    name, colon, port = place.rpartition(":")
    if scheme or "/" in rest or (colon and port.isdigit() and (":" not in name or name.endswith("]"))):
        name = name if colon and port.isdigit() else place
        with_port = f"; the port is a flag of its own: --port {port}" if colon and port.isdigit() else ""
        raise ValueError(f"--host takes an address or a name alone, as {name or DEFAULT_HOST}, not {host!r}{with_port}")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ip_address(host))
    except ValueError:
        return host


class _Given:
    """The values that were given: by a flag, before the environment. A value of the environment may be wrong.

    Every method takes the name of a flag, as ``max_agents``, and raises ValueError with a sentence.
    """

    def __init__(self, args: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self._args = args
        self._environ = environ

    def text(self, name: str) -> str | None:
        given: str | None = getattr(self._args, name)
        return from_environment(name, self._environ) if given is None else _text(name, given)

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in known:
            raise ValueError(f"{variable(name)} must be one of {', '.join(known)}, not {value!r}")
        return value

    def switch(self, name: str) -> bool:
        if getattr(self._args, name):
            return True
        value = (from_environment(name, self._environ) or "no").lower()
        if value not in _TRUE | _FALSE:
            raise ValueError(f"{variable(name)} must be yes or no, not {value!r}")
        return value in _TRUE

    def several(self, name: str) -> tuple[str, ...]:
        given = getattr(self._args, name)
        if given:
            return tuple(_text(name, each) for each in given)
        return tuple(filter(None, (from_environment(name, self._environ) or "").split(",")))

    def converted(self, name: str, kind: Callable[[str], Any], default: Any = None) -> Any:
        """Return a value that is no text."""
        given = getattr(self._args, name)
        if given is not None:
            return given
        stated = from_environment(name, self._environ)
        return default if stated is None else _converted(kind, name, stated)

    def options(self, options: Iterable[Field[Any]]) -> dict[str, Any]:
        """Return the given ones of the limits, or of the settings of a door, by the names of their fields."""
        found = {}
        for field in options:
            name = _name_of(field)
            if field.metadata["unit"] is not None:
                value = self.converted(name, _kind_of(field))
            else:
                value = self.switch(name) if field.default is False else self.text(name)
            if value is not None:
                found[field.name] = value
        return found


def read(args: argparse.Namespace, environ: Mapping[str, str]) -> ServerConfig:
    """Return the configuration: flag before environment before default. Raises ValueError with a sentence.

    The token of a relay that other machines can reach is not made here; see ``keys.with_secrets``.
    """
    given = _Given(args, environ)
    limits = given.options(LIMIT_FIELDS)
    if limits.get("fair_share", 1) > _MOST_PERCENT:
        raise ValueError(f"--fair-share is 1 to {_MOST_PERCENT} percent, not {limits['fair_share']}")
    opened = {door.name: door.settings(**given.options(fields(door.settings))) for door in doors()}
    cert, key = given.text("tls_cert"), given.text("tls_key")
    if (cert is None) != (key is None):
        raise ValueError("--tls-cert and --tls-key go together: give both or neither")
    data, sync, spool = given.text("data"), given.choice("sync", SYNCS), given.text("spool")
    store, prefix, blobs = given.text("store"), given.text("store_prefix"), given.text("blobs")
    replicas = given.converted("store_replicas", _count)
    needing = {"--store-prefix": prefix, "--store-replicas": replicas, "--blobs": blobs}
    _check_store(store, prefix, needing, {"--data": data, "--spool": spool})
    _check_data(data, sync, spool)
    if store is not None and blobs is None:
        if limits.get("max_file_bytes", 0) > _SERVER_FILE_BYTES:
            raise ValueError(
                f"--max-file-bytes: with --store, files of more than {_SERVER_FILE_BYTES} bytes need --blobs, a folder "
                "that all relays share"
            )
        limits.setdefault("max_file_bytes", _SERVER_FILE_BYTES)
    config = ServerConfig(
        host=_plain(given.text("host") or DEFAULT_HOST),
        port=given.converted("port", _port, DEFAULT_PORT),
        token=_secret("--token", given.text("token")),
        admin_token=_secret("--admin-token", given.text("admin_token")),
        no_auth=given.switch("no_auth"),
        new_token=given.switch("new_token"),
        require_agent_keys=given.switch("require_agent_keys"),
        allow_hosts=given.several("allow_host"),
        allow_origins=given.several("allow_origin"),
        trust_proxies=tuple(_converted(_network, "trust_proxy", each) for each in given.several("trust_proxy")),
        tls_cert=cert,
        tls_key=key,
        mdns=not given.switch("no_mdns"),
        loop=given.choice("loop", LOOPS) or "auto",
        log_level=given.choice("log_level", _LEVELS) or "info",
        log_json=given.switch("log_json"),
        spool=_folder("--spool", spool),
        data=data,
        sync=sync or SYNCS[0],
        page=given.choice("page", PAGES) or PAGES[0],
        store=store,
        store_prefix=prefix or ServerConfig.store_prefix,
        store_replicas=replicas or 0,
        blobs=_folder("--blobs", blobs),
        spool_above=given.converted("spool_above", _count, ServerConfig.spool_above),
        limits=Limits(**limits),
        doors={door.name: opened[door.name] for door in doors() if opened[door.name] != door.settings()},
    )
    _check_tokens(config)
    for door in doors():
        door.check(settings_of(door, config), config)
    for door in doors():
        config = door.adapt(settings_of(door, config), config)
    return config


def _check_data(data: str | None, sync: str | None, spool: str | None) -> None:
    """Raise ValueError for flags that contradict ``--data`` or need it."""
    if data is None and sync is not None:
        raise ValueError("--sync is for a relay with --data: give both, or leave it out")
    if data is not None and spool is not None:
        raise ValueError("--data keeps the contents of all files below it already: leave out --spool")


def _check_tokens(config: ServerConfig) -> None:
    """Raise ValueError for flags about tokens that contradict each other."""
    if config.admin_token is not None and config.admin_token == config.token:
        raise ValueError("--admin-token must be another than --token, or every agent is the operator")
    if config.no_auth and config.token is not None:
        raise ValueError("--no-auth and --token contradict each other: give one of them")
    if config.new_token and (config.token is not None or config.no_auth or config.on_loopback):
        raise ValueError(
            "--new-token is for a relay that other machines can reach, without --token, CLAWLINK_TOKEN and --no-auth"
        )


def _secret(flag: str, token: str | None) -> str | None:
    """Return a token that a header can carry unchanged. Raises ValueError for any other."""
    if token is not None and (not token.isprintable() or not token or token != token.strip()):
        raise ValueError(f"{flag} may not be empty, nor have control characters, nor white space at its ends")
    return token


def _check_store(
    store: str | None, prefix: str | None, needing: Mapping[str, object], others: Mapping[str, str | None]
) -> None:
    """Raise ValueError for flags that contradict ``--store`` or need it."""
    if store is None:
        for flag, given in needing.items():
            if given is not None:
                raise ValueError(f"{flag} is for a relay with --store: give both, or leave it out")
        return
    if not store.startswith(_SCHEMES):
        raise ValueError(f"--store must begin with {' or '.join(_SCHEMES)}, as redis://127.0.0.1:6379")
    for flag, given in others.items():
        if given is not None:
            raise ValueError(f"--store and {flag} contradict each other: with --store, the server keeps everything")
    if prefix is not None and not _PREFIX.fullmatch(prefix):
        raise ValueError("--store-prefix takes 1 to 64 letters, digits, dots, hyphens and underscores")


def _folder(flag: str, path: str | None) -> str | None:
    """Return a folder for contents, made if need be. Raises ValueError if nothing can be written there."""
    if path is not None:
        from clawlink.store.bodies import require_folder

        try:
            require_folder(path)
        except OSError as error:
            raise ValueError(f"{flag}: {path}: {error.strerror or error}") from None
    return path


def _converted(kind: Callable[[str], Any], flag: str, value: str) -> Any:
    try:
        return kind(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{variable(flag)}: {error}") from None


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is needed, not {text!r}")
    return value


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MOST_AMOUNT:
        raise argparse.ArgumentTypeError(f"a number from 0 to {_MOST_AMOUNT} is needed, not {text!r}")
    return value


def _network(text: str) -> str:
    from clawlink.server.address import network

    try:
        return str(network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"a port from 0 to 65535 is needed, not {text!r}")
    return int(text)
