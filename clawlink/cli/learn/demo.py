"""``clawlink demo``: a relay and two agents in one terminal, and a task going through; needs and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, cast

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.calls import Claimed
    from clawlink.client.sync import Client
    from clawlink.domain.message import TaskDelegation
    from clawlink.protocol.mailbox_replies import MessageStatus

PAUSE_SECONDS = 0.4
_PATIENCE_SECONDS = 15.0
_LEASE_SECONDS = 30.0
_STYLES = {"relay": "dim", "ada": "cyan", "grace": "green"}
_TASK = "Summarise what a lease is, in one sentence."
_ANSWER = (
    "A lease holds a message for one reader for a while; unless it is acknowledged by then, it is handed out again."
)
_NEXT = (
    ("in one terminal", "clawlink serve"),
    ("in a second", "clawlink register grace --caps summarise"),
    ("", "clawlink poll --wait 60 --as grace"),
    ("in a third", "clawlink register ada"),
    ("", 'clawlink delegate grace "Summarise the news" --wait --as ada'),
)


def add(parser: ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument("--fast", action="store_true", help="without pauses for reading")


class Stage:
    """The output of both agents, one line at a time."""

    def __init__(self, ctx: Context, pause: float) -> None:
        self._ctx = ctx
        self._pause = pause
        self._lock = threading.Lock()

    def tell(self, who: str, what: str, text: str | None = None) -> None:
        """Show a step of an agent, with its text."""
        out = self._ctx.out
        with self._lock:
            if self._ctx.json:
                out.json({"who": who, "what": what, "text": text}, one_line=True)
            else:
                out.line(f"{who:<6} {what}", style=_STYLES[who])
                if text is not None:
                    out.quote(text, indent=7)
            out.flush()
            time.sleep(self._pause)


def run(args: Namespace, ctx: Context) -> Exit:
    """Play the piece. Identities are not kept: both agents live as long as it takes."""
    from clawlink.client.sync import Client

    stage = Stage(ctx, 0.0 if args.fast else PAUSE_SECONDS)
    with own_relay() as url, Client(url) as ada, Client(url) as grace:
        stage.tell("relay", f"listens on {url}, in a process of its own")
        status = _play(stage, ada, grace)
    if ctx.json:
        ctx.out.json({"who": "relay", "what": "status", "status": status}, one_line=True)
    else:
        _show_end(ctx, status)
    return Exit.DONE


def _play(stage: Stage, ada: Client, grace: Client) -> MessageStatus:
    ada.register("ada")
    stage.tell("ada", "registers: clawlink register ada")
    grace.register("grace", capabilities=["summarise"])
    stage.tell("grace", "registers: clawlink register grace --caps summarise")
    for agent in ada.discover(capability="summarise").agents:
        stage.tell("ada", f"discovers: {agent.name} is {agent.status} and can do {', '.join(agent.capabilities)}")
    with _working(stage, grace):
        stage.tell("ada", "delegates: clawlink delegate grace --priority high ...", _TASK)
        done = ada.delegate("grace", _TASK, context={"format": "one sentence"}, priority="high")
        there = "gone" if done.recipient is None else done.recipient.status
        stage.tell("ada", f"is told: task {done.message_id} is stored, and grace is {there}")
        _await_answer(stage, ada)
    return ada.message(done.message_id)


@contextlib.contextmanager
def _working(stage: Stage, grace: Client) -> Iterator[None]:
    """Let grace wait for a task in a thread of her own, and do it. Raises her error here."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            _serve_one(stage, grace)
        except Exception as error:
            failures.append(error)

    waiting = threading.Thread(target=work, name="grace", daemon=True)
    waiting.start()
    yield
    waiting.join(_PATIENCE_SECONDS)
    if failures:
        raise failures[0]


def _serve_one(stage: Stage, grace: Client) -> None:
    """Claim a task, acknowledge it, report, and answer, as each receiver does."""
    from clawlink.domain.message import TaskDelegation

    claimed = _next(grace, lambda one: isinstance(one.message, TaskDelegation))
    task: TaskDelegation = claimed.message  # type: ignore[assignment]
    stage.tell("grace", f"polls: {task.priority.value} task from {task.from_name}, delivered to her alone", task.task)
    grace.ack([claimed.receipt])
    stage.tell("grace", "acknowledges it: the relay need not keep it for her any longer")
    stage.tell("grace", f"reports: clawlink respond {task.message_id} --status in_progress")
    grace.respond(task.message_id, "reading up on it", status="in_progress")
    stage.tell("grace", f"answers: clawlink respond {task.message_id} '...'", _ANSWER)
    grace.respond(task.message_id, _ANSWER)


def _await_answer(stage: Stage, ada: Client) -> None:
    from clawlink.domain.message import TaskResponse

    status = ""
    while status != "completed":
        claimed = _next(ada, lambda one: isinstance(one.message, TaskResponse))
        response = claimed.message
        if isinstance(response, TaskResponse):
            status = response.status
            stage.tell("ada", f"polls: {response.from_name} says the task is {status}", str(response.result))
        ada.ack([claimed.receipt])


def _next(client: Client, wanted: Callable[[Claimed], bool]) -> Claimed:
    """Wait for a message that is wanted; acknowledge those that come before it."""
    from clawlink.errors import RelayUnreachable

    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        for one in client.poll(wait=_PATIENCE_SECONDS, max=1, lease=_LEASE_SECONDS):
            if wanted(one):
                return one
            client.ack([one.receipt])
    raise RelayUnreachable("the demo's message did not arrive; try again, or look with: clawlink doctor")


@contextlib.contextmanager
def own_relay() -> Iterator[str]:
    """Run a relay on a free port of this machine, untouched by the settings of the account."""
    from clawlink.errors import RelayUnreachable

    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLAWLINK_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "clawlink.server", "--port", "0", "--log-level", "error"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    output = cast("IO[str]", process.stdout)
    try:
        found = re.search(r"listening on (\S+)", output.readline())
        if found is None:
            raise RelayUnreachable("the demo's relay did not start; see why with: clawlink serve --port 0")
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.close()


def _show_end(ctx: Context, status: MessageStatus) -> None:
    from clawlink.cli.render import epoch

    stored = epoch(status.stored_at) or 0.0

    def after(stamp: str | None) -> str:
        at = None if stamp is None else epoch(stamp)
        return "-" if at is None else f"after {at - stored:.3f} s"

    ctx.out.line()
    ctx.out.line("Four separate facts that the relay knows about the task:", style="bold")
    ctx.out.facts(
        ("stored", status.stored_at),
        ("delivered", after(status.delivered_at)),
        ("acked", after(status.acked_at)),
        ("answered", after(status.answered_at)),
    )
    ctx.out.line()
    ctx.out.line("Now for real:", style="bold")
    for where, command in _NEXT:
        ctx.out.line(f"  {where:<16} {command}")
