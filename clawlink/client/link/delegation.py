"""Delegated work and its results."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from clawlink.client.link.pending import Pending, promise
from clawlink.client.wait_steps import FINAL
from clawlink.domain.message import TaskAnswer, TaskResponse, TaskUpdate
from clawlink.errors import BadRequest, ClawLinkError
from clawlink.protocol.replies import Cancelled, Delegated, TaskView

# A result may overtake the receipt of its task. This many results of unknown tasks are kept for that.
_MOST_EARLY = 256


class TaskFailed(ClawLinkError):
    """A delegated task ended without a result: ``current`` is failed, rejected, cancelled, expired or returned.

    ``result`` is the answer in its place, usually a sentence.
    """

    code = "task_failed"

    def __init__(self, task_id: str, status: str, result: Any) -> None:
        why = f": {result}" if result else ""
        super().__init__(f"task {task_id} is {status}{why}", current=status)
        self.task_id = task_id
        self.result = result


class Delegation(Pending[Any]):
    """A delegated task: ``await`` it, or call ``result(timeout)``, for its result.

    Raises TaskFailed if it ends in another way than completed, StillPending if that takes longer than ``timeout``
    seconds. ``receipt`` is the relay's word that it is stored. ``status``, ``progress`` and ``note`` are the latest.
    """

    def __init__(self, receipt: Future[Delegated], cancel: Callable[[str, str | None], Pending[Cancelled]]) -> None:
        super().__init__(promise(), "the task")
        self.receipt: Pending[Delegated] = Pending(receipt, "the receipt")
        self.receipt._asked = True  # its failure is the task's, and told there
        self.status = "queued"
        self.progress: float | None = None
        self.note: str | None = None
        self._cancel = cancel

    @property
    def task_id(self) -> str:
        """The task's id. Raises StillPending if the relay does not have it yet."""
        return self.receipt.result(0).message_id

    def cancel(self, note: str | None = None) -> Pending[Cancelled]:
        """Take the task back for good. Raises StillPending if the relay does not have it yet."""
        return self._cancel(self.task_id, note)

    def _end(self, task_id: str, status: str, result: Any) -> None:
        if self._future.done():
            return
        self.status = status
        if status == "completed":
            self._future.set_result(result)
        else:
            self._fail(TaskFailed(task_id, status, result))

    def _fail(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class Open:
    """An unfinished delegation with its listeners."""

    def __init__(
        self,
        delegation: Delegation,
        on_progress: Callable[[Delegation], object] | None,
        on_question: Callable[[Any], Any] | None,
    ) -> None:
        self.delegation = delegation
        self.on_progress = on_progress
        self.on_question = on_question
        self.version: int | None = None
        # The number of questions that came as messages, and the number that are known: a question seen in the task
        # comes as a message later.
        self.heard = 0
        self.seen = 0


class Question:
    """A question to a requester; ``stored`` once the relay has it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.stored = False


class PendingReplies:
    """The open waits: for results of delegations, and for answers to questions. They live in the link's own loop.

    Both come as messages. Where there is no room for messages because all handlers wait, they are asked for.
    """

    def __init__(
        self,
        call: Callable[[Callable[..., Any], Any, Callable[[Any], object]], None],
        answer: Callable[[str, Any], object],
    ) -> None:
        self._call = call
        self._answer = answer
        self._open: dict[str, Open] = {}
        self._questions: dict[str, Question] = {}
        self._early: dict[str, list[TaskResponse | TaskUpdate]] = {}
        self._answers_to_skip: dict[str, int] = {}
        self._turn = itertools.count()
        self._asked: dict[str, int] = {}

    def follow(self, task_id: str, opened: Open) -> None:
        """Tell a delegation all news of its task, also those that came before the receipt."""
        self._open[task_id] = opened
        for message in self._early.pop(task_id, ()):
            self.hear(message)

    def give_up(self, error: ClawLinkError) -> None:
        """Fail all that is waited for."""
        for opened in self._open.values():
            opened.delegation._fail(error)
        self._open.clear()

    def hear(self, message: TaskResponse | TaskUpdate) -> None:
        """Take news of a delegated task. A response that was passed on belongs to no task."""
        if isinstance(message, TaskResponse) and message.passed_on is True:
            return
        task_id = message.task_id if isinstance(message, TaskUpdate) else message.message_id
        opened = self._open.get(task_id)
        if opened is None:
            self._early.setdefault(task_id, []).append(message)
            if len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]
            return
        result = message.note if isinstance(message, TaskUpdate) else message.result
        if message.status in FINAL:
            self._close(task_id, opened, message.status, result)
        elif isinstance(message, TaskResponse):
            if message.status == "input_required":
                opened.heard += 1
                if opened.heard <= opened.seen:
                    return
            self._news(task_id, opened, message.status, message.progress, message.note, message.result)

    def see(self, view: TaskView) -> None:
        """Take a task as the relay has it."""
        opened, question = self._open.get(view.task_id), self._questions.get(view.task_id)
        if question is not None and question.stored and not question.answer.done():
            steps = [event.status for event in view.history]
            at = len(steps) - 1 - steps[::-1].index("input_required") if "input_required" in steps else len(steps)
            given = next((e for e in view.history[at + 1 :] if e.by == view.requester and e.content is not None), None)
            if given is not None:
                self._answers_to_skip[view.task_id] = self._answers_to_skip.get(view.task_id, 0) + 1
                question.answer.set_result(given.content)
        if opened is not None:
            opened.version = view.version
            if view.status in FINAL:
                result = view.note if view.result is None else view.result
                self._close(view.task_id, opened, view.status, result)
            elif view.status == "input_required":
                asked = [event.content for event in view.history if event.status == "input_required"]
                if len(asked) > opened.seen:
                    self._news(view.task_id, opened, view.status, view.progress, view.note, asked[-1])
            else:
                opened.delegation.status = view.status

    def _close(self, task_id: str, opened: Open, status: str, result: Any) -> None:
        del self._open[task_id]
        self._asked.pop(task_id, None)
        opened.delegation._end(task_id, status, result)

    def _news(
        self, task_id: str, opened: Open, status: str, progress: float | None, note: str | None, content: Any
    ) -> None:
        delegation = opened.delegation
        delegation.status, delegation.progress, delegation.note = status, progress, note
        if status == "input_required":
            opened.seen += 1
            if opened.on_question is not None:
                self._call(opened.on_question, content, lambda said: self._answer(task_id, said))
        elif opened.on_progress is not None:
            self._call(opened.on_progress, delegation, lambda _: None)

    # -- questions to requesters ---------------------------------------------------------------------------------------

    def ask(self, task_id: str) -> Question:
        """Expect the answer to a question about a task. Raises BadRequest while another is open."""
        if task_id in self._questions:
            raise BadRequest("a question about this task is not answered yet; wait for that before you ask another")
        question = self._questions[task_id] = Question()
        return question

    def drop(self, task_id: str, question: Question) -> None:
        """Forget the delegation."""
        if self._questions.get(task_id) is question:
            del self._questions[task_id]

    def answer(self, message: TaskAnswer) -> None:
        """Take an answer."""
        skip = self._answers_to_skip.pop(message.task_id, 0)
        if skip:
            if skip > 1:
                self._answers_to_skip[message.task_id] = skip - 1
            return
        question = self._questions.get(message.task_id)
        if question is not None and not question.answer.done():
            question.answer.set_result(message.content)

    def to_ask(self, most: int) -> list[tuple[str, int | None]]:
        """Return the tasks to ask for, the longest unasked first, with the known facts of each."""
        ids = sorted({*self._open, *self._questions}, key=lambda id: self._asked.get(id, -1))[:most]
        for id in ids:
            self._asked[id] = next(self._turn)
        return [(id, self._open[id].version if id in self._open else None) for id in ids]

    def cancelled(self, task_id: str) -> None:
        """A task was taken back from here."""
        opened = self._open.get(task_id)
        if opened is not None:
            self._close(task_id, opened, "cancelled", None)

    def lost(self, task_id: str, error: ClawLinkError) -> None:
        """Fail a delegation that the relay does not know any more."""
        opened = self._open.pop(task_id, None)
        if opened is not None:
            opened.delegation._fail(error)
