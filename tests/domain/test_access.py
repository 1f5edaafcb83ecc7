"""Permissions: who may act as whom."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from clawlink.domain import access
from clawlink.domain.agent import Agent
from clawlink.domain.limits import MAX_AGENT_KEY_LENGTH, MIN_AGENT_KEY_LENGTH
from clawlink.errors import BadRequest, NotAllowed
from tests.tables import each

OPEN = Agent(
    id="m1",
    version=1,
    name="mia",
    capabilities=(),
    machine="",
    description="",
    registered_at=0.0,
    last_heartbeat=0.0,
)
CLAIMED = replace(OPEN, key_hash=access.hash_key("secret"))


@each("shown", [None, "", "anything", "secret"])
def test_anyone_may_act_as_an_agent_that_was_never_claimed(shown: str | None) -> None:
    access.require_agent(OPEN, shown, field="from_agent")


def test_whoever_shows_its_key_may_act_as_a_claimed_agent() -> None:
    access.require_agent(CLAIMED, "secret", field="from_agent")


@each("shown", [None, "", "Secret", "secret ", CLAIMED.key_hash, "schlüssel", "\udcff"])
def test_nobody_else_may_and_is_told_where_the_request_named_the_agent(shown: str | None) -> None:
    with pytest.raises(NotAllowed) as refused:
        access.require_agent(CLAIMED, shown, field="from_agent")
    assert refused.value.field == "from_agent"
    assert access.KEY_HEADER in refused.value.message


def test_the_relay_keeps_nothing_that_opens() -> None:
    kept = access.hash_key("secret")
    assert "secret" not in kept
    assert access.hash_key(kept) != kept


@each(("claims", "required"), [(True, True), (True, False), (False, False)])
def test_a_relay_takes_agents_with_a_key_and_others_unless_it_requires_one(claims: bool, required: bool) -> None:
    access.require_claim(claims, required)


def test_a_relay_that_requires_keys_refuses_an_agent_without_one() -> None:
    with pytest.raises(NotAllowed) as refused:
        access.require_claim(False, True)
    assert refused.value.field == "claim"


def test_a_key_may_be_as_short_and_as_long_as_the_limits_say() -> None:
    for length in (MIN_AGENT_KEY_LENGTH, MAX_AGENT_KEY_LENGTH):
        access.require_strong("k" * length)
    for length, limit in (
        (MIN_AGENT_KEY_LENGTH - 1, MIN_AGENT_KEY_LENGTH),
        (MAX_AGENT_KEY_LENGTH + 1, MAX_AGENT_KEY_LENGTH),
    ):
        with pytest.raises(BadRequest) as refused:
            access.require_strong("k" * length)
        assert (refused.value.limit, refused.value.actual) == (limit, length)
