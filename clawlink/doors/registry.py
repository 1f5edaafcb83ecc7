"""The doors: their discovery, and their parts for the server and for the command line.

A door is another protocol in front of the same relay. Server and command line know no door by name: they ask
``doors()``. This module loads neither the relay nor the client, so that a command can ask it, too.
``references/doors.md`` shows how to write a door.
"""

from __future__ import annotations

import functools
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, NamedTuple

from clawlink.version import DISTRIBUTION

if TYPE_CHECKING:
    from pathlib import Path

    from clawlink.bench.scenarios import Row
    from clawlink.bench.upkeep_scenarios import Step
    from clawlink.cli.verb import Verb
    from clawlink.config import ServerConfig
    from clawlink.protocol.endpoint import Endpoint
    from clawlink.relay.relay import Relay
    from clawlink.server.page_sessions import PageSessions
    from clawlink.server.request import Handler
    from clawlink.server.ws_connection import Websockets

GROUP = "clawlink.doors"
"""The group of entry points by which another package offers a door."""

_log = logging.getLogger("clawlink.doors")


def option(
    flag: str,
    help: str,
    *,
    default: Any = None,
    metavar: str | None = None,
    unit: str | None = None,
    least: float | None = None,
) -> Any:
    """Return a field of a door's settings: a flag of ``clawlink serve`` and an environment variable.

    A default that is False makes a switch. A number with a ``unit`` is a limit, which ``GET /`` tells, too, and
    ``least`` the least value of it. All else is text.
    """
    metadata = {"flag": flag, "help": help, "metavar": metavar, "unit": unit, "least": least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Opening:
    """The surroundings of a door that opens.

    ``settings`` is of the door's own class. ``websockets`` are those of the relay, which accept the door's, too.
    ``wall`` is the system's clock, for signatures of other machines; ``relay.clock`` is relay time. ``pages`` are the
    sessions of the relay's page, None where it shows none.
    """

    relay: Relay
    config: ServerConfig
    settings: Any
    websockets: Websockets
    wall: Callable[[], float]
    pages: PageSessions | None = None


class OpenDoor:
    """An open door. A protocol overrides what it needs; the rest does nothing."""

    page: Path | None = None
    """The folder of files that the door adds to the relay's page: ``NAME.js`` has its views."""

    def routes(self) -> Iterable[tuple[Endpoint, Handler]]:
        """Return the endpoints with their handlers. An address that is taken ends the start."""
        return ()

    async def start(self) -> None:
        """Prepare before the first connection comes."""

    def news(self) -> list[str]:
        """Return lines that the operator has to read at this start alone, as a key that was just made."""
        return []

    async def upkeep(self, now: float) -> None:
        """Do what is due. Called twice a second; ``now`` is relay time. A failure is logged, and calls go on."""

    async def close(self) -> None:
        """Say goodbye to all connections, and return once they are closed."""

    async def info(self) -> dict[str, Any]:
        """Return this door's facts for ``GET /``, as JSON."""
        return {}


class Door:
    """A protocol. Subclass it, and offer an instance: as ``DOOR`` of a folder here, or as an entry point.

    Import server and client inside the methods only: each command of the command line may load this class.
    """

    name: str
    settings: type[Any] = make_dataclass("Settings", [], frozen=True)
    """A frozen dataclass, whose fields ``option`` makes."""

    def check(self, settings: Any, config: ServerConfig) -> None:
        """Refuse settings that make no sense. Raises ValueError with a sentence that names the flag."""

    def adapt(self, settings: Any, config: ServerConfig) -> ServerConfig:
        """Return the configuration of a relay with this door. It is called after all checks."""
        return config

    def open(self, opening: Opening) -> OpenDoor | None:
        """Open the door; return None where the settings do not ask for it. An exception ends the start."""
        return None

    def banner(self, settings: Any, url: str) -> list[str]:
        """Return the lines that the operator sees at the start; ``url`` is the relay's address."""
        return []

    def verbs(self) -> Sequence[Verb]:
        """Return the verbs of the command line, as the ``__init__`` of a noun of ``clawlink.cli`` declares them."""
        return ()

    scenarios: Sequence[str] = ()
    """The names of what ``clawlink bench`` can measure."""

    def measure(self, name: str, folder: str, *, say: Callable[[str], None]) -> list[Row]:
        """Measure a scenario in an empty folder."""
        raise NotImplementedError

    def upkeep_steps(self) -> Mapping[str, Step]:
        """Return the pieces of upkeep that the scenario ``upkeep`` measures, too."""
        return {}

    def next_step(self, content: Any) -> tuple[str, ...] | None:
        """Return the words of the command that deals with a plain message of this content, if there is one."""
        return None


class Broken(NamedTuple):
    """A door that cannot be loaded, the reason, and the package that brings it."""

    name: str
    reason: str
    package: str


class Found(NamedTuple):
    """All doors, by name, and those that were left out."""

    doors: Mapping[str, Door]
    broken: Sequence[Broken]


@functools.cache
def find() -> Found:
    """Find all doors once. A door that cannot be loaded is logged and left out."""
    doors: dict[str, Door] = {}
    broken = []
    for name, package, load in (*_built_in(), *_of_packages()):
        try:
            door = load()
            if not isinstance(door, Door):
                raise TypeError(f"{door!r} is no clawlink.doors.registry.Door")
            if door.name != name:
                raise ValueError(f"it calls itself {door.name!r}")
            if name in doors:
                raise ValueError("another door has this name")
            if any("flag" not in field.metadata for field in fields(door.settings)):
                raise TypeError("each field of its settings has to be made by option()")
            doors[name] = door
        except Exception as error:
            broken.append(Broken(name, f"{type(error).__name__}: {error}", package))
            _log.warning("the door %s of %s cannot be loaded and is left out: %s", name, package, broken[-1].reason)
            _log.debug("the door %s", name, exc_info=error)
    return Found(doors, broken)


def doors() -> Sequence[Door]:
    """Return all doors."""
    return tuple(find().doors.values())


def settings_of(door: Door, config: ServerConfig) -> Any:
    """Return the settings of a door, which are its defaults unless the configuration has some."""
    given = config.doors.get(door.name)
    return door.settings() if given is None else given


def limit_fields(of: Iterable[Door] | None = None) -> Iterator[Field[Any]]:
    """Give the fields of doors' settings that are limits; without an argument those of all doors."""
    for door in doors() if of is None else of:
        yield from (field for field in fields(door.settings) if field.metadata["unit"] is not None)


def verbs() -> Iterator[Verb]:
    """Give the verbs of all doors. A door whose verbs cannot be loaded is logged and left out."""
    for door in doors():
        try:
            yield from door.verbs()
        except Exception as error:
            _log.warning("the commands of the door %s cannot be loaded: %s", door.name, error)


def next_step(content: Any) -> tuple[str, ...] | None:
    """Return the words of the command that deals with a plain message of this content, if a door has one."""
    for door in doors():
        words = door.next_step(content)
        if words is not None:
            return words
    return None


def _built_in() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Give the folders beside this file.

    They are not found by entry points. A checkout that runs without being installed has none. A checkout that was
    installed before a folder came or went has the wrong ones.
    """
    package = __name__.rpartition(".")[0]
    for found in pkgutil.iter_modules(import_module(package).__path__):
        if found.ispkg:
            yield found.name, DISTRIBUTION, functools.partial(_door_of, f"{package}.{found.name}")


def _door_of(module: str) -> Any:
    return import_module(module).DOOR


def _of_packages() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Give the doors that other packages offer."""
    if not _any_offered():
        return
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        yield entry.name, entry.dist.name if entry.dist is not None else entry.value, entry.load


def _any_offered() -> bool:
    """Return True if a package may offer a door.

    ``importlib.metadata`` takes longer to load than all else that ``clawlink --help`` needs. So look into the files
    that it would read, and use it only for a door, or for a place that is no folder.
    """
    if any(finder is not PathFinder and hasattr(finder, "find_distributions") for finder in sys.meta_path):
        return True
    wanted = f"[{GROUP}]".encode()
    for place in dict.fromkeys(sys.path):
        try:
            names = os.listdir(place or os.curdir)
        except NotADirectoryError:
            return True
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(os.path.join(place, name, "entry_points.txt"), "rb") as file:
                        offered = file.read()
                except OSError:  # it has none
                    continue
                if wanted in offered:
                    return True
    return False
