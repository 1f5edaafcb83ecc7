"""Agents: presence, how they are found, who keeps a name, and when one is forgotten."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain import agent as rules
from clawlink.domain.agent import REGISTERED, Agent, NameHold, Presence
from clawlink.domain.limits import Limits
from tests.tables import each

NOW = 1_000_000.0
LIMITS = Limits()
MIA = Agent(
    id="m1",
    version=1,
    name="Mia",
    capabilities=("Python", "go"),
    machine="laptop",
    description="",
    registered_at=NOW,
    last_heartbeat=NOW,
)
CLAIMED = replace(MIA, key_hash="c0ffee")


@each(
    ("silence", "shown"),
    [
        (0.0, Presence.ONLINE),
        (119.9, Presence.ONLINE),
        (120.0, Presence.STALE),
        (9_999.0, Presence.STALE),
        (-5.0, Presence.ONLINE),
    ],
)
def test_presence_is_what_the_last_sign_of_life_says(silence: float, shown: Presence) -> None:
    assert rules.presence(MIA, NOW + silence, LIMITS) is shown


def test_when_an_agent_is_stale_is_a_setting() -> None:
    assert rules.presence(MIA, NOW + 119, Limits(stale_after=10)) is Presence.STALE


def test_a_sign_of_life_is_a_new_version() -> None:
    seen = rules.seen(MIA, NOW + 5)
    assert (seen.last_heartbeat, seen.version) == (NOW + 5, 2)


def test_a_clock_that_goes_back_does_not_take_life_away() -> None:
    assert rules.seen(MIA, NOW - 60).last_heartbeat == NOW


def test_a_heartbeat_is_a_sign_of_life_and_says_when_it_beat() -> None:
    beaten = rules.beaten(MIA, NOW + 5)
    assert (beaten.last_heartbeat, beaten.beat_at, beaten.version) == (NOW + 5, NOW + 5, 2)


def test_another_sign_of_life_is_no_heartbeat() -> None:
    assert rules.seen(rules.beaten(MIA, NOW + 5), NOW + 9).beat_at == NOW + 5


def test_a_heartbeat_on_a_clock_that_went_back_takes_no_life_away() -> None:
    beaten = rules.beaten(MIA, NOW - 60)
    assert (beaten.last_heartbeat, beaten.beat_at) == (NOW, NOW - 60)


def test_an_agent_that_says_nothing_of_topics_is_told_of_all() -> None:
    assert MIA.subscriptions == ("*",)


@each(
    ("silence", "mail", "forgotten"),
    [(24 * 3600.0, 0, True), (24 * 3600.0 - 1, 0, False), (24 * 3600.0, 1, False), (0.0, 0, False)],
)
def test_only_a_long_silent_agent_without_mail_is_forgotten(silence: float, mail: int, forgotten: bool) -> None:
    assert rules.forgettable(MIA, NOW + silence, LIMITS, mail=mail) is forgotten


@each(
    ("holder", "name", "silence", "holds"),
    [
        (None, "Mia", 0, False),
        (MIA, "Mia", 0, "from claimed agents"),
        (MIA, " mIA ", 0, "from claimed agents"),
        (MIA, "Otto", 0, False),
        (MIA, "Mia", 120, False),
        (CLAIMED, "Mia", 120, True),
        (CLAIMED, "Otto", 0, False),
    ],
    ids=["gone", "online", "other case", "renamed", "stale", "stale but claimed", "claimed but renamed"],
)
def test_a_name_is_kept_by_who_is_online_or_claimed(
    holder: Agent | None, name: str, silence: float, holds: bool | str
) -> None:
    now = NOW + silence
    assert rules.holds_name(holder, name, now, LIMITS, from_claimed=True) is bool(holds)
    assert rules.holds_name(holder, name, now, LIMITS, from_claimed=False) is (holds is True)


@each(("one", "other"), [("Python", "python"), (" go ", "GO"), ("STRASSE", "straße"), ("ΣΊΣΥΦΟΣ", "σίσυφος")])
def test_names_and_capabilities_are_compared_without_case_or_outer_space(one: str, other: str) -> None:
    assert rules.fold(one) == rules.fold(other)
    assert rules.by_name(one) == rules.by_name(other)
    assert rules.by_capability(one) == rules.by_capability(other)


def test_an_agent_is_found_as_registered_by_name_and_by_each_capability() -> None:
    assert set(MIA.index_keys) == {
        REGISTERED,
        rules.by_name("mia"),
        rules.by_id("M1"),
        rules.by_capability("python"),
        rules.by_capability("GO"),
        rules.by_pattern("*"),
        *({rules.HEARS_OF_FILES} if rules.hears_of_files(MIA) else ()),
    }


def test_a_claimed_agent_is_found_by_its_key_and_by_what_its_name_and_id_look_like() -> None:
    assert CLAIMED.key_hash is not None
    assert set(CLAIMED.index_keys) - set(MIA.index_keys) == {
        rules.by_key(CLAIMED.key_hash),
        *rules.by_looks("M\u0456\u0430"),
        *rules.by_looks("m1"),
    }


def test_an_agent_without_a_key_that_is_online_is_claimed_from_its_own_address_alone() -> None:
    stale = NOW + LIMITS.stale_after
    at, keyed = replace(MIA, address="one", last_heartbeat=NOW), replace(CLAIMED, address="one", last_heartbeat=NOW)
    for agent, address, now, may in (
        (at, "one", NOW, True),
        (at, "two", NOW, False),
        (at, None, NOW, False),
        (at, "two", stale, True),
        (replace(at, address=None), "two", NOW, True),
        (keyed, "two", NOW, True),
    ):
        assert rules.claimable(agent, address, now, LIMITS) is may, (agent.address, address, now)
        assert rules.counted_at(agent, address, now, LIMITS) == (address if may else "one")


def test_a_name_is_never_taken_for_a_capability() -> None:
    assert rules.by_name("python") != rules.by_capability("python")


def test_an_agent_is_found_by_what_it_hears_of() -> None:
    chosen = rules.subscribe(MIA, ["Build.*", "build.*", "rain"])
    assert set(chosen.topic_keys) == {rules.by_pattern("build.*"), rules.by_pattern("rain")}
    assert set(chosen.topic_keys) <= set(chosen.index_keys)
    assert rules.by_pattern("*") not in chosen.index_keys
    for notices, told in ((True, True), (False, False), (None, MIA.key_hash is None)):
        assert (rules.HEARS_OF_FILES in replace(MIA, notices=notices).index_keys) is told, notices


def test_an_agent_lives_in_its_own_mailbox_and_ends_only_by_silence() -> None:
    assert (MIA.partition_key, MIA.weight, MIA.ends_at) == ("m1", 0, None)


def test_a_hold_lives_at_its_name_and_is_found_by_it_alone() -> None:
    hold = NameHold(id="mia", version=1, agent_id="m1")
    assert (hold.partition_key, hold.index_keys, hold.weight, hold.ends_at) == ("name:mia", (), 0, None)


@each(
    ("then", "since", "now", "same"),
    [
        ("k1", 0, "k1", True),  # it is there all the time
        ("k1", 9, "k1", True),  # it has left and come back
        ("k1", 9, "k2", False),  # a stranger has taken the id, with a key
        ("k1", 9, None, False),  # or without one
        ("k1", 0, "k2", True),  # it has another key now, and never left
        ("k1", 5, "k2", True),  # it registered at that very moment
        (None, 0, "k1", True),  # it has claimed a key since
        (None, 9, None, True),  # without keys the next of the id is taken for it
        (None, 9, "k1", True),
    ],
)
def test_a_later_bearer_of_an_id_is_the_same_agent_only_with_its_key(
    then: str | None, since: float, now: str | None, same: bool
) -> None:
    agent = replace(MIA, key_hash=now, registered_at=NOW + since)
    assert rules.is_same(agent, "m1", then, NOW + 5) is same
    assert not rules.is_same(agent, "m2", then, NOW + 5)
