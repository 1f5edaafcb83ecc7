"""Agent Link: its unmodified client, its signed successor and its HTTP routes, on the relay's own verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clawlink.doors.registry import Door, OpenDoor, Opening, option

if TYPE_CHECKING:
    from clawlink.cli.verb import Verb
    from clawlink.config import ServerConfig


@dataclass(frozen=True)
class Settings:
    """How a relay serves Agent Link."""

    config: str | None = option(
        "--agentlink-config", "serve Agent Link to the instances in this relay-config.json", metavar="FILE"
    )
    self_register: bool = option(
        "--agentlink-self-register", "let peers with the token register instances of Agent Link", default=False
    )
    no_store: bool = option(
        "--no-store", "refuse messages of Agent Link for agents that are not connected", default=False
    )

    @property
    def served(self) -> bool:
        """Return True if the door is asked for."""
        return self.config is not None or self.self_register


class AgentLinkDoor(Door):
    """The door of Agent Link. It is closed unless a configuration or self-registering is asked for."""

    name = "agentlink"
    settings = Settings

    def check(self, settings: Settings, config: ServerConfig) -> None:
        if settings.config is not None:
            _require_readable(settings.config)
        if settings.self_register and config.token is None and (config.no_auth or config.on_loopback):
            raise ValueError("--agentlink-self-register needs a token, or anyone could register: give --token")
        if settings.no_store and not settings.served:
            raise ValueError("--no-store is about Agent Link: give --agentlink-config, too")
        if settings.no_store and config.store is not None:
            raise ValueError(
                "--no-store and --store contradict each other: each relay knows its own connections alone, and would "
                "refuse messages for agents that are connected to another; leave out --no-store"
            )

    def open(self, opening: Opening) -> OpenDoor | None:
        settings: Settings = opening.settings
        if not settings.served:
            return None
        from clawlink.doors.agentlink.server.door import AgentLinkServer
        from clawlink.doors.agentlink.wire.files import RelayFile, read_relay

        file = RelayFile() if settings.config is None else read_relay(settings.config)
        return AgentLinkServer(
            opening.relay,
            file,
            opening.websockets,
            wall=opening.wall,
            self_register=settings.self_register,
            no_store=settings.no_store,
        )

    def banner(self, settings: Settings, url: str) -> list[str]:
        return [f"Agent Link is served at {url.replace('http', 'ws', 1)}/agentlink"] if settings.served else []

    def verbs(self) -> Sequence[Verb]:
        from clawlink.cli.verb import Verb

        return (
            Verb(
                "instance",
                "Add an instance of Agent Link to a relay's configuration, or list them.",
                "clawlink.doors.agentlink.cli.instance",
                ("instance add lab --agents ada,grace", "instance list"),
            ),
            Verb(
                "agentlink",
                "Be an agent of Agent Link, or set this machine up for it.",
                "clawlink.doors.agentlink.cli.agentlink",
                ("agentlink setup --relay-url ws://127.0.0.1:9077/agentlink --secret s3cret --agent-id ada",),
            ),
        )


def _require_readable(path: str) -> None:
    """Refuse a relay-config.json that makes no sense. Raises ValueError."""
    from clawlink.doors.agentlink.wire.files import read_relay
    from clawlink.errors import ClawLinkError

    try:
        read_relay(path)
    except OSError as error:
        raise ValueError(f"--agentlink-config: {path}: {error.strerror or error}") from None
    except ClawLinkError as error:
        raise ValueError(f"--agentlink-config: {error.message}") from None


DOOR = AgentLinkDoor()
