"""A worker process: claims tasks by capability, one at a time, works on each for a while, and answers it.

``python -m tests.system.worker URL AGENT_ID SECONDS LEASE`` works up to SECONDS on each task, which it claims for LEASE
seconds. On the task ``HELD`` it works until it reads a line from standard input. It says on standard output what it
does, a line each: ``claimed``, ``answered``, ``refused`` and ``stopped``, each with what it is about. It ends with code
3 when the relay does not answer, or takes no more work.
"""

from __future__ import annotations

import random
import sys
import time

from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.domain.message import TaskDelegation
from clawlink.errors import ClawLinkError, Conflicted

LEASE = 5.0  # the shortest there is
CAPABILITY = "count"
HELD = "until I say so"


def say(*words: str) -> None:
    print(*words, flush=True)


def work(client: Client, seconds: float, lease: float) -> None:
    """Take what comes, for ever."""
    while True:
        for got in client.poll(wait=30, max=1, lease=lease):
            if not isinstance(got.message, TaskDelegation):
                client.ack([got.receipt])
                continue
            say("claimed", got.message_id)
            try:
                client.respond(
                    got.message_id, status="in_progress", progress=50, note=str(client.agent_id), receipt=got.receipt
                )
                if got.message.task == HELD:
                    sys.stdin.readline()
                else:
                    time.sleep(random.uniform(0.3, 1.0) * seconds)
                client.respond(got.message_id, got.message.task, receipt=got.receipt)
            except Conflicted as error:
                say("refused", error.code)
            else:
                say("answered", got.message_id)


def main(url: str, agent_id: str, seconds: str, lease: str) -> int:
    with Client(url, agent_id=agent_id, timeout=60, backoff=Backoff(tries=2)) as client:
        try:
            client.register(agent_id, capabilities=[CAPABILITY], claim=False)
            work(client, float(seconds), float(lease))
        except ClawLinkError as error:
            say("stopped", error.code)
    return 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
