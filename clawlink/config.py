"""The settings at start of a relay and its clients: a flag, else a CLAWLINK_* variable, else the default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawlink.domain.limits import Limits

# The folder of ClawLink's own files, below the home folder.
_FOLDER = ".clawlink"
# The files of the secrets that a relay keeps.
TOKEN, ADMIN_TOKEN, SECRET = "token", "admin-token", "secret"
# The file that names the data folder of the relay that last used a port, where its secrets are.
DATA_FOLDER = "data-folder"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9077
# No client waits longer for an answer, and the clock of every system can count to it.
MAX_TIMEOUT_SECONDS = 31_536_000.0
DEFAULT_RELAY = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


# The page for people shows all, or no texts of messages, or there is no page.
PAGES = FULL, METADATA, OFF = ("full", "metadata", "off")


@dataclass(frozen=True)
class ServerConfig:
    """How one relay runs. ``token`` None means that it asks for none.

    Without a ``secret`` it makes one that ends with it. ``kept`` is the folder of a token that the relay has kept.
    ``data`` is the folder that survives a restart, None for memory alone. ``store`` is the address of the server that
    several relays share, with ``store_prefix`` before its keys, and ``blobs`` the folder of their large contents. A
    request is answered when ``store_replicas`` replicas of that server have its commit.
    ``doors`` has the settings of doors, by name; a door that is missing there has its defaults.
    ``public`` says that strangers reach the relay, whatever its host.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = None
    admin_token: str | None = None
    no_auth: bool = False
    new_token: bool = False
    secret: bytes | None = None
    kept: Path | None = None
    require_agent_keys: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    trust_proxies: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    mdns: bool = True
    loop: str = "auto"
    log_level: str = "info"
    log_json: bool = False
    spool: str | None = None
    spool_above: int = 1024 * 1024
    data: str | None = None
    sync: str = "full"
    page: str = "full"
    store: str | None = field(default=None, repr=False)  # it may have a password
    store_prefix: str = "clawlink"
    store_replicas: int = 0
    blobs: str | None = None
    limits: Limits = field(default_factory=Limits)
    doors: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False

    @property
    def on_loopback(self) -> bool:
        """Return True if only this machine can reach the relay."""
        if self.host in LOOPBACK_HOSTS:
            return True
        from ipaddress import ip_address  # a few milliseconds that no client needs

        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name, whose address elsewhere is not known
            return False

    @property
    def operated_locally(self) -> bool:
        """True if this machine has the operator's right without a token: no other machine can reach the relay."""
        reached = self.allow_hosts or self.trust_proxies or self.public
        return self.on_loopback and self.token is None and not reached

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"


def own_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of ClawLink's own files. Raises RuntimeError without a home folder."""
    return Path(environ.get("CLAWLINK_HOME") or Path.home() / _FOLDER)


def folder_of(port: int, environ: Mapping[str, str]) -> Path:
    """Return where the relay on this port keeps its secrets. Raises RuntimeError without a home."""
    return own_folder(environ) / "relays" / str(port)


def data_folder_of(port: int, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the ``--data`` folder that the last relay with one on this port has noted; None if there is none."""
    try:
        folder = Path(os.fsdecode((folder_of(port, environ) / DATA_FOLDER).read_bytes()))
        return folder if folder.is_absolute() and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # ValueError: no text of a path
        return None


def variable(flag: str) -> str:
    """Return the environment variable that stands for a flag: ``--max-agents`` is CLAWLINK_MAX_AGENTS."""
    return "CLAWLINK_" + flag.lstrip("-").replace("-", "_").upper()


def from_environment(flag: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the environment's value for a flag; None if the variable is empty or missing."""
    return environ.get(variable(flag)) or None
