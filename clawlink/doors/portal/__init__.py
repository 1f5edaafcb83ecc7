"""The portal: a relay that stands for one person on the internet, on the wire of Agent P2P."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from clawlink.doors.portal.settings import FILE_LIMITS, MIN_LEASE_SECONDS, Settings
from clawlink.doors.registry import Door, OpenDoor, Opening

if TYPE_CHECKING:
    from pathlib import Path

    from clawlink.bench.scenarios import Row
    from clawlink.cli.verb import Verb
    from clawlink.config import ServerConfig
    from clawlink.domain.limits import Limits
    from clawlink.doors.portal.rules.import_report import Choice, Report


def with_room_for_files(limits: Limits) -> Limits:
    """Return limits with the portal's defaults for files, where they are those of a relay."""
    usual = {field.name: field.default for field in fields(limits)}
    changed = {name: most for name, most in FILE_LIMITS.items() if getattr(limits, name) == usual[name]}
    return replace(limits, **changed)


class PortalDoor(Door):
    """The door of portals. It is closed without ``--portal``."""

    name = "portal"
    settings = Settings
    scenarios = ("portal-messages", "portal-files", "portal-uploads")

    def check(self, settings: Settings, config: ServerConfig) -> None:
        if settings.url is None:
            given = [
                field.metadata["flag"] for field in fields(settings) if getattr(settings, field.name) != field.default
            ]
            if given:
                raise ValueError(f"without a portal these do nothing: {', '.join(given)}; give --portal, too")
            return
        from urllib.parse import urlsplit

        from clawlink.domain import networks
        from clawlink.doors.portal.rules import urls
        from clawlink.doors.portal.server.poster import authority_fault
        from clawlink.errors import BadRequest

        try:
            own = urls.normalised(settings.url, field="--portal")
        except BadRequest as error:
            raise ValueError(f"--portal: {error.message}") from None
        if own.startswith("http://") and not networks.is_loopback(urlsplit(own).hostname or ""):
            raise ValueError(f"--portal: other portals reach this one over TLS: give https://, not {settings.url!r}")
        if config.no_auth:
            raise ValueError("--no-auth would open the relay itself to everybody who reaches the portal: leave it out")
        if settings.portal_lease < MIN_LEASE_SECONDS:
            raise ValueError(f"--portal-lease is at least {MIN_LEASE_SECONDS:g} seconds, not {settings.portal_lease:g}")
        try:
            networks.networks(settings.allow_private)
        except ValueError as error:
            raise ValueError(f"--portal-allow-private: {error}") from None
        if settings.ca is not None and (fault := authority_fault(settings.ca)) is not None:
            raise ValueError(f"--portal-ca: {settings.ca}: {fault}")

    def adapt(self, settings: Settings, config: ServerConfig) -> ServerConfig:
        if settings.url is None:
            return config
        from urllib.parse import urlsplit

        host = urlsplit(settings.url.strip()).hostname or ""
        limits = config.limits if config.data is None else with_room_for_files(config.limits)
        hosts = tuple(dict.fromkeys((*config.allow_hosts, host)))
        # The proxy with TLS makes the page's own origin another one than the relay sees.
        own = urlsplit(settings.url.strip())
        origins = tuple(dict.fromkeys((*config.allow_origins, f"{own.scheme}://{own.netloc}".lower())))
        return replace(config, public=True, allow_hosts=hosts, allow_origins=origins, limits=limits)

    def open(self, opening: Opening) -> OpenDoor | None:
        if opening.settings.url is None:
            return None
        from clawlink.doors.portal.server.door import PortalServer

        data = opening.config.data
        folder = None if data is None else str(data)
        return PortalServer(opening.relay, opening.websockets, opening.settings, folder=folder, pages=opening.pages)

    def banner(self, settings: Settings, url: str) -> list[str]:
        return [] if settings.url is None else [f"This relay is the portal {settings.url}"]

    def import_database(
        self, database: Path, data: Path | None, own_url: str | None, choice: Choice, *, store: bool = False
    ) -> Report:
        """Bring a database of Agent P2P into the folder of a portal; without a folder say what would come.

        With ``store`` it comes over the server that the environment names. Raises BadRequest, DataFolderError while a
        relay has the folder, and ClawLinkError while a relay is the active one.
        """
        import os

        from clawlink.doors.portal.server import import_command
        from clawlink.loop_run import run

        if data is None and not store:
            return run(import_command.look(database, own_url, choice))
        return run(import_command.import_database(database, data, own_url, choice, os.environ))

    def set_password(self, data: Path | None, password: str | None) -> str:
        """Set the owner's password in the folder of a portal that does not run; None makes one. Return it.

        Without a folder it is the portal over the server that the environment names.
        """
        import os

        from clawlink.doors.portal.server import import_command
        from clawlink.loop_run import run

        return run(import_command.set_password(data, password, os.environ))

    def measure(self, name: str, folder: str, *, say: Callable[[str], None]) -> list[Row]:
        from clawlink.doors.portal.bench.scenarios import SCENARIOS

        return SCENARIOS[name](folder, say=say)

    def verbs(self) -> Sequence[Verb]:
        from clawlink.cli.verb import Verb

        return (
            Verb(
                "portal",
                "Use your portal: contacts, guests, messages, and the chat with your agent.",
                "clawlink.doors.portal.cli.portal",
                ("portal contacts", 'portal send bob "hello"', "portal approve 1"),
                unused=("--relay", "--token", "--as"),
            ),
        )


DOOR = PortalDoor()
