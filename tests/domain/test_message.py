"""Messages: what they look like on the wire, and when two of them say the same."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from clawlink.domain.chain import Chain
from clawlink.domain.message import (
    AgentCard,
    AgentJoined,
    AgentLeft,
    FileUpdated,
    KnowledgeBroadcast,
    Message,
    MessageUpdate,
    PlainMessage,
    Priority,
    TaskAnswer,
    TaskDelegation,
    TaskResponse,
    TaskUpdate,
    decode,
    encode,
    says_the_same,
    type_of,
)
from tests.tables import each

T = "2026-05-13T06:51:00.000+00:00"
FIRST = Chain(None, 0, ("o1",))
CARD = AgentCard(
    agent_id="m1",
    name="mia",
    capabilities=("go",),
    machine="laptop",
    description="",
    registered_at=T,
    last_heartbeat=1.0,
    status="online",
)
TASK = TaskDelegation(
    message_id="1",
    from_agent="o1",
    to_agent="m1",
    task="sum",
    context={"n": [1, 2]},
    priority=Priority.HIGH,
    timestamp=T,
    queued_at=T,
    from_name="otto",
    chain=FIRST,
)
POOLED = replace(TASK, to_agent=None, capability=("go", "sql"), to_any_of=("m1", "e1"), deadline_at=T)
RESPONSE = TaskResponse(
    message_id="1",
    response_id="2",
    from_agent="m1",
    to_agent="o1",
    result={"sum": 3},
    status="completed",
    timestamp=T,
    queued_at=T,
    from_name="mia",
)
BROADCAST = KnowledgeBroadcast(
    message_id="3",
    from_agent="m1",
    content="it rains",
    topic="weather",
    tags=("rain", "today"),
    timestamp=T,
    queued_at=T,
    from_name="mia",
    chain=FIRST,
)
FILE = FileUpdated(file_key="a", version=2, last_editor="m1", timestamp=T, queued_at=T, message_id="4", deleted=False)
JOINED = AgentJoined(agent=CARD, timestamp=T, queued_at=T, message_id="5")
LEFT = AgentLeft(agent=CARD, timestamp=T, queued_at=T, message_id="5")
PLAIN = PlainMessage(
    message_id="6",
    from_agent="m1",
    to_agent="o1",
    content="hi",
    in_reply_to=None,
    thread="t",
    timestamp=T,
    queued_at=T,
    from_name="mia",
    chain=Chain("1", 1, ("o1", "m1")),
)
ANSWER = TaskAnswer(
    message_id="7",
    task_id="1",
    from_agent="o1",
    to_agent="m1",
    content={"which": "both"},
    timestamp=T,
    queued_at=T,
    from_name="otto",
)
UPDATE = TaskUpdate(
    message_id="8",
    task_id="1",
    to_agent="m1",
    status="cancelled",
    note=None,
    by="o1",
    attempts=1,
    timestamp=T,
    queued_at=T,
)
ABOUT = MessageUpdate(
    message_id="9", about="6", to_agent="m1", status="given_up", note="it waits", timestamp=T, queued_at=T
)
TYPES: list[tuple[Message, str]] = [
    (TASK, "task_delegation"),
    (RESPONSE, "task_response"),
    (BROADCAST, "knowledge_broadcast"),
    (FILE, "file_updated"),
    (JOINED, "agent_joined"),
    (LEFT, "agent_left"),
    (PLAIN, "message"),
    (ANSWER, "task_answer"),
    (UPDATE, "task_update"),
    (ABOUT, "message_update"),
]
ALL = [message for message, _ in TYPES]
# When it was sent, by whom as they are called now, and what led to it: a repeat may differ in these.
CIRCUMSTANCES = ["timestamp", "queued_at", "from_name", "deadline_at", "chain"]


def changed(message: Message, field: str, value: Any) -> Message:
    fields: dict[str, Any] = {field: value}
    return replace(message, **fields)


@each("message", [*ALL, POOLED], ids=type_of)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


@each(("message", "type_"), TYPES)
def test_the_type_is_the_one_that_clients_of_1_0_know(message: Message, type_: str) -> None:
    assert type_of(message) == type_
    assert msgspec.json.decode(encode(message))["type"] == type_


@each("message", ALL, ids=type_of)
@each("field", CIRCUMSTANCES)
def test_a_repeat_says_the_same_however_late_it_comes_and_whatever_its_sender_is_called_now(
    message: Message, field: str
) -> None:
    if field in message.__struct_fields__:
        assert says_the_same(message, changed(message, field, "other"))


@each(
    ("message", "field"),
    [(m, f) for m in [*ALL, POOLED] for f in m.__struct_fields__ if f not in CIRCUMSTANCES],
    ids=lambda value: value if isinstance(value, str) else type_of(value),
)
def test_a_difference_in_anything_else_says_something_else(message: Message, field: str) -> None:
    assert not says_the_same(message, changed(message, field, "other"))


def test_what_was_decoded_says_the_same_as_what_was_encoded() -> None:
    assert all(says_the_same(decode(encode(message)), message) for message in [*ALL, POOLED])


def test_to_say_true_is_not_to_say_one() -> None:
    assert not says_the_same(replace(ANSWER, content=True), replace(ANSWER, content=1))


def test_a_delegation_to_one_agent_says_nothing_of_capabilities_and_deadlines() -> None:
    assert not {"capability", "to_any_of", "deadline_at"} & set(msgspec.json.decode(encode(TASK)))


@each("one", ALL, ids=type_of)
@each("other", ALL, ids=type_of)
def test_two_kinds_of_message_never_say_the_same(one: Message, other: Message) -> None:
    assert says_the_same(one, other) is (one is other)


def test_every_priority_has_its_rank_and_the_urgent_one_goes_first() -> None:
    ordered = sorted(Priority, key=lambda priority: priority.level)
    assert ordered == [Priority.URGENT, Priority.HIGH, Priority.NORMAL, Priority.LOW]
    assert len({priority.level for priority in Priority}) == len(Priority)
