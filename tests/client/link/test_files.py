"""Files over a link: the transfers of the clients, as things that come later."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from clawlink import Link, errors
from clawlink.client.link.outbox import LinkEnded
from clawlink.client.sync import Client
from clawlink.client.wait_steps import StillPending
from clawlink.domain.message import TaskDelegation
from tests.client.link.conftest import MakeLink
from tests.client.restartable import Restartable
from tests.waiting import PATIENCE, wait_until

Running = Callable[[Link], Link]
LARGE = b"hour,level\n" * 200_000


@pytest.fixture
def planner(make_link: MakeLink, running: Running) -> Link:
    return running(make_link("planner"))


def test_large_files_go_up_and_down_telling_how_far_they_are(planner: Link, tmp_path: Path) -> None:
    far: list[int] = []
    up = planner.upload("tides.csv", io.BytesIO(LARGE), on_progress=lambda done, total: far.append(done))
    saved = up.result(PATIENCE)
    assert (saved.version, saved.size) == (1, len(LARGE))
    assert far[0] < far[-1] == len(LARGE)
    facts = planner.download("tides.csv", tmp_path / "copy.csv").result(PATIENCE)
    assert facts.sha256 == saved.sha256
    assert (tmp_path / "copy.csv").read_bytes() == LARGE


def test_a_file_goes_with_a_task(planner: Link, boss: Client) -> None:
    attached = planner.attach(io.BytesIO(b"high at noon"), "summary.txt").result(PATIENCE)
    planner.delegate("boss", "read it", attachments=[attached]).receipt.result(PATIENCE)
    message = next(one.message for one in boss.poll(wait=5) if isinstance(one.message, TaskDelegation))
    assert message.attachments == (attached,)
    assert boss.get_blob(attached.file_key).content == b"high at noon"


def test_a_change_of_a_file_is_waited_for(planner: Link, boss: Client) -> None:
    watched = planner.watch_file("tides.csv", timeout=30)
    with pytest.raises(StillPending):
        watched.result(0.05)

    def noticed() -> bool:
        """Change the file again: the link waits for a change after its question, which may come late."""
        boss.upload("tides.csv", io.BytesIO(b"level"))
        return watched.done()

    wait_until(noticed)
    assert watched.result(0).version >= 1


def test_how_far_a_message_came_is_waited_for(planner: Link, boss: Client) -> None:
    message_id = planner.send("boss", "look").result(PATIENCE).message_id
    read = planner.wait_message(message_id, timeout=30)
    boss.ack([one.receipt for one in boss.poll(wait=5)])
    assert read.result(PATIENCE).state == "acked"


def test_what_is_refused_fails_and_the_link_goes_on(planner: Link, tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownFile):
        planner.download("nothing", tmp_path / "copy").result(PATIENCE)
    assert list(tmp_path.glob("copy*")) == []
    with pytest.raises(FileNotFoundError):
        planner.upload("k", tmp_path / "nothing").result(PATIENCE)
    assert planner.info().result(PATIENCE).shared_files == 0


def test_an_upload_lasts_through_a_restart_of_the_relay(planner: Link, restartable: Restartable) -> None:
    away: list[errors.ClawLinkError | None] = []
    restartable.stop()
    up = planner.upload("k", io.BytesIO(b"level"), on_away=away.append)
    wait_until(lambda: bool(away))
    restartable.start()
    assert up.result(PATIENCE).version == 1
    assert away[-1] is None


def test_what_is_on_its_way_at_the_end_has_its_time(make_link: MakeLink, boss: Client) -> None:
    with make_link("planner") as link:
        up = link.upload("k", io.BytesIO(LARGE))
    assert up.result(0).size == len(LARGE)
    assert boss.get_blob("k").content == LARGE


def test_what_only_waits_ends_with_the_link(make_link: MakeLink) -> None:
    with make_link("planner", drain=60.0) as link:
        watched = link.watch_file("k")
    with pytest.raises(LinkEnded, match="the link ended before the answer to watch_file was there"):
        watched.result(0)


def test_what_cannot_end_in_time_fails_saying_so(make_link: MakeLink, restartable: Restartable) -> None:
    with make_link("planner", drain=0.5) as link:
        restartable.stop()
        up = link.upload("k", io.BytesIO(b"level"))
    with pytest.raises(LinkEnded, match="the link ended before the answer to upload was there"):
        up.result(0)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_relay_that_has_forgotten_everything_is_waited_for(
    planner: Link, restartable: Restartable, tmp_path: Path, at_once: bool
) -> None:
    """A link registers by itself, and calls that come earlier wait for that."""
    restartable.stop()
    restartable.forget()
    up = planner.upload("k", io.BytesIO(LARGE)) if not at_once else None
    restartable.start()
    up = up or planner.upload("k", io.BytesIO(LARGE))
    assert planner.attach(io.BytesIO(b"level")).result(PATIENCE).version == 1
    assert planner.tasks().result(PATIENCE).tasks == []
    assert up.result(PATIENCE).size == len(LARGE)
    assert planner.download("k", tmp_path / "copy").result(PATIENCE).size == len(LARGE)
