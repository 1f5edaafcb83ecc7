"""A sender or a worker in a process of its own, which may be killed at any moment and goes on from its journal.

``python -m tests.torture.agent KIND NAME JOURNAL URLS`` is an agent of that kind, whose identity is kept in
CLAWLINK_HOME. ``URLS`` are the relays, separated by commas. Senders get ``PEACE WORKERS`` besides: they delegate until
there is a file PEACE, and end when all of their tasks are answered. Workers never end. Each line of a journal is a fact
that the relay has answered, or a request that has begun.

- ``poll-sender`` and ``poll-worker`` send requests of their own making;
- ``stream-sender`` has a websocket, writes down what it is told, and acks it then;
- ``link-sender`` and ``link-worker`` are links;
- ``command-worker`` is ``clawlink work``, which runs a command for each task.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clawlink import AsyncClient, Link
from clawlink.cli.exits import Exit
from clawlink.cli.main import main as clawlink
from clawlink.client.identity import Identities, home
from clawlink.client.link.delegation import Delegation
from clawlink.client.link.pending import Pending
from clawlink.client.link.task import Task
from clawlink.client.stream import NoWebsocket, Stream
from clawlink.domain.access import KEY_HEADER
from clawlink.domain.message import TaskResponse
from clawlink.errors import ClawLinkError, StorageFull
from clawlink.protocol.replies import TaskView

POLL_SENDER, STREAM_SENDER, LINK_SENDER = SENDERS = "poll-sender", "stream-sender", "link-sender"
POLL_WORKER, LINK_WORKER, COMMAND_WORKER = WORKERS = "poll-worker", "link-worker", "command-worker"

LEASE_SECONDS = 5  # the shortest there is
MOST_OPEN = 20  # tasks of a sender
_PAUSE_SECONDS = 0.02
_ANSWER_SECONDS = 6.0
_MOST_WORK_SECONDS = 0.05
_CREDIT = 8
# A task of ``clawlink work``: it is written down, and answered as ``result_of`` has it.
_COMMAND = """
import hashlib, json, os, sys
task = json.load(sys.stdin)
journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
os.write(journal, f"worked {task['message_id']}\\n".encode())
print(hashlib.sha256(task["task"].encode()).hexdigest()[:16])
"""

BEGUN, ACCEPTED, WORKED, ANSWERED, GOT, ACKED, WRONG = (
    "begun", "accepted", "worked", "answered", "got", "acked", "wrong",
)  # fmt: skip


class Journal:
    """Facts in the order in which they happened. A killed process loses none of those that it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._receipts: set[str] = set()

    def say(self, *words: str) -> None:
        """Write a fact down."""
        os.write(self._file, (" ".join(words) + "\n").encode())

    def claimed(self, receipt: str) -> None:
        """Note a receipt. No relay tells one twice."""
        if receipt in self._receipts:
            self.say(WRONG, f"{receipt} came twice")
        self._receipts.add(receipt)

    def facts(self, kind: str) -> Iterator[list[str]]:
        """Return the words of the facts of a kind."""
        for line in self.path.read_text().splitlines():
            words = line.split(" ")
            if words[0] == kind:
                yield words[1:]


