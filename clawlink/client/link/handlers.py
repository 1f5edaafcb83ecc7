"""The functions that an agent's author registered, by what they handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clawlink.domain.broadcast import EVERYTHING, matches
from clawlink.domain.message import KnowledgeBroadcast, PlainMessage, TaskDelegation

Handler = Callable[[Any], Any]


class Handlers:
    """The handlers of one agent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: Handler | None = None
        self.message: Handler | None = None
        self._broadcasts: list[tuple[str, Handler]] = []

    @property
    def subscriptions(self) -> list[str]:
        """The patterns of all topics that there is a handler for."""
        return list(dict.fromkeys(pattern for pattern, _ in self._broadcasts))

    def set_task(self, handler: Handler) -> None:
        """Have this function do the tasks."""
        if self.task is not None:
            raise ValueError(f"there is a handler for tasks already: {self.task!r}")
        self.task = handler

    def set_message(self, handler: Handler) -> None:
        """Have this function take the plain messages."""
        if self.message is not None:
            raise ValueError(f"there is a handler for messages already: {self.message!r}")
        self.message = handler

    def add_broadcast(self, handler: Handler, pattern: str = EVERYTHING) -> None:
        """Have this function, too, take the broadcasts on topics of that pattern."""
        self._broadcasts.append((pattern, handler))

    def for_topic(self, topic: str) -> list[Handler]:
        """Return the functions that take broadcasts on this topic."""
        return [handler for pattern, handler in self._broadcasts if matches(pattern, topic)]

    def wants(self, message: TaskDelegation | PlainMessage | KnowledgeBroadcast) -> bool:
        """Return True if there is a handler for a message."""
        if isinstance(message, TaskDelegation):
            return self.task is not None
        if isinstance(message, PlainMessage):
            return self.message is not None
        return bool(self.for_topic(message.topic))
