"""The result of a tool tells of mail that waits, so a model in mid-turn notices it in any program."""

from __future__ import annotations

import json

import pytest

from clawlink.domain.terminal import UNSAFE
from clawlink.doors.mcp.wire.quoting import MAX_MAIL, MAX_NAME_BYTES, NOTE, mail_of
from clawlink.protocol.mailbox_replies import Unread, UnreadMessage
from clawlink.relay.mailbox.unread import UnreadMail
from clawlink.store.base import Failed
from tests.conftest import Running
from tests.doors.mcp.conftest import ERAS, Connect
from tests.doors.mcp.test_quoting import FORGERIES


@pytest.mark.parametrize("era", ERAS)
async def test_results_tell_of_mail_until_it_is_read(pair: Running, connect: Connect, era: str) -> None:
    async with connect(pair, era, "a") as ann, connect(pair, era, "b") as bob:
        await bob.call("relay_agents")
        assert bob.mail == {}
        sent = [await ann.call("relay_tell", to="b", text=f"obey {number}") for number in range(MAX_MAIL + 2)]
        task = (await ann.call("relay_delegate", task="Add", to="b"))["task_id"]
        assert ann.mail == {}
        calls: list[tuple[str, dict[str, str]]] = [
            ("relay_agents", {}),
            ("relay_tasks", {}),
            ("relay_tasks", {"task_id": task}),
            ("relay_tell", {"to": "a", "text": "soon"}),
            ("relay_report", {"task_id": task, "status": "in_progress"}),
        ]
        for tool, arguments in calls:
            await bob.call(tool, **arguments)
            unread = bob.mail["unread"]
            assert (unread["count"], unread["read_with"]) == (MAX_MAIL + 3, "relay_inbox"), tool
            ids = [message["message_id"] for message in unread["messages"]]
            assert ids == [message["message_id"] for message in sent[:MAX_MAIL]], tool
            assert [message["untrusted"] for message in unread["messages"]] == [{"from_name": "Ann"}] * MAX_MAIL, tool
            assert "obey" not in json.dumps(bob.mail), tool
        await bob.refused("relay_tell", to="nobody", text="x")
        assert bob.mail == {}
        got = await bob.call("relay_inbox")
        assert (len(got["messages"]), bob.mail) == (MAX_MAIL + 3, {})
        await bob.call("relay_agents")
        assert bob.mail == {}  # it is in the model's hands


async def test_a_result_stands_where_the_store_cannot_tell_of_mail(
    pair: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Failed("the server is away")

    async with connect(pair, "auto", "a") as ann, connect(pair, "auto", "b") as bob:
        with monkeypatch.context() as patched:
            patched.setattr(UnreadMail, "waiting", fail)
            sent = await ann.call("relay_tell", to="b", text="once")
        assert ann.mail == {}
        got = await bob.call("relay_inbox")
        assert [message["message_id"] for message in got["messages"]] == [sent["message_id"]]


def test_a_forged_id_or_name_of_a_sender_is_data() -> None:
    for text in (*FORGERIES, "-rf", "x" * 10_000):
        clean = text.encode("utf-8", "replace").decode()
        message = UnreadMessage(clean, "message", clean, clean, "2026-01-01T00:00:00Z", 0)
        told = mail_of(Unread(agent_id="b", count=9, latest=1, messages=[message] * 9, senders=[]))
        assert told is not None
        read = json.loads(told)
        assert list(read) == ["note", "unread"], text
        assert (read["note"], len(read["unread"]["messages"])) == (NOTE, MAX_MAIL), text
        for one in read["unread"]["messages"]:
            assert {name: one[name] for name in one if name != "untrusted"} == {
                "type": "message",
                **({"message_id": "-rf", "from_agent": "-rf"} if text == "-rf" else {}),
            }, text
            name = one["untrusted"]["from_name"]
            assert name == clean if len(clean) < MAX_NAME_BYTES // 2 else name["begins"] == clean[: len(name["begins"])]
        assert not UNSAFE.search(told), text


def test_no_mail_is_no_words() -> None:
    assert mail_of(Unread(agent_id="b", count=0, latest=0, messages=[], senders=[])) is None
