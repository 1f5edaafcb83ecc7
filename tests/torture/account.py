"""The account of every message, after a storm: from the journals of the agents, and from the relay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.torture.agent import ACCEPTED, ACKED, ANSWERED, GOT, WORKED, WRONG, Journal, Relay, result_of


class Account:
    """A comparison. ``lost`` are answered requests that left nothing, ``wrong`` is all else, as doubled answers.

    ``late`` is what was lost though no server had lost anything in the moments before: none of ``losses``, which are
    pairs of times.
    """

    def __init__(
        self,
        relays: Mapping[str, Relay],
        journals: Mapping[str, Path],
        losses: Sequence[tuple[float, float]] = (),
    ) -> None:
        """``relays`` ask as these agents."""
        self._relays = relays
        self._journals = journals
        self._losses = losses
        self.late: list[str] = []
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def _facts(self, name: str, kind: str) -> Iterator[list[str]]:
        return Journal(self._journals[name]).facts(kind)

    def take(self, senders: Sequence[str], workers: Sequence[str]) -> None:
        """Count, and compare. Raises RuntimeError if the relay does not tell its tasks."""
        for name in self._journals:
            self.wrong += [" ".join(words) for words in self._facts(name, WRONG)]
        worked = [task for name in workers for (task,) in self._facts(name, WORKED)]
        by_workers = {task for name in workers for (task,) in self._facts(name, ANSWERED)}
        self.counts["worked"] += len(worked)
        for name in senders:
            self._take(name, by_workers)

    def _take(self, name: str, by_workers: set[str]) -> None:
        told = [(key, task, float(at)) for key, task, at in self._facts(name, ACCEPTED)]
        accepted = {task: key for key, task, _ in told}
        if len(accepted) != len(told) or len(set(accepted.values())) != len(told):
            self.wrong.append(f"{name} was told of two tasks for one key, or of one task twice")
        got = [(task, json.loads(" ".join(result))) for task, _, *result in self._facts(name, GOT)]
        times = Counter(task for task, _ in got)
        self.wrong += [f"{name} got {n} answers to {task}" for task, n in times.items() if n != 1]
        for task, result in got:
            if task not in accepted:
                self.wrong.append(f"{name} got an answer to {task}, of which it was not told")
            elif result != result_of(accepted[task]):
                self.wrong.append(f"{name} got a wrong answer to {task}")
        known = dict(tasks(self._relays[name], name))
        for _, task, at in told:
            if task not in known:
                self.lost.append(f"{task} of {name}, which was accepted")
                if not any(begin <= at <= end for begin, end in self._losses):
                    self.late.append(f"{task} of {name}, which was accepted at {at}; losses {self._losses}")
            elif known[task] != "completed":
                kind = self.lost if task in by_workers else self.wrong
                kind.append(f"{task} of {name} is {known[task]}")
            elif task not in times:
                self.lost.append(f"the answer to {task} has not come to {name}")
        # A sender that is killed before it writes down what it was told asks again with the same key.
        self.wrong += [f"{name} knows nothing of {task}" for task in known if task not in accepted]
        acked = len(list(self._facts(name, ACKED)))
        self.counts.update(accepted=len(accepted), answered=len(times), acked=acked)


def tasks(relay: Relay, name: str) -> Iterator[tuple[str, str]]:
    """Return each task of a requester, and its status, as the relay has them."""
    after = ""
    while True:
        status, reply = relay.ask("GET", f"/tasks?agent_id={name}&requester={name}&limit=1000{after}")
        if status != 200:
            raise RuntimeError(f"the tasks of {name} cannot be listed: {reply}")
        for task in reply["tasks"]:
            yield task["task_id"], task["status"]
        if not reply.get("next"):
            return
        after = f"&after={reply['next']}"
