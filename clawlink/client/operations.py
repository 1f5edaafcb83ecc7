"""Operations of several calls with pauses in between: file transfers, and waits for tasks, messages and files.

Each is defined once, for every client: its steps, and its listeners.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast

from clawlink.client.calls import Identity

if TYPE_CHECKING:
    from collections.abc import Generator

    from clawlink.client.files.file_facts import FileFacts
    from clawlink.client.wait_steps import Step
    from clawlink.domain.message import Attachment
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.file_replies import FileHistory, FileSaved
    from clawlink.protocol.mailbox_replies import MessageStatus
    from clawlink.protocol.replies import TaskView

T = TypeVar("T")

_NOTHING = object()


class Operation(Generic[T]):
    """Steps to do in order. The last one yields the result.

    ``on_change`` gets each news on the way. ``on_progress`` gets the moved bytes and the total, None if that is not
    known. ``on_away`` gets the reason why the relay does not answer, and None once it answers again. Listeners are
    plain functions or, for clients of asyncio, async ones. An operation that only ``waits`` leaves nothing half done
    when it is given up.
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
        """Note the news of a step; return the call of its listener, None without one."""
        from clawlink.client.files.transfer import Moved
        from clawlink.client.wait_steps import ConnectionState

        if isinstance(news, ConnectionState):
            return None if self._on_away is None else partial(self._on_away, news.error)
        if isinstance(news, Moved):
            return None if self._on_progress is None else partial(self._on_progress, *news)
        self._last = news
        return None if self._on_change is None else partial(self._on_change, cast("T", news))

    @property
    def result(self) -> T:
        """The result, once all is done."""
        if self._last is _NOTHING:
            raise AssertionError("an operation ends with what came of it")
        return cast("T", self._last)


# -- large files -------------------------------------------------------------------------------------------------------


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
) -> Operation[FileSaved]:
    """Write a shared file from a path, a folder (as a tar), or a file object that is open for reading bytes.

    A large file goes in pieces, and no piece that has arrived is sent twice. The upload bears passing failures for
    ``patience`` seconds after the last success. ``on_away`` gets the reason, and None when it goes on. ``on_progress``
    gets the arrived bytes and the total, None if that is not known. With the idempotency ``key`` of an upload that
    broke off it goes on with that one. For other arguments see ``put_blob``.
    """
    from clawlink.client.files import uploads
    from clawlink.client.files.file_facts import Terms

    terms = Terms(content_type, file_type, if_version, ttl, burn, force, readers)
    steps = uploads.upload(me, file_key, source, terms, key=key, patience=patience)
    return Operation(steps, on_progress=on_progress, on_away=on_away)


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
) -> Operation[FileFacts]:
    """Read a shared file to a path, whole or not at all, or into a file object that is open for writing bytes.

    The SHA-256 is compared before the file appears; a file object has all bytes before that. With another ``sha256``
    nothing is read, and DigestMismatch is raised. The download goes on after a cut; ``patience``, ``on_progress`` and
    ``on_away`` are those of ``upload``.
    """
    from clawlink.client.files import downloads

    steps = downloads.download(me, file_key, downloads.sink(target), version=version, sha256=sha256, patience=patience)
    return Operation(steps, on_progress=on_progress, on_away=on_away)


def attach(
    me: Identity,
    source: str | os.PathLike[str] | IO[bytes],
    name: str | None = None,
    *,
    everyone: bool = False,
    on_progress: Callable[[int, int | None], object] | None = None,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Operation[Attachment]:
    """Share a file or a folder under a key of its own, and return an attachment for messages.

    It is for this agent and the recipients of its message; with ``everyone`` for all agents. ``name`` is its name
    there, by default the last part of the path. A content that is there already is not sent again. ``on_progress`` and
    ``on_away`` are those of ``upload``.
    """
    from clawlink.client.files import uploads

    return Operation(uploads.attach(me, source, name, everyone=everyone), on_progress=on_progress, on_away=on_away)


# -- waiting -----------------------------------------------------------------------------------------------------------


def wait_for(
    me: Identity,
    task_id: str,
    timeout: float | None = None,
    on_change: Callable[[TaskView], object] | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Operation[TaskView]:
    """Wait until a task is final, for ``timeout`` seconds or without a limit, and return it.

    ``on_change`` gets the current task, and then the task at each change. While the relay is away or restarts, the
    client asks again and again. ``on_away`` gets the reason, and None when the relay is back. Raises StillPending when
    the time is over, and at once an error that waiting cannot mend, such as UnknownTask.
    """
    from clawlink.client.wait_steps import about_task, follow  # a few milliseconds that most commands do not need

    return Operation(follow(about_task(me, task_id), timeout), on_change=on_change, on_away=on_away, waits=True)


def wait_message(
    me: Identity,
    message_id: str,
    until: str = "acked",
    timeout: float | None = None,
    on_change: Callable[[MessageStatus], object] | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Operation[MessageStatus]:
    """Wait until a message is ``until`` (delivered, acked, answered) or will never be; else as ``wait_for``."""
    from clawlink.client.wait_steps import about_message, follow

    steps = follow(about_message(me, message_id, until), timeout)
    return Operation(steps, on_change=on_change, on_away=on_away, waits=True)


def watch_file(
    me: Identity,
    file_key: str,
    since: int | None = None,
    timeout: float | None = None,
    *,
    on_away: Callable[[ClawLinkError | None], object] | None = None,
) -> Operation[FileHistory]:
    """Wait until a shared file is at another version than ``since``, or than now; else as ``wait_for``.

    A deletion counts, and so does the first version of a file that is not there yet.
    """
    from clawlink.client.wait_steps import about_file, follow

    return Operation(follow(about_file(me, file_key, since), timeout), on_away=on_away, waits=True)
