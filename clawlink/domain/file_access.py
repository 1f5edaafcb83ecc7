"""Access to files: refuse agents, and admit agents by a write or by a task."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.file import SharedFile, present
from clawlink.domain.readers import Access, Party, admitting
from clawlink.errors import BadRequest, NotAllowed


def hidden(file: SharedFile | None, agent: Agent | None) -> bool:
    """Return True if the file, or its remains, are for other agents. ``readers.holds`` may still admit the agent."""
    return file is not None and file.access is not None and not file.access.admits(agent)


def require_admitted(key: str, file: SharedFile | None, agent: Agent) -> None:
    """Refuse a write or a lock by an agent that may not see the file. Raises NotAllowed.

    A key names one file, so this refusal cannot hide that the key is in use.
    """
    if hidden(file, agent):
        raise NotAllowed(
            f"the key {key!r} is in use by other agents, and only they may write or lock it; choose another key",
            field="file_key",
        )


def access_after(
    key: str, file: SharedFile | None, editor: Agent, asked: tuple[Party, ...] | None, now: float, *, opens: bool
) -> Access | None:
    """Return the access to a file after a write that asks for these readers; None is everyone.

    Without ``asked`` and ``opens`` the access stays, also for a deleted file that is not forgotten: else a reader could
    open it to everyone. Raises NotAllowed, because only the owner changes readers, and a file with other writers stays
    for everyone.
    """
    before = None if file is None else file.access
    if asked is None and not opens:
        return before
    if asked is None:
        after = None
    elif before is not None:
        after = admitting(before.owner, asked)
    else:
        there = present(file, now)
        if there is not None and not all(version.is_by(editor) for version in there.versions):
            raise NotAllowed(
                f"other agents have written {key!r}, which is for everyone; give readers to a file of your own, under "
                "another key",
                field="readers",
            )
        after = admitting(editor, asked)
    if before is not None and not before.owner.is_(editor) and not _same(before, after):
        raise NotAllowed(
            f"only its owner may change the readers of {key!r}; leave the readers out, and they stay as they are",
            field="readers",
        )
    return after


def _same(one: Access, other: Access | None) -> bool:
    return other is not None and set(one.parties) == set(other.parties)


def add_reader(file: SharedFile, reader: Party, *, most: int) -> SharedFile:
    """Return a file for readers with one more reader. Raises BadRequest if it has ``most``."""
    before = file.access
    if before is None or reader in before.parties:
        return file
    others = (other for other in before.readers if other.agent_id != reader.agent_id)
    after = admitting(before.owner, (*others, reader), before.tasks)
    _require_few(file, len(after.readers), most, "readers", "; start the relay with a higher --max-readers")
    return msgspec.structs.replace(file, version=file.version + 1, access=after)


def add_task(file: SharedFile, task_id: str, known: Iterable[str], *, most: int) -> SharedFile:
    """Return a file for readers that the holder of one more task may read, beside those of the ``known`` tasks.

    Raises BadRequest if that would be more than ``most``.
    """
    before = file.access
    if before is None or task_id in before.tasks:
        return file
    after = admitting(before.owner, before.readers, (*known, task_id))
    _require_few(file, len(after.tasks), most, "open tasks that anyone may claim")
    return msgspec.structs.replace(file, version=file.version + 1, access=after)


def _require_few(file: SharedFile, count: int, most: int, of: str, otherwise: str = "") -> None:
    if count > most:
        raise BadRequest(
            f"a file for readers may have {most} {of}, and {file.id!r} would have {count}; share the content once "
            f"more, under another key{otherwise}",
            field="attachments",
            limit=most,
            actual=count,
        )
