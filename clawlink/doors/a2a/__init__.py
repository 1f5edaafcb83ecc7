"""The A2A door: every agent of the relay is a standard A2A agent, also one that is away or only polls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.doors.registry import Door, OpenDoor, Opening, option

if TYPE_CHECKING:
    from clawlink.bench.scenarios import Row
    from clawlink.cli.verb import Verb
    from clawlink.config import ServerConfig
    from clawlink.doors.a2a.wire.signatures import Key


@dataclass(frozen=True)
class Settings:
    """How a relay serves A2A."""

    on: bool = option("--a2a", "serve every agent as an agent of A2A", default=False)
    url: str | None = option(
        "--a2a-url", "where A2A clients reach this relay: https://host (default: its own address)", metavar="URL"
    )
    clients: str | None = option(
        "--a2a-clients", "let in the A2A clients of this file, which clawlink a2a client writes", metavar="FILE"
    )
    agents: str | None = option(
        "--a2a-agents", "have the remote agents of this file in the mesh, which clawlink a2a add writes", metavar="FILE"
    )
    key: str | None = option("--a2a-key", "sign cards with this key, which clawlink a2a key makes", metavar="FILE")
    private_webhooks: bool = option(
        "--a2a-private-webhooks", "let webhooks of A2A be in private networks and on this machine", default=False
    )
    a2a_max_body: int = option(
        "--a2a-max-body", "largest body of an A2A request, with its files", default=25_165_824, unit="bytes"
    )
    a2a_wait: float = option(
        "--a2a-wait", "longest time that SendMessage waits for the end of a task", default=50.0, unit="seconds"
    )


class A2ADoor(Door):
    """The door of A2A. It is closed unless ``--a2a`` opens it."""

    name = "a2a"
    settings = Settings

    def check(self, settings: Settings, config: ServerConfig) -> None:
        if not settings.on:
            for flag, given in (
                ("--a2a-url", settings.url),
                ("--a2a-clients", settings.clients),
                ("--a2a-agents", settings.agents),
                ("--a2a-key", settings.key),
            ):
                if given is not None:
                    raise ValueError(f"{flag} is about A2A: give --a2a, too")
            if settings.private_webhooks:
                raise ValueError("--a2a-private-webhooks is about A2A: give --a2a, too")
        if settings.url is not None:
            _require_base(settings.url)
        if (settings.clients, settings.agents, settings.key) != (None, None, None):
            _require_files(settings)

    def open(self, opening: Opening) -> OpenDoor | None:
        settings: Settings = opening.settings
        if not settings.on:
            return None
        from clawlink.doors.a2a.server.door import A2AServer

        return A2AServer(opening.relay, opening.config, settings, key=_key(settings.key))

    def banner(self, settings: Settings, url: str) -> list[str]:
        base = url if settings.url is None else settings.url.rstrip("/")
        return [f"A2A is served at {base}/a2a/AGENT"] if settings.on else []

    def verbs(self) -> Sequence[Verb]:
        from clawlink.cli.verb import Verb

        return (
            Verb(
                "a2a",
                "Let clients of A2A in, add remote agents of A2A, and show cards.",
                "clawlink.doors.a2a.cli.a2a",
                ("a2a client add shop", "a2a list", "a2a card bob"),
            ),
        )

    scenarios = ("a2a",)

    def measure(self, name: str, folder: str, *, say: Callable[[str], None]) -> list[Row]:
        from clawlink.doors.a2a.bench.scenarios import measure

        return measure(say=say)


def _key(path: str | None) -> Key | None:
    from clawlink.doors.a2a.wire.signatures import read_key

    return None if path is None else read_key(Path(path))


def _require_base(url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError(f"--a2a-url is https://HOST, perhaps with a port and a path, not {url!r}")


def _require_files(settings: Settings) -> None:
    from clawlink.doors.a2a.wire.clients import CLIENTS
    from clawlink.doors.a2a.wire.remotes import REMOTES
    from clawlink.doors.a2a.wire.signatures import read_key
    from clawlink.errors import ClawLinkError

    reads: tuple[tuple[str, str | None, Callable[[Path], object]], ...] = (
        ("--a2a-clients", settings.clients, CLIENTS.read),
        ("--a2a-agents", settings.agents, REMOTES.read),
        ("--a2a-key", settings.key, read_key),
    )
    for flag, path, read in reads:
        try:
            if path is not None:
                read(Path(path))
        except OSError as error:
            raise ValueError(f"{flag}: {path}: {error.strerror or error}") from None
        except ClawLinkError as error:
            raise ValueError(f"{flag}: {error.message}") from None


DOOR = A2ADoor()
