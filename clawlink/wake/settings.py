"""The settings of the person: ``wake.toml`` in the folder of ClawLink's own files. Without it there are defaults."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from clawlink.domain.agent import fold
from clawlink.wake.rules import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "wake.toml"
SESSION, RESUME, COMMAND, OPENCLAW = ADAPTERS = ("session", "resume", "command", "openclaw")
DEFAULT_PER_DAY = 200
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_GENERAL = {"claim_seconds", "per_hour", "per_day", "quiet", "notify", "chain", "agents"}
_OF_AGENT = {"claim_seconds", "per_hour", "quiet", "chain", "command", "codex", "opencode", "opencode_password"}
_NOTIFY = {"desktop", "ntfy", "webhook"}


class BadSettings(ValueError):
    """The settings cannot be used; the message names the field and what it may be."""


class Agent(NamedTuple):
    """The settings of an agent. ``chain`` is None for the default one of its kind.

    ``codex`` is the endpoint of ``codex app-server``, as ``unix:///run/codex.sock`` or ``ws://127.0.0.1:4500``;
    ``opencode`` is the address of an opencode server.
    """

    policy: Policy = Policy()
    chain: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    codex: str | None = None
    opencode: str | None = None
    opencode_password: str | None = None


class Notify(NamedTuple):
    """How the person is told: by the desktop, a topic of ntfy, and a webhook that takes JSON."""

    desktop: bool = True
    ntfy: str | None = None
    webhook: str | None = None


class Settings(NamedTuple):
    """All settings. ``patterns`` are those of agents, by a pattern of their names; the first that fits counts."""

    per_day: int = DEFAULT_PER_DAY
    notify: Notify = Notify()
    general: Agent = Agent()
    patterns: tuple[tuple[str, Agent], ...] = ()

    def of(self, name: str) -> Agent:
        """Return the settings of an agent of that name."""
        folded = fold(name)
        return next((agent for pattern, agent in self.patterns if fnmatchcase(folded, fold(pattern))), self.general)


def load(home: Path) -> Settings:
    """Read the settings. Raises BadSettings, and OSError for a file that cannot be read."""
    try:
        text = (home / FILE).read_text("utf-8-sig")
    except FileNotFoundError:
        return Settings()
    except UnicodeDecodeError:
        raise BadSettings(f"{home / FILE} is not UTF-8") from None
    try:
        return parsed(text)
    except BadSettings as why:
        raise BadSettings(f"{home / FILE}: {why}") from None


def parsed(text: str) -> Settings:
    """Return the settings of a text. Raises BadSettings."""
    try:
        said = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadSettings(f"it is no TOML: {error}") from None
    _known(said, _GENERAL, "")
    general = _agent({name: value for name, value in said.items() if name in _OF_AGENT}, Agent(), "")
    tables = _table(said.get("agents", {}), "agents")
    patterns = []
    for pattern, fields in tables.items():
        where = f'agents."{pattern}".'
        _known(_table(fields, where.rstrip(".")), _OF_AGENT, where)
        patterns.append((pattern, _agent(fields, general, where)))
    per_day = _number(said, "per_day", "", 0, 100_000)
    return Settings(
        DEFAULT_PER_DAY if per_day is None else per_day,
        _notify(_table(said.get("notify", {}), "notify")),
        general,
        tuple(patterns),
    )


def _agent(said: Mapping[str, Any], general: Agent, where: str) -> Agent:
    policy = general.policy
    if (claim := _number(said, "claim_seconds", where, 5, 86_400)) is not None:
        policy = policy._replace(claim=float(claim))
    if (per_hour := _number(said, "per_hour", where, 1, 3600)) is not None:
        policy = policy._replace(per_hour=per_hour)
    if "quiet" in said:
        policy = policy._replace(quiet=_quiet(said["quiet"], f"{where}quiet"))
    chain: tuple[str, ...] | None = general.chain
    if "chain" in said:
        chain = _texts(said["chain"], f"{where}chain")
        wrong = [name for name in chain if name not in ADAPTERS]
        if wrong or len(set(chain)) < len(chain):
            raise BadSettings(f"{where}chain may have {', '.join(ADAPTERS)}, each once")
    agent = Agent(
        policy,
        chain,
        _texts(said["command"], f"{where}command") if "command" in said else (),
        _endpoint(said.get("codex"), f"{where}codex", ("unix", "ws")),
        _endpoint(said.get("opencode"), f"{where}opencode", ("http", "https")),
        _text(said.get("opencode_password"), f"{where}opencode_password"),
    )
    if COMMAND in (agent.chain or ()) and where and not agent.command:
        raise BadSettings(f"{where}chain has command, so {where}command needs the program and its arguments")
    return agent


def _known(said: Mapping[str, Any], names: set[str], where: str) -> None:
    unknown = sorted(said.keys() - names)
    if unknown:
        raise BadSettings(f"{where}{unknown[0]} is not known; there are {', '.join(sorted(names))}")


def _table(said: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise BadSettings(f"{where} is no table")
    return said


def _number(said: Mapping[str, Any], name: str, where: str, least: int, most: int) -> int | None:
    if name not in said:
        return None
    value = said[name]
    if type(value) is not int or not least <= value <= most:
        raise BadSettings(f"{where}{name} is a whole number from {least} to {most}")
    return value


def _text(said: Any, where: str) -> str | None:
    if said is not None and (not isinstance(said, str) or not said or not said.isprintable()):
        raise BadSettings(f"{where} is a text of one line")
    return said


def _texts(said: Any, where: str) -> tuple[str, ...]:
    if not isinstance(said, list) or not said or not all(isinstance(word, str) and word for word in said):
        raise BadSettings(f"{where} is a list of texts")
    return tuple(said)


def _quiet(said: Any, where: str) -> tuple[int, int] | None:
    if said == "":
        return None
    parts = said.split("-") if isinstance(said, str) else []
    found = [_TIME.fullmatch(part) for part in parts]
    if len(found) != 2 or found[0] is None or found[1] is None:
        raise BadSettings(f'{where} is a time of the day as "22:00-07:00", or ""')
    begin, end = (60 * int(one[1]) + int(one[2]) for one in (found[0], found[1]))
    return begin, end


def _endpoint(said: Any, where: str, schemes: tuple[str, ...]) -> str | None:
    text = _text(said, where)
    if text is None:
        return None
    parts = urlsplit(text)
    if parts.scheme not in schemes or not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise BadSettings(f"{where} is an address that begins with {' or '.join(f'{one}://' for one in schemes)}")
    return text


def _notify(said: Mapping[str, Any]) -> Notify:
    _known(said, _NOTIFY, "notify.")
    desktop = said.get("desktop", True)
    if not isinstance(desktop, bool):
        raise BadSettings("notify.desktop is true or false")
    web = ("http", "https")
    return Notify(
        desktop,
        _endpoint(said.get("ntfy"), "notify.ntfy", web),
        _endpoint(said.get("webhook"), "notify.webhook", web),
    )
