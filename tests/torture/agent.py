"""A sender or a worker in a process of its own, which may be killed at any moment and goes on from its journal.

``python -m tests.torture.agent sender NAME JOURNAL PEACE WORKERS URL...`` delegates until there is a file PEACE, and
ends when all of its tasks are answered. ``worker NAME JOURNAL URL...`` never ends. Each line of a journal is a fact
that the relay has answered.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LEASE_SECONDS = 5  # the shortest there is
MOST_OPEN = 20  # tasks of a sender
_PAUSE_SECONDS = 0.02
_ANSWER_SECONDS = 6.0
_MOST_WORK_SECONDS = 0.05

ACCEPTED, WORKED, ANSWERED, GOT, ACKED, WRONG = "accepted", "worked", "answered", "got", "acked", "wrong"


class Journal:
    """Facts in the order in which they happened. A killed process loses none of those that it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, *words: str) -> None:
        """Write a fact down."""
        os.write(self._file, (" ".join(words) + "\n").encode())

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

    def __init__(self, urls: list[str]) -> None:
        self._places = [urlsplit(url).netloc for url in urls]
        self._open: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request word for word until it is answered."""
        data = None if body is None else json.dumps(body)
        while True:
            try:
                if self._open is None:
                    self._open = http.client.HTTPConnection(self._places[0], timeout=_ANSWER_SECONDS)
                self._open.request(method, path, data, {"Content-Type": "application/json"})
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


def send(relay: Relay, journal: Journal, name: str, peace: Path, workers: list[str]) -> None:
    """Delegate tasks and read the answers until there is peace, and then until all are answered."""
    open_tasks = {task for _, task, _ in journal.facts(ACCEPTED)} - {task for task, *_ in journal.facts(GOT)}
    got = {response for _, response, *_ in journal.facts(GOT)}
    acked = {response for (response,) in journal.facts(ACKED)}
    receipts: dict[str, str] = {}
    n = len(list(journal.facts(ACCEPTED)))
    while open_tasks or receipts or not peace.exists():
        if len(open_tasks) < MOST_OPEN and not peace.exists():
            key = f"{name}-{n}"
            to = workers[int(result_of(key), 16) % len(workers)]
            ask = {"from_agent": name, "to_agent": to, "task": key, "idempotency_key": key}
            status, reply = relay.ask("POST", "/delegate", ask)
            if status != 200:
                journal.say(WRONG, f"delegate {key}: {status} {reply}")
                return
            journal.say(ACCEPTED, key, reply["message_id"], f"{time.time():.3f}")
            open_tasks.add(reply["message_id"])
            n += 1
        reply = poll(relay, name, list(receipts), 0.3 if peace.exists() or len(open_tasks) >= MOST_OPEN else 0)
        for receipt, result in zip(receipts, reply["results"], strict=True):
            if result["status"] == "acked":
                journal.say(ACKED, receipts[receipt])
                acked.add(receipts[receipt])
        receipts = {}
        for message, lease in zip(reply["messages"], reply["deliveries"], strict=True):
            response = message.get("response_id")
            if message["type"] != "task_response" or message["status"] != "completed":
                journal.say(WRONG, f"{name} got {message}")
                return
            if response in acked:
                journal.say(WRONG, f"{name} got {response} again, which it had acked")
            if response not in got:
                journal.say(GOT, message["message_id"], response, json.dumps(message["result"]))
                got.add(response)
            open_tasks.discard(message["message_id"])
            receipts[lease["receipt"]] = response


def work(relay: Relay, journal: Journal, name: str) -> None:
    """Answer tasks, for ever. Each takes a moment, in which the worker may be killed."""
    dice = random.Random()
    receipts: list[str] = []
    while True:
        reply = poll(relay, name, receipts, 1)
        receipts = []
        for message, lease in zip(reply["messages"], reply["deliveries"], strict=True):
            task, key = message["message_id"], message["task"]
            journal.say(WORKED, task)
            time.sleep(dice.uniform(0, _MOST_WORK_SECONDS))
            answer = {"from_agent": name, "message_id": task, "result": result_of(key), "receipt": lease["receipt"]}
            status, told = relay.ask("POST", "/respond", answer)
            if status == 200:
                journal.say(ANSWERED, task)
            elif status != 409:  # its lease ended meanwhile, and the task is due again
                journal.say(WRONG, f"respond {task}: {status} {told}")
            receipts.append(lease["receipt"])


def main() -> None:
    """Run from the command line."""
    kind, name, path, *rest = sys.argv[1:]
    journal = Journal(Path(path))
    if kind == "sender":
        peace, workers, *urls = rest
        send(Relay(urls), journal, name, Path(peace), workers.split(","))
    else:
        work(Relay(rest), journal, name)


if __name__ == "__main__":
    main()
