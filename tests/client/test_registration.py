"""An agent of a client leaves at the end of ``with``, or is kept: the next client of its name is the same agent."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

import pytest

from clawlink.client.identity import Identities, Place
from clawlink.client.sync import Client
from clawlink.errors import BadRequest, ClawLinkError, NameTaken
from tests.client.facade import connect
from tests.client.restartable import Restartable

pytestmark = pytest.mark.usefixtures("each_client")


def here(relay: str, agent_id: str | None) -> bool:
    with Client(relay) as visitor:
        return any(agent.agent_id == agent_id for agent in visitor.discover(status="all").agents)


def fresh(name: str) -> str:
    return f"{name} {uuid.uuid4().hex}"


def test_who_registers_inside_of_with_leaves_at_its_end(relay: str) -> None:
    name = fresh("asker")
    ids = []
    for _ in range(2):
        with connect(relay) as client:
            ids.append(client.register(name).agent.agent_id)
            client.register(name, capabilities=["more"])
            assert here(relay, ids[-1])
        assert not here(relay, ids[-1])
    assert ids[0] != ids[1]

    with connect(relay) as client:
        client.register(name)
        client.leave()
        anew = client.register(name).agent.agent_id
    assert not here(relay, anew), "an agent that joined again after leave() leaves, too"


def test_an_error_inside_of_with_is_what_is_raised(relay: str) -> None:
    left = []

    def fail() -> None:
        with connect(relay) as client:
            left.append(client.register(fresh("asker")).agent.agent_id)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert not here(relay, left[0])


def test_what_keeps_an_agent_from_leaving_is_logged_and_not_raised(
    restartable: Restartable, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (None, RuntimeError("mine")):
        caplog.clear()
        caught = None
        try:
            with connect(restartable.url) as client:
                client.register(fresh("asker"))
                restartable.stop()
                if error is not None:
                    raise error
        except RuntimeError as raised:
            caught = raised
        assert caught is error
        told = [record for record in caplog.records if record.name == "clawlink.client"]
        assert [record.levelno for record in told] == [logging.WARNING], error
        assert "could not leave" in told[0].getMessage()
        restartable.start()


def test_who_was_there_before_stays(relay: str) -> None:
    name = fresh("night shift")
    first = connect(relay)
    first.register(name)
    with first:
        first.register(name)
    assert here(relay, first.agent_id), "it had registered before"
    with connect(relay, agent_id=first.agent_id, agent_key=first.agent_key) as again:
        assert again.register(name).resumed
    assert here(relay, first.agent_id), "it was given its id and key"


def test_with_keep_the_next_client_of_that_name_is_the_same_agent(relay: str, clawlink_home: Path) -> None:
    name = fresh("night shift")
    with connect(relay, keep=True) as client:
        first = client.register(name, capabilities=["count"])
        assert not first.resumed
        client.send(first.agent.agent_id, "a note to myself")
    with connect(relay, keep=True) as client:
        again = client.register(name.upper())
        assert again.resumed
        assert again.agent.agent_id == first.agent.agent_id
        assert [claimed.raw["content"] for claimed in client.poll()] == ["a note to myself"]
    (saved,) = Identities(clawlink_home).matching(named=name, relay=relay)
    assert (saved.agent_id, saved.capabilities) == (first.agent.agent_id, ["count"])
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o77 == 0 for path in (clawlink_home / "identities").glob("*.json"))

    with connect(relay) as client, pytest.raises(NameTaken):
        client.register(name)
    with connect(relay, keep=True) as client, pytest.raises(BadRequest, match="keep=True"):
        client.register()


def test_the_same_relay_at_another_address_knows_the_agent_again(relay: str, clawlink_home: Path) -> None:
    name = fresh("night shift")
    there = relay.replace("127.0.0.1", "localhost")
    with connect(relay, keep=True) as client:
        first = client.register(name, notices=True)
    with connect(there, keep=True) as client:
        again = client.register(name)
    assert again.resumed
    assert again.agent.agent_id == first.agent.agent_id
    (saved,) = Identities(clawlink_home).matching(named=name, relay=None)
    assert saved.relay == there


def claim_and_die(relay: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim a name, and end before the answer is kept."""

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Place, "keep", die)
        with connect(relay, keep=True) as client, pytest.raises(RuntimeError, match="killed"):
            client.register(name)


def test_a_claim_whose_answer_was_not_kept_is_taken_up_by_the_next(
    relay: str, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fresh("night shift")
    claim_and_die(relay, name, monkeypatch)
    with connect(relay, keep=True) as client:
        assert client.register(name, description="of the night").resumed
        assert client.poll() == []
    with Client(relay) as visitor:
        assert [agent.description for agent in visitor.discover(name=name, status="all").agents] == ["of the night"]
    assert not list(clawlink_home.rglob("*.begun"))


def test_claims_of_one_name_on_two_relays_are_taken_up_each(
    relay: str, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fresh("night shift")
    claim_and_die(relay, name, monkeypatch)
    with connect("http://127.0.0.1:1", keep=True) as client, pytest.raises(ClawLinkError):
        client.register(name)
    with connect(relay, keep=True) as client:
        assert client.register(name).resumed
    assert len(list(clawlink_home.rglob("*.begun"))) == 1  # the other relay may have taken the claim


def test_nothing_is_claimed_whose_key_cannot_be_kept(
    relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fresh("night shift")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path / "file"))
    with connect(relay, keep=True) as client, pytest.raises(OSError, match="CLAWLINK_HOME"):
        client.register(name)
    with Client(relay) as visitor:
        assert not visitor.discover(name=name, status="all").agents
