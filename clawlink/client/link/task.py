"""The arguments of handlers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from clawlink.client.link.pending import Pending
from clawlink.domain.iso_time import read_iso
from clawlink.domain.message import PlainMessage, TaskDelegation
from clawlink.protocol import replies

if TYPE_CHECKING:
    from clawlink.client.link.dispatcher import Dispatcher
    from clawlink.client.link.in_flight import InFlight


class Task:
    """A task to do. The handler's return value is its result.

    ``text`` is the task, as JSON if it was no text. ``context`` is a dict, or any value of a client of 1.0.x.
    ``from_person`` is True if the relay's operator asks. ``priority`` is low, normal, high or urgent, ``deadline`` a
    time in UTC or None. ``attempt`` counts the claims from 1; ``reported`` has the reports of earlier attempts. What a
    handler adds to ``attachments``, from ``Link.attach``, goes with its result.
    """

    def __init__(self, message: TaskDelegation, in_flight: InFlight, dispatcher: Dispatcher) -> None:
        self.message = message
        self.id = message.message_id
        self.text = message.task if isinstance(message.task, str) else msgspec.json.encode(message.task).decode()
        self.context = message.context
        self.from_agent = message.from_agent
        self.from_name = message.from_name
        self.from_person = message.from_person is True
        self.priority = message.priority.value
        at = message.deadline_at
        self.deadline = None if isinstance(at, msgspec.UnsetType) else read_iso(at)
        self.attempt = in_flight.claimed.attempt
        self.reported = in_flight.claimed.reported or []
        self.attachments = in_flight.attachments
        self._in_flight = in_flight
        self._dispatcher = dispatcher

    def __repr__(self) -> str:
        return f"<Task {self.id} from {self.from_name!r}: {self.text[:40]!r}>"

    @property
    def cancelled(self) -> bool:
        """Return True if no agent waits for the result any more: cancelled, expired, or taken back for another.

        A coroutine is cancelled then. A plain function that takes long looks here now and then.
        """
        return self._in_flight.lost or self._in_flight.timed_out

    def when_over(self, tell: Callable[[str | None, str | None], object]) -> None:
        """Have this called once the relay has the end of the task from here: its state, and why it is no other.

        The state is None if the relay has none from here: the result came too late, or the task was given back. It is
        called in the link's own thread, so it must not take long.
        """

        def over(future: Future[tuple[str | None, str | None]]) -> None:
            tell(*future.result())

        self._in_flight.over.add_done_callback(over)

    def progress(self, percent: float | None = None, note: str | None = None) -> Pending[replies.ResponseSent]:
        """Tell the requester how far it is, 0 to 100 ``percent``. There is no need to wait for that."""
        told = self._dispatcher.report(self._in_flight, status="in_progress", progress=percent, note=note)
        return Pending(told, "the progress report")

    def ask(self, question: Any) -> Pending[Any]:
        """Ask the requester for something, and wait for the answer: ``await task.ask(...)`` or ``.result()``."""
        return Pending(self._dispatcher.ask(self._in_flight, question), "the answer")


class Received:
    """A plain message.

    ``content`` is any JSON, ``thread`` the sender's name of the conversation, ``from_agent`` its id. ``from_person`` is
    True if the relay's operator sent it.
    """

    def __init__(self, message: PlainMessage, send: Callable[..., Pending[replies.Sent]]) -> None:
        self.message = message
        self.id = message.message_id
        self.content = message.content
        self.from_agent = message.from_agent
        self.from_name = message.from_name
        self.from_person = message.from_person is True
        self.thread = message.thread
        self.in_reply_to = message.in_reply_to
        self._send = send

    def __repr__(self) -> str:
        return f"<Received {self.id} from {self.from_name!r}>"

    def reply(self, content: Any) -> Pending[replies.Sent]:
        """Answer it, in its thread; the sender sees which message this answers."""
        return self._send(self.from_agent, content, in_reply_to=self.id, thread=self.thread)
