"""Each endpoint once: its request, and the reading of its answer. The clients that send know nothing of endpoints.

Each function takes the asking agent and its arguments, and returns a ``Call``. Its parameters and its docstring are
those of the method of the same name of ``Client``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, overload
from urllib.parse import urlencode

import msgspec

from clawlink.domain.limits import MAX_LIST_LENGTH, MAX_POLL_MESSAGES
from clawlink.domain.message import Attachment, KnowledgeBroadcast, Message, decode
from clawlink.domain.task import reported_as
from clawlink.errors import BadRequest, ClawLinkError, MethodNotAllowed, NotARelay, UnknownRoute
from clawlink.protocol import paths, replies, requests
from clawlink.protocol.invalid import bad_field
from clawlink.protocol.paths import Endpoint

T = TypeVar("T")

_KEY_BYTES = 16
_encoder = msgspec.json.Encoder()


@dataclass
class Identity:
    """The asking agent: its id, and its key if it was claimed. A register fills it in.

    By ``relay_key`` the agent knows its relay at another address.
    """

    agent_id: str | None = None
    agent_key: str | None = None
    relay_key: str | None = None
    acks_apart: bool = False  # the relay is older than polls that carry acks

    def require(self) -> str:
        """Return the agent's id, or say that there is none yet."""
        if self.agent_id is None:
            raise BadRequest("this needs an identity: register first, or give the client an agent_id", field="agent_id")
        return self.agent_id