class Relay:
    """Asks one of several relays, and the next one without an answer, until there is one.

    That a relay is away (503) or its disk full (507) is no answer.
    """

    def __init__(self, urls: Sequence[str], agent_key: str | None = None) -> None:
        self._headers = {"Content-Type": "application/json", **({KEY_HEADER: agent_key} if agent_key else {})}
        self._places = [urlsplit(url).netloc for url in urls]
        self._open: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request word for word until it is answered."""
        data = None if body is None else json.dumps(body)
        while True:
            try:
                if self._open is None:
                    self._open = http.client.HTTPConnection(self._places[0], timeout=_ANSWER_SECONDS)
                self._open.request(method, path, data, self._headers)
                response = self._open.getresponse()
                status, reply = response.status, json.loads(response.read())
                if status not in (503, 507):
                    return status, reply
            except (OSError, http.client.HTTPException, ValueError):
                pass
            if self._open is not None:
                self._open.close()
            self._open = None
            self._places.append(self._places.pop(0))
            time.sleep(_PAUSE_SECONDS)


def poll(relay: Relay, name: str, receipts: list[str], wait: float) -> Any:
    """Ack what was done, and claim what comes next."""
    body = {"ack": receipts, "wait": wait, "max": 3, "lease": LEASE_SECONDS}
    status, reply = relay.ask("POST", f"/poll/{name}", body)
    if status != 200:
        raise RuntimeError(f"poll {name}: {status} {reply}")
    return reply


def result_of(task: str) -> str:
    """Return the answer to a task: the same whoever works, and however often."""
    return hashlib.sha256(task.encode()).hexdigest()[:16]


class Sender:
    """The tasks of a sender, as it knows them from its journal."""

    def __init__(self, journal: Journal, name: str, peace: Path, workers: Sequence[str]) -> None:
        self.name = name
        self._journal = journal
        self._peace = peace
        self._workers = workers
        self._got = {response for _, response, *_ in journal.facts(GOT)}
        self.acked = {response for (response,) in journal.facts(ACKED)}
        self._answered = {task for task, *_ in journal.facts(GOT)}
        self.open = {task for _, task, _ in journal.facts(ACCEPTED)} - self._answered
        self._n = len(list(journal.facts(ACCEPTED)))
        self._is_begun = len(list(journal.facts(BEGUN))) > self._n

    @property
    def in_peace(self) -> bool:
        """Return True once no more tasks are to be delegated."""
        return self._peace.exists()

    @property
    def is_done(self) -> bool:
        """Return True in peace, once all tasks are answered."""
        return not self.open and not self._is_begun and self.in_peace

    def next(self) -> tuple[str, str] | None:
        """Return the worker and the key of the next task. None if enough are open, and in peace.

        A relay may have a task that it was asked for: until it has answered, the next task is the same.
        """
        key = f"{self.name}-{self._n}"
        if not self._is_begun:
            if len(self.open) >= MOST_OPEN or self.in_peace:
                return None
            self._journal.say(BEGUN, key)
            self._is_begun = True
        return self._workers[int(result_of(key), 16) % len(self._workers)], key

    def accepted(self, key: str, task: str) -> None:
        """Write down that the relay has the next task."""
        self._journal.say(ACCEPTED, key, task, f"{time.time():.3f}")
        if task not in self._answered:  # the answer may come before the reply
            self.open.add(task)
        self._n += 1
        self._is_begun = False

    def got(self, task: str, response: str, result: Any) -> None:
        """Write an answer down, if it is new."""
        if response in self.acked:
            self._journal.say(WRONG, f"{self.name} got {response} again, which it had acked")
        if response not in self._got:
            self._journal.say(GOT, task, response, json.dumps(result))
            self._got.add(response)
        self._answered.add(task)
        self.open.discard(task)

    def ack(self, response: str) -> None:
        """Write down that the relay has taken the ack of an answer."""
        self._journal.say(ACKED, response)
        self.acked.add(response)

    def wrong(self, what: object) -> None:
        """Write a fault down."""
        self._journal.say(WRONG, f"{self.name}: {what}")


def send(relay: Relay, journal: Journal, sender: Sender) -> None:
    """Delegate tasks and read the answers until there is peace, and then until all are answered."""
    receipts: dict[str, str] = {}
    while receipts or not sender.is_done:
        if following := sender.next():
            to, key = following
            ask = {"from_agent": sender.name, "to_agent": to, "task": key, "idempotency_key": key}
            status, reply = relay.ask("POST", "/delegate", ask)
            if status != 200:
                sender.wrong(f"delegate {key}: {status} {reply}")
                return
            sender.accepted(key, reply["message_id"])
        wait = 0.3 if sender.in_peace or len(sender.open) >= MOST_OPEN else 0
        reply = poll(relay, sender.name, list(receipts), wait)
        for receipt, result in zip(receipts, reply["results"], strict=True):
            if result["status"] == "acked":
                sender.ack(receipts[receipt])
        receipts = {}
        for message, lease in zip(reply["messages"], reply["deliveries"], strict=True):
            response = message.get("response_id")
            if message["type"] != "task_response" or message["status"] != "completed":
                sender.wrong(f"got {message}")
                return
            journal.claimed(lease["receipt"])
            sender.got(message["message_id"], response, message["result"])
            receipts[lease["receipt"]] = response


async def send_by_stream(client: AsyncClient, journal: Journal, sender: Sender) -> None:
    """Do the same over a websocket, and over the next one once that has ended."""
    while not sender.is_done:
        try:
            async with client.stream(lease=LEASE_SECONDS, credit=_CREDIT) as stream:
                ways = [
                    asyncio.create_task(_delegate_by(stream, sender)),
                    asyncio.create_task(_read_from(stream, journal, sender)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                for end in await asyncio.gather(*ways, return_exceptions=True):
                    if isinstance(end, Exception):
                        raise end
        except ClawLinkError as error:
            if not error.retryable and not isinstance(error, NoWebsocket | StorageFull):
                sender.wrong(repr(error))
                return
            with contextlib.suppress(ClawLinkError):
                await client.heartbeat()  # of another relay, if that one is away
            await asyncio.sleep(_PAUSE_SECONDS)


async def _delegate_by(stream: Stream, sender: Sender) -> None:
    while not sender.is_done:
        if following := sender.next():
            to, key = following
            sender.accepted(key, (await stream.delegate(to, key, key=key)).message_id)
        else:
            await asyncio.sleep(_PAUSE_SECONDS)


async def _read_from(stream: Stream, journal: Journal, sender: Sender) -> None:
    async for claimed in stream:
        message = claimed.message
        if not isinstance(message, TaskResponse) or message.status != "completed":
            sender.wrong(f"got {message}")
            continue
        journal.claimed(claimed.receipt)
        response = claimed.raw["response_id"]
        sender.got(message.message_id, response, message.result)
        if (await stream.ack([claimed.receipt])).count:
            sender.ack(response)


def send_by_link(link: Link, sender: Sender) -> None:
    """Do the same by a link, which acks by itself. What was delegated before is asked for, as programs do."""
    with link:
        delegated: dict[str, Delegation] = {}
        asked: dict[str, Pending[TaskView]] = {}
        while not sender.is_done:
            if following := sender.next():
                to, key = following
                delegation = link.delegate(to, key, key=key)
                task = delegation.receipt.result().message_id
                sender.accepted(key, task)
                delegated[task] = delegation
            else:
                time.sleep(_PAUSE_SECONDS)
            for task in [task for task, delegation in delegated.items() if delegation.done()]:
                sender.got(task, task, delegated.pop(task).result())
            for task in sender.open - delegated.keys() - asked.keys():
                asked[task] = link.task(task, wait=LEASE_SECONDS)
            for task in [task for task, view in asked.items() if view.done()]:
                with contextlib.suppress(ClawLinkError):  # the relay is away
                    view = asked.pop(task).result()
                    if view.status == "completed":
                        sender.got(task, task, view.result)


def work(relay: Relay, journal: Journal, name: str) -> None:
    """Answer tasks, for ever. Each takes a moment, in which the worker may be killed."""
    dice = random.Random()
    receipts: list[str] = []
    while True:
        reply = poll(relay, name, receipts, 1)
        receipts = []
        for message, lease in zip(reply["messages"], reply["deliveries"], strict=True):
            task, key = message["message_id"], message["task"]
            journal.claimed(lease["receipt"])
            journal.say(WORKED, task)
            time.sleep(dice.uniform(0, _MOST_WORK_SECONDS))
            answer = {"from_agent": name, "message_id": task, "result": result_of(key), "receipt": lease["receipt"]}
            status, told = relay.ask("POST", "/respond", answer)
            if status == 200:
                journal.say(ANSWERED, task)
            elif status != 409:  # its lease ended meanwhile, and the task is due again
                journal.say(WRONG, f"respond {task}: {status} {told}")
            receipts.append(lease["receipt"])


def work_by_link(link: Link, journal: Journal) -> None:
    """Do the same by a link."""

    @link.on_task
    def do(task: Task) -> str:
        journal.say(WORKED, task.id)
        task.when_over(lambda status, _: journal.say(ANSWERED, task.id) if status == "completed" else None)
        time.sleep(random.uniform(0, _MOST_WORK_SECONDS))
        return result_of(task.text)

    link.run()


def work_by_command(urls: str, journal: Journal, name: str) -> int:
    """Do the same by the command line."""
    command = shlex.join([sys.executable, "-I", "-S", "-c", _COMMAND, str(journal.path)])
    return clawlink(["work", "--name", name, "--relay", urls, "--exec", command])


def key_of(name: str) -> str | None:
    """Return the key of an agent of this account."""
    return next(saved.agent_key for saved in Identities(home()).all() if saved.name == name)


async def _stream(urls: str, journal: Journal, sender: Sender) -> None:
    name = sender.name
    async with AsyncClient(urls, agent_id=name, agent_key=key_of(name), timeout=_ANSWER_SECONDS) as client:
        await send_by_stream(client, journal, sender)


def main() -> int:
    """Run from the command line. Return the exit code of the command line, if a link cannot begin."""
    kind, name, path, urls, *rest = sys.argv[1:]
    journal = Journal(Path(path))
    if kind == COMMAND_WORKER:
        return work_by_command(urls, journal, name)
    relay = Relay(urls.split(","), key_of(name))
    if kind == POLL_WORKER:
        work(relay, journal, name)
    try:
        link = Link(name, relay=urls, lease=LEASE_SECONDS, timeout=_ANSWER_SECONDS)
        if kind == LINK_WORKER:
            work_by_link(link, journal)
            return Exit.DONE
        peace, workers = rest
        sender = Sender(journal, name, Path(peace), workers.split(","))
        if kind == POLL_SENDER:
            send(relay, journal, sender)
        elif kind == STREAM_SENDER:
            asyncio.run(_stream(urls, journal, sender))
        else:
            send_by_link(link, sender)
    except ClawLinkError as error:
        print(f"{name} ended: {error!r}", file=sys.stderr)
        return Exit.UNREACHABLE if error.retryable or isinstance(error, StorageFull) else Exit.FAILED
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
