"""Reading a task, which is a record of its own or carried by its delivery."""

from __future__ import annotations

from clawlink.domain.delivery import Delivery
from clawlink.domain.task import Task, task_from_delivery
from clawlink.errors import UnknownTask
from clawlink.store.base import Store


async def read_task(store: Store, id: str) -> tuple[Task | None, Delivery | None]:
    """Return the task of this id, and its delivery if that is still there.

    The delivery is read first: a task whose delivery is gone has a record.
    """
    d = await store.get(Delivery, id)
    return (await store.get(Task, id) if d is None else await task_of(store, d)), d


async def require_task(store: Store, id: str, *, retention: float) -> Task:
    """Return the task of this id. Raises UnknownTask, which says for how many seconds a finished task is kept."""
    task, _ = await read_task(store, id)
    if task is None:
        raise UnknownTask(
            f"no task {id!r} is known here; finished ones are kept {retention:.0f} s at most", field="task_id"
        )
    return task


async def task_of(store: Store, d: Delivery) -> Task | None:
    """Return the task of a delivery; None if the delivery is no task's."""
    if not d.is_task:
        return None
    return await store.get(Task, d.id) if d.has_record else task_from_delivery(d)