class Reply(NamedTuple):
    """An unread reply: its status, its headers by name in any case, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request. ``repeatable`` is True if sending it twice does no more than sending it once.

    ``wait`` is the relay's intended delay in seconds. ``learn`` gets the answer of a success. ``follow`` returns the
    call after an answer, None if that was all; its answer counts. ``headers`` go with the request, and may make the
    ``body`` other than JSON. ``read_reply``, if given, reads the answer with its status and headers. ``refuse`` returns
    the error for a status without a body, as to HEAD. ``otherwise`` returns the call in place of a refused one, None if
    there is none.
    """

    endpoint: Endpoint
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    repeatable: bool = True
    wait: float = 0.0
    learn: Callable[[Identity, T], None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_reply: Callable[[Reply], T] | None = None
    refuse: Callable[[int], ClawLinkError | None] | None = None
    follow: Callable[[T], Call[T] | None] | None = None
    otherwise: Callable[[ClawLinkError], Call[T] | None] | None = None

    def answer(self, reply: Reply) -> T:
        """Read the reply to this call. Raises NotARelay for another shape, which does not come from a relay."""
        try:
            return self.read(reply.body) if self.read_reply is None else self.read_reply(reply)
        except KeyError as error:
            raise NotARelay(f"the answer is not that of a ClawLink relay: it lacks {error}") from None
        except (ValueError, msgspec.DecodeError) as error:
            raise NotARelay(f"the answer is not that of a ClawLink relay: {error}") from None


class Other(msgspec.Struct, frozen=True):
    """A message of a type this client does not know, as its JSON object."""

    type: str
    fields: dict[str, Any]


class Claimed(NamedTuple):
    """A message that was leased to this client, with its receipt.

    ``reported`` is the history of a task with earlier attempts, of this or of other agents.
    """

    message: Message | Other
    message_id: str
    receipt: str
    attempt: int
    lease_expires_at: str
    raw: dict[str, Any]
    reported: list[replies.TaskEvent] | None = None


class Batch(list[Claimed]):
    """The messages of a poll. ``results`` has the result of each receipt that the poll carried."""

    results: Sequence[replies.Settled] = ()


class DeadLetter(NamedTuple):
    """A message that was handed out too often."""

    message: Message | Other
    message_id: str
    from_agent: str
    attempts: int
    stored_at: str
    dead_at: str
    kept_until: str
    raw: dict[str, Any]


class File(NamedTuple):
    """A shared file with its content as bytes."""

    file_key: str
    content: bytes
    file_type: str
    last_editor: str
    version: int
    updated_at: str


def reader(kind: Any) -> Callable[[bytes], Any]:
    """Return the decoder of a reply."""
    decoder: msgspec.json.Decoder[Any] | None = None

    def read(body: bytes) -> Any:
        nonlocal decoder
        if decoder is None:  # made at first use: a command needs only some, and all together cost its start 5 ms
            decoder = msgspec.json.Decoder(kind)
        return decoder.decode(body)

    return read


_readers = {endpoint.name: reader(endpoint.reply) for endpoint in paths.ENDPOINTS if not endpoint.text}
_read_polled = reader(replies.Polled[msgspec.Raw])
_read_polled_and_acked = reader(replies.PolledAndAcked[msgspec.Raw])
_read_dead = reader(replies.DeadLetters[msgspec.Raw])
_read_knowledge = reader(replies.KnowledgeList[KnowledgeBroadcast])
_read_object = reader(dict[str, Any])


def simple_call(
    endpoint: Endpoint,
    body: msgspec.Struct | None = None,
    *,
    query: Mapping[str, object] | None = None,
    read: Callable[[bytes], Any] | None = None,
    repeatable: bool = True,
    wait: float = 0.0,
    learn: Callable[[Identity, Any], None] | None = None,
    **parameters: str,
) -> Call[Any]:
    """Return a call that asks in JSON, and is answered in JSON unless ``read`` says otherwise."""
    return Call(
        endpoint,
        endpoint.url(**parameters) + query_string(query),
        read or _readers[endpoint.name],
        None if body is None else _encoder.encode(body),
        repeatable,
        wait,
        learn,
    )


def query_string(query: Mapping[str, object] | None) -> str:
    """Return the query string of an address, with its question mark, without values of None."""
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def repeat_key(given: str | None) -> str:
    """Return the idempotency key, made here if none was given, so that a retry after a lost reply is safe."""
    return given or secrets.token_hex(_KEY_BYTES)


def _message(raw: msgspec.Raw) -> tuple[Message | Other, dict[str, Any]]:
    fields = msgspec.json.decode(raw, type=dict[str, Any])
    try:
        return decode(raw), fields
    except msgspec.ValidationError:
        return Other(str(fields.get("type")), fields), fields


def claimed(raw: msgspec.Raw, held: replies.Lease) -> Claimed:
    """Return an unchanged message with its receipt."""
    message, fields = _message(raw)
    return Claimed(message, held.message_id, held.receipt, held.attempt, held.lease_expires_at, fields, held.reported)


def info(me: Identity) -> Call[replies.Info]:
    """Return the relay's facts, counts and limits."""
    return simple_call(paths.INFO)


def health(me: Identity) -> Call[replies.Health]:
    """Tell whether the relay takes work."""
    return simple_call(paths.HEALTH)


def register(
    me: Identity,
    name: str | None = None,
    *,
    capabilities: Sequence[str] | None = None,
    description: str | None = None,
    machine: str | None = None,
    subscriptions: Sequence[str] | None = None,
    claim: bool = True,
    notices: bool | None = None,
    key: str | None = None,
) -> Call[replies.Registered]:
    """Register this agent, or resume it if the client knows its id; the client acts as it from then on.

    A claimed agent (the default) gets an agent key. Without it no client can read its mailbox or use its name. A client
    with a key keeps it, also if the relay has forgotten the agent. ``subscriptions`` are patterns of the topics whose
    broadcasts it gets: ``research``, ``build.*``, ``*`` for all. With ``notices`` it hears which agents join and leave,
    and of each change of a file.
    """

    def learn(me: Identity, done: replies.Registered) -> None:
        me.agent_id = done.agent.agent_id
        me.agent_key = done.agent_key or me.agent_key
        me.relay_key = done.relay_key or me.relay_key

    ask = requests.Register(
        agent_id=me.agent_id,
        name=name,
        capabilities=several(capabilities, "capabilities"),
        machine=machine,
        description=description,
        claim=claim,
        subscriptions=several(subscriptions, "subscriptions"),
        notices=notices,
        idempotency_key=repeat_key(key),
    )
    return simple_call(paths.REGISTER, ask, learn=learn)


def discover(
    me: Identity,
    *,
    capability: str | None = None,
    name: str | None = None,
    status: str = "online",
    limit: int | None = None,
    after: str | None = None,
) -> Call[replies.Discovered]:
    """List agents by capability, name and status: online, stale or all.

    All of them come, in as many calls as that takes; with a ``limit`` one page, which may be short. ``after`` is the
    ``next`` of the page before, None at the end.
    """
    query = {"capability": capability, "name": name, "status": status, "limit": limit, "after": after}
    return simple_call(paths.DISCOVER, query=query) if limit is not None else _discover_on(query, [])


def _discover_on(query: dict[str, Any], before: list[replies.ListedAgent]) -> Call[replies.Discovered]:
    """List a page of agents behind those that came ``before``, and then the others."""

    def read(body: bytes) -> replies.Discovered:
        page: replies.Discovered = _readers[paths.DISCOVER.name](body)
        agents = before + page.agents
        return msgspec.structs.replace(page, agents=agents, count=len(agents))

    def follow(found: replies.Discovered) -> Call[replies.Discovered] | None:
        return None if found.next is None else _discover_on({**query, "after": found.next}, found.agents)

    page = simple_call(paths.DISCOVER, query={**query, "limit": MAX_LIST_LENGTH}, read=read)
    return dataclasses.replace(page, follow=follow)


def heartbeat(me: Identity) -> Call[replies.Beat]:
    """Show a sign of life."""
    return simple_call(paths.HEARTBEAT, requests.Heartbeat(me.require()))


def leave(me: Identity) -> Call[replies.Left]:
    """Leave the relay. Messages still in the mailbox expire; tasks wait a while for the agent to come back."""
    return simple_call(paths.LEAVE, agent_id=me.require(), repeatable=False)


def kick(me: Identity, agent: str) -> Call[replies.Left]:
    """Remove another agent, of that id or name. The client's token must be the relay's admin token.

    Its name is free then, and its tasks go on as if it had left.
    """
    return simple_call(paths.KICK, requests.Kick(agent), repeatable=False)


def delegate(
    me: Identity,
    to: str | None = None,
    task: str | None = None,
    *,
    capability: str | Sequence[str] | None = None,
    to_any_of: Sequence[str] | None = None,
    context: Any = None,
    priority: str = "normal",
    deadline: float | None = None,
    parent_task: str | None = None,
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.Delegated]:
    """Delegate a task ``to`` an agent by id or name, or to the first agent of a pool that claims it.

    The pool has the agents with the ``capability`` (with all of a list), or those of ``to_any_of``, or both.
    ``deadline`` is in seconds from now. ``parent_task`` is the task for which this one is done. ``attachments`` are
    shared files for it, as ``attach`` returns them.
    """
    ask = {
        "from_agent": me.require(),
        "to_agent": to,
        "task": task,
        "context": plain({} if context is None else context, "context"),
        "priority": priority,
        "capability": capability if capability is None or isinstance(capability, str) else list(capability),
        "to_any_of": several(to_any_of, "to_any_of"),
        "deadline": deadline,
        "parent_task": parent_task,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.DELEGATE, checked(ask, requests.Delegate))


def respond(
    me: Identity,
    message_id: str,
    result: Any = None,
    *,
    status: str = "completed",
    progress: float | None = None,
    note: str | None = None,
    receipt: str | None = None,
    to: str | None = None,
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.ResponseSent]:
    """Answer a task, or report on it: in_progress, input_required, completed, failed, rejected.

    ``progress`` is in percent. With the ``receipt`` of a claim, the relay refuses with LeaseLost if the task was
    claimed again since, also by the same agent. ``attachments`` are those of ``delegate``.
    """
    reported_as(status, free=me.agent_key is None and receipt is None)
    ask = {
        "from_agent": me.require(),
        "message_id": message_id,
        "result": plain(result, "result"),
        "status": status,
        "progress": progress,
        "note": note,
        "receipt": receipt,
        "to_agent": to,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.RESPOND, checked(ask, requests.Respond))


def tasks(
    me: Identity,
    *,
    requester: str | None = None,
    assignee: str | None = None,
    status: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[replies.TaskList]:
    """List this agent's tasks, by state and the newest first; ``after`` is the ``next`` of the reply before.

    ``requester`` and ``assignee`` are agent ids, one of them this agent's. ``status`` is a state, open or final.
    """
    query = {
        "agent_id": me.require(),
        "requester": requester,
        "assignee": assignee,
        "status": status,
        "limit": limit,
        "after": after,
    }
    return simple_call(paths.TASKS, query=query)


def task(me: Identity, task_id: str, *, wait: float = 0.0, since: int | None = None) -> Call[replies.TaskView]:
    """Return a task that this agent delegated or was given.

    With ``wait``, in seconds, it returns once the task has changed since version ``since``, or without ``since`` once
    it is final.
    """
    wait = number_of_seconds(wait, "wait")
    query = {"agent_id": me.require(), "wait": wait or None, "since": since}
    return simple_call(paths.TASK, query=query, wait=wait, task_id=task_id)


def cancel(me: Identity, task_id: str, *, note: str | None = None) -> Call[replies.Cancelled]:
    """Take a task back for good. Its assignee is told, if it has fetched it."""
    ask = {"from_agent": me.require(), "note": note}
    return simple_call(paths.CANCEL, checked(ask, requests.Cancel), task_id=task_id)


def answer(me: Identity, task_id: str, content: Any, *, key: str | None = None) -> Call[replies.Answered]:
    """Answer a question of a task's assignee (``input_required``), so that the work goes on."""
    ask = {"from_agent": me.require(), "content": plain(content, "content"), "idempotency_key": repeat_key(key)}
    return simple_call(paths.ANSWER, checked(ask, requests.Answer), task_id=task_id)


def send(
    me: Identity,
    to: str,
    content: Any,
    *,
    in_reply_to: str | None = None,
    thread: str | None = None,
    parent_task: str | None = None,
    priority: str = "normal",
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.Sent]:
    """Send a plain message to an agent by id or name. ``parent_task`` is the task that it is sent for.

    ``attachments`` are those of ``delegate``.
    """
    ask = {
        "from_agent": me.require(),
        "to_agent": to,
        "content": plain(content, "content"),
        "in_reply_to": in_reply_to,
        "thread": thread,
        "parent_task": parent_task,
        "priority": priority,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.SEND, checked(ask, requests.Send))


def broadcast(
    me: Identity,
    content: str,
    *,
    topic: str = "general",
    tags: Sequence[str] = (),
    ttl: float | None = None,
    parent_task: str | None = None,
    key: str | None = None,
) -> Call[replies.BroadcastSent]:
    """Tell each other agent that subscribes to the topic.

    After ``ttl`` seconds the relay delivers it to no more agents.
    """
    ask = {
        "from_agent": me.require(),
        "content": content,
        "topic": topic,
        "tags": several(tags, "tags"),
        "ttl": ttl,
        "parent_task": parent_task,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.BROADCAST, checked(ask, requests.Broadcast))


def knowledge(
    me: Identity,
    *,
    topic: str | None = None,
    tag: str | None = None,
    author: str | None = None,
    since: float | str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[replies.KnowledgeList[KnowledgeBroadcast]]:
    """List what was broadcast and is still held, the newest first; ``after`` is the ``next`` of the reply before.

    ``topic`` may be a pattern, ``author`` is an agent id, ``since`` a time in ISO-8601 or in seconds since the epoch.
    """
    query = {"topic": topic, "tag": tag, "author": author, "since": since, "limit": limit, "after": after}
    return simple_call(paths.KNOWLEDGE, query=query, read=_read_knowledge)


def poll(
    me: Identity,
    *,
    wait: float = 0.0,
    max: int | None = None,
    lease: float = 60.0,
    ack: Sequence[str] = (),
    nack: Sequence[str] = (),
    delay: float = 0.0,
) -> Call[Batch]:
    """Claim up to ``max`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

    A message without an ack before the end of its lease is handed out again. A poll can carry receipts of earlier
    messages: ``ack`` settles them and ``nack`` gives them back, due again after ``delay`` seconds, before the wait
    begins. This saves the requests of ``client.ack`` and ``client.nack``. The list that comes back has their
    ``results``.
    """
    wait = number_of_seconds(wait, "wait")
    most = None if max is None else min(max, MAX_POLL_MESSAGES)
    ack, nack = several(ack, "ack"), several(nack, "nack")
    if not (ack or nack):
        return _poll_alone(me, wait, most, lease, ())
    ask = {"ack": ack, "nack": nack, "delay": delay, "wait": wait, "max": most, "lease": lease}
    body = checked(ask, requests.PollAndAck)

    def otherwise(error: ClawLinkError) -> Call[Any] | None:
        if not isinstance(error, MethodNotAllowed | UnknownRoute):
            return None
        me.acks_apart = True
        return _apart(me, body)

    def read(reply: bytes) -> Batch:
        polled = _read_polled_and_acked(reply)
        return _batch(polled.messages, polled.deliveries, polled.results)

    if me.acks_apart:
        return _apart(me, body)
    call = simple_call(paths.POLL_AND_ACK, body, read=read, wait=wait, agent_id=me.require())
    return dataclasses.replace(call, otherwise=otherwise)


def _poll_alone(
    me: Identity, wait: float, most: int | None, lease: float | None, results: Sequence[replies.Settled]
) -> Call[Batch]:
    def read(body: bytes) -> Batch:
        polled = _read_polled(body)
        return _batch(polled.messages, polled.deliveries, results)

    query = {"wait": wait, "max": most, "lease": lease}
    return simple_call(paths.POLL, query=query, read=read, wait=wait, agent_id=me.require())


def _batch(
    messages: Sequence[msgspec.Raw], deliveries: Sequence[replies.Lease], results: Sequence[replies.Settled]
) -> Batch:
    batch = Batch(claimed(raw, held) for raw, held in zip(messages, deliveries, strict=True))
    batch.results = results
    return batch


def _apart(me: Identity, asked: requests.PollAndAck) -> Call[Batch]:
    """Do the same in a request each, for a relay that does not take receipts with a poll."""
    settle = [ack(me, asked.ack)] if asked.ack else []
    settle += [nack(me, asked.nack, delay=asked.delay)] if asked.nack else []
    return _one_by_one(settle, (), lambda results: _poll_alone(me, asked.wait, asked.max, asked.lease, results))


def _one_by_one(
    settle: Sequence[Call[replies.Receipted]],
    results: Sequence[replies.Settled],
    then: Callable[[Sequence[replies.Settled]], Call[Any]],
) -> Call[Any]:
    """Return a call that settles receipts in one request after the other, and collects all results."""
    if not settle:
        return then(results)
    return dataclasses.replace(settle[0], follow=lambda done: _one_by_one(settle[1:], [*results, *done.results], then))


def ack(me: Identity, receipts: Sequence[str] = (), *, tasks: Sequence[str] = ()) -> Call[replies.Receipted]:
    """Settle leased messages, and messages about the end of ``tasks``, by ids of tasks that this agent delegated.

    An agent that has read a result with ``task`` or ``wait_for`` names the task, and ``poll`` does not bring it again.
    """
    ask = {
        "agent_id": me.require(),
        "receipts": several(receipts, "receipts") or None,
        "tasks": several(tasks, "tasks") or None,
    }
    return simple_call(paths.ACK, checked(ask, requests.Ack))


def nack(me: Identity, receipts: Sequence[str], *, delay: float = 0.0) -> Call[replies.Receipted]:
    """Give leased messages back, to be due again after ``delay`` seconds."""
    return simple_call(paths.NACK, requests.Nack(me.require(), several(receipts, "receipts"), delay))


def extend(me: Identity, receipts: Sequence[str], *, lease: float = 60.0) -> Call[replies.Receipted]:
    """Lengthen leases to ``lease`` seconds from now."""
    return simple_call(paths.EXTEND, requests.Extend(me.require(), several(receipts, "receipts"), lease))


def dead_letters(me: Identity, *, limit: int = 100, after: str | None = None) -> Call[list[DeadLetter]]:
    """List the messages that were handed out too often, oldest first."""

    def read(body: bytes) -> list[DeadLetter]:
        found = []
        for letter in _read_dead(body).dead_letters:
            message, fields = _message(letter.message)
            found.append(
                DeadLetter(
                    message,
                    letter.message_id,
                    letter.from_agent,
                    letter.attempts,
                    letter.stored_at,
                    letter.dead_at,
                    letter.kept_until,
                    fields,
                )
            )
        return found

    query = {"limit": limit, "after": after}
    return simple_call(paths.DEAD_LETTERS, query=query, read=read, agent_id=me.require())


def redrive(me: Identity, message_ids: Sequence[str] | None = None) -> Call[replies.Redriven]:
    """Put the named dead letters back, or all."""
    return simple_call(paths.REDRIVE, requests.Redrive(me.require(), several(message_ids, "message_ids")))


def message(me: Identity, message_id: str, *, wait: float = 0.0, until: str = "acked") -> Call[replies.MessageStatus]:
    """Tell how far a message came that this agent sent or was sent.

    With ``wait``, in seconds, once it is ``until`` (delivered, acked, answered), or will not be any more.
    """
    checked({"until": until}, requests.MessageQuery)
    wait = number_of_seconds(wait, "wait")
    query = {"agent_id": me.require(), "wait": wait or None, "until": until if wait else None}
    return simple_call(paths.MESSAGE, query=query, wait=wait, message_id=message_id)


def unread(
    me: Identity, *, wait: float = 0.0, since: int | None = None, limit: int = 20, words: int = 0
) -> Call[replies.Unread]:
    """Show what waits in this agent's mailbox. It leases nothing, and is no sign of life.

    With ``wait``, in seconds, once a message is newer than ``since``, the ``latest`` of the look before. ``words``
    is the number of first characters that it shows of each text.
    """
    wait = number_of_seconds(wait, "wait")
    query = {"wait": wait or None, "since": since, "limit": limit, "words": words or None}
    return simple_call(paths.UNREAD, query=query, wait=wait, agent_id=me.require())


def woken(
    me: Identity, message_id: str, adapter: str, result: str, *, note: str | None = None, key: str | None = None
) -> Call[replies.WakeStored]:
    """Store that this agent's program tried to wake it for a message: started, queued, failed or given_up."""
    ask = {
        "agent_id": me.require(),
        "adapter": adapter,
        "result": result,
        "note": note,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.WOKEN, checked(ask, requests.Woken), message_id=message_id)


def find_ids(me: Identity, beginning: str) -> Call[replies.FoundIds]:
    """Find the tasks, messages and broadcasts of this agent whose ids begin with these 4 to 24 hexadecimal digits."""
    return simple_call(paths.FIND_IDS, query={"agent_id": me.require()}, beginning=beginning)


def metrics(me: Identity) -> Call[str]:
    """Return the relay's counters as Prometheus text."""
    return simple_call(paths.METRICS, read=bytes.decode)


def openapi(me: Identity) -> Call[dict[str, Any]]:
    """Return the relay's interface as an OpenAPI document."""
    return simple_call(paths.OPENAPI, read=_read_object)


@overload
def several(given: None, field: str) -> None: ...
@overload
def several(given: Iterable[T], field: str) -> list[T]: ...
def several(given: Iterable[T] | None, field: str) -> list[T] | None:
    """Return the values as a list. Raises BadRequest for a single string, which would become a list of its letters."""
    if isinstance(given, str | bytes):
        raise BadRequest(f"{field} takes a list, and this is one string: {given!r}; put it into brackets", field=field)
    return None if given is None else list(given)


def plain(value: Any, field: str) -> Any:
    """Return a value that JSON can carry. Raises BadRequest for a value that would arrive changed: NaN, sets, bytes."""
    try:
        json.dumps(value, allow_nan=False, default=_builtins)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{field} must be JSON: {error}", field=field) from None
    return value


def _builtins(value: Any) -> Any:
    if isinstance(value, set | frozenset | bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is no type of JSON; make a list or a string of it")
    return msgspec.to_builtins(value)


def number_of_seconds(value: Any, field: str) -> float:
    """Return a length of time in seconds. Raises BadRequest for a value that is no number, NaN too."""
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise BadRequest(f"{field} takes a number of seconds, not {value!r}", field=field)
    return value


def checked(ask: dict[str, Any], kind: type[T]) -> T:
    """Make the request's struct as the relay would read it, so that a mistake is told before anything is sent."""
    try:
        return msgspec.convert(ask, kind)
    except msgspec.ValidationError as error:
        raise bad_field(error) from None
