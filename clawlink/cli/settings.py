"""The relay, the token and the agent: a flag goes before a variable, and a variable before the kept identity."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clawlink.cli.exits import UsageError
from clawlink.client.address import address as address
from clawlink.client.identity import BY_RELAY, Identities, Saved, several
from clawlink.config import DEFAULT_RELAY, from_environment
from clawlink.domain.agent import fold


class Given(NamedTuple):
    """The values of flags and variables. ``insisted``: the name comes from the flag, so it must be kept here."""

    relay: str | None
    token: str | None
    ca: str | None
    named: str | None
    insisted: bool


class Where(NamedTuple):
    """The relay to talk to, and the agent, if any. ``assumed``: nothing named the relay, so it is the default."""

    relay: str
    token: str | None
    ca: str | None
    saved: Saved | None
    assumed: bool = False


def given(args: Namespace, environ: Mapping[str, str]) -> Given:
    """Read flags and variables."""
    relay = args.relay or from_environment("--relay", environ)
    ca = args.ca or from_environment("--ca", environ)
    if ca is not None and not Path(ca).is_file():
        raise UsageError(f"there is no certificate file {ca}; give --ca the path of one in PEM format")
    return Given(
        None if relay is None else address(relay),
        args.token or from_environment("--token", environ),
        None if ca is None else os.path.abspath(ca),
        args.named or from_environment("agent", environ),
        args.named is not None,
    )


def acting(saved: Saved, given: Given) -> Where:
    """Choose for a command that acts as an agent."""
    return Where(given.relay or saved.relay, given.token or saved.token, given.ca or saved.ca, saved)


def visiting(given: Given, kept: Identities) -> Where:
    """Choose the relay for a command that acts as no agent. A kept token goes only to its own relay."""
    found = kept.matching(named=given.named, relay=given.relay)
    if not found and given.named is not None:
        if given.insisted:
            return acting(kept.pick(named=given.named, relay=given.relay), given)
        found = kept.matching(named=None, relay=given.relay)
    if len(found) == 1:
        return acting(found[0], given)
    return _common(found, given, BY_RELAY if len({saved.relay for saved in found}) > 1 else None)


def registering(given: Given, name: str, kept: Identities) -> Where:
    """Choose for ``register``: the identity of that name, to resume it, or else only where to register."""
    found = kept.matching(named=name, relay=given.relay)
    same = [saved for saved in found if fold(saved.name) == fold(name)]
    if len(same) == 1:
        return acting(same[0], given)
    if same:
        raise several(same)
    return _common(kept.matching(named=None, relay=given.relay), given, "--relay URL and, if it has one, --token TOKEN")


def _common(found: list[Saved], given: Given, how: str | None = None) -> Where:
    """Use the relay that all kept identities share, as no agent. Raises SeveralIdentities if they differ."""
    places = {(given.relay or saved.relay, given.token or saved.token, given.ca or saved.ca) for saved in found}
    if len(places) == 1:
        return acting(found[0], given)._replace(saved=None)
    if places:
        raise several(found, how)
    return Where(given.relay or DEFAULT_RELAY, given.token, given.ca, None, assumed=given.relay is None)
