"""Operations of several calls with rests in between: moving files, and waiting for tasks, messages and files.

Each is defined once, for every client: as its steps, and who wants to hear of what on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast

from clawlink.client.calls import Identity

if TYPE_CHECKING:
    from collections.abc import Generator

    from clawlink.client.blob_calls import FileFacts
    from clawlink.client.waiting import Step
    from clawlink.domain.message import Attachment
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.replies import FileHistory, FileSaved, MessageStatus, TaskView

T = TypeVar("T")

_NOTHING = object()


class Errand(Generic[T]):
    """Steps to be done in order, whose last word is what came of them.

    ``on_change`` is given each word on the way, ``on_progress`` how many bytes have moved and of how many, if that is
    known, and ``on_away`` why the relay cannot be asked, and None once it can be again. They are plain functions or,
    for clients of asyncio, async ones. One that only ``waits`` for others leaves nothing half done when it is given up.
    """

    def __init__(
        self,
        steps: Generator[Step, Any, None],
        *,
        on_change: Callable[[T], object] | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
        waits: bool = False,
    ) -> None:
        self.steps = steps
        self.waits = waits
        self._on_change = on_change
        self._on_progress = on_progress
        self._on_away = on_away
        self._last: object = _NOTHING

    def hear(self, news: object) -> Callable[[], object] | None:
        """Take note of what a step said; return what tells whoever wants to know, if anyone does."""
        from clawlink.client.transfer import Moved
        from clawlink.client.waiting import Trouble

        if isinstance(news, Trouble):
            return None if self._on_away is None else partial(self._on_away, news.error)
        if isinstance(news, Moved):
            return None if self._on_progress is None else partial(self._on_progress, *news)
        self._last = news
        return None if self._on_change is None else partial(self._on_change, cast("T", news))

    @property
    def result(self) -> T:
        """The result, once all is done."""
        if self._last is _NOTHING:
            raise AssertionError("an errand ends with what came of it")
        return cast("T", self._last)


# -- files of any size -------------------------------------------------------------------------------------------------


def upload(
    me: Identity,
    file_key: str,
    source: str | os.PathLike[str] | IO[bytes],
    *,
    content_type: str | None = None,
    file_type: str | None = None,
    if_version: int | None = None,
    ttl: float | None = None,
    burn: bool = False,
    force: bool = False,
    readers: Sequence[str] | None = None,
    key: str | None = None,
    patience: float = 60.0,
    on_progress: Callable[[int, int | None], object] | None = None,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[FileSaved]:
    """Write a shared file from a path, a folder (as a tar), or a file object that is open for reading bytes.

    What is large goes in pieces, none of which is sent twice if it has arrived. Failures that pass by themselves
    are borne for ``patience`` seconds after the last success; ``on_away`` is told why, and with None that it goes
    on. ``on_progress`` is given how many bytes are there, and of how many, if that is known. With the idempotency
    ``key`` of an upload that broke off it goes on with that one. For all else see ``put_blob``.
    """
    from clawlink.client import transfer
    from clawlink.client.blob_calls import Terms

    terms = Terms(content_type, file_type, if_version, ttl, burn, force, readers)
    steps = transfer.upload(me, file_key, source, terms, key=key, patience=patience)
    return Errand(steps, on_progress=on_progress, on_away=on_away)


def download(
    me: Identity,
    file_key: str,
    target: str | os.PathLike[str] | IO[bytes],
    *,
    version: int | None = None,
    sha256: str | None = None,
    patience: float = 60.0,
    on_progress: Callable[[int, int | None], object] | None = None,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[FileFacts]:
    """Read a shared file to a path, whole or not at all, or into a file object that is open for writing bytes.

    Its SHA-256 is compared before it is there; an object has it all before that is known. If it is not the
    ``sha256`` asked for, nothing is read: DigestMismatch. What breaks off goes on where it was; ``patience``,
    ``on_progress`` and ``on_away`` are those of ``upload``.
    """
    from clawlink.client import transfer

    steps = transfer.download(me, file_key, transfer.sink(target), version=version, sha256=sha256, patience=patience)
    return Errand(steps, on_progress=on_progress, on_away=on_away)


def attach(
    me: Identity,
    source: str | os.PathLike[str] | IO[bytes],
    name: str | None = None,
    *,
    everyone: bool = False,
    on_progress: Callable[[int, int | None], object] | None = None,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[Attachment]:
    """Share a file or a folder under a key of its own, and return what ``delegate``, ``respond`` and ``send`` take.

    It is for this agent and for those who get the message that names it; with ``everyone`` for all agents.
    ``name`` is what it is called there; of a path it is the last part. What is there already is not sent again.
    ``on_progress`` and ``on_away`` are those of ``upload``.
    """
    from clawlink.client import transfer

    return Errand(transfer.attach(me, source, name, everyone=everyone), on_progress=on_progress, on_away=on_away)


# -- waiting -----------------------------------------------------------------------------------------------------------


def wait_for(
    me: Identity,
    task_id: str,
    timeout: float | None = None,
    on_change: Callable[[TaskView], object] | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[TaskView]:
    """Wait until a task is final, for ``timeout`` seconds or as long as it takes, and return it.

    ``on_change`` is given the task as it is, and then at each change. While the relay is away or restarts, it is
    asked again and again; ``on_away`` is told why, and with None that it is back. Raises StillPending when the time
    is over, and what cannot get better by waiting, as UnknownTask.
    """
    from clawlink.client.waiting import about_task, follow  # a few milliseconds that most commands do not need

    return Errand(follow(about_task(me, task_id), timeout), on_change=on_change, on_away=on_away, waits=True)


def wait_message(
    me: Identity,
    message_id: str,
    until: str = "acked",
    timeout: float | None = None,
    on_change: Callable[[MessageStatus], object] | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[MessageStatus]:
    """Wait until a message is ``until`` (delivered, acked, answered) or will never be; else as ``wait_for``."""
    from clawlink.client.waiting import about_message, follow

    steps = follow(about_message(me, message_id, until), timeout)
    return Errand(steps, on_change=on_change, on_away=on_away, waits=True)


def watch_file(
    me: Identity,
    file_key: str,
    since: int | None = None,
    timeout: float | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Errand[FileHistory]:
    """Wait until a shared file is at another version than ``since``, or than now; else as ``wait_for``.

    A deletion counts, and so does the first version of a file that is not there yet.
    """
    from clawlink.client.waiting import about_file, follow

    return Errand(follow(about_file(me, file_key, since), timeout), on_away=on_away, waits=True)
