"""The display of shared files."""

from __future__ import annotations

from clawlink.domain import file as rules
from clawlink.domain.file import Lock, SharedFile
from clawlink.domain.readers import Access
from clawlink.protocol import file_replies
from clawlink.relay.timestamps import StoppableTime


def lock_info(lock: Lock | None, time: StoppableTime) -> file_replies.FileLock | None:
    return None if lock is None else file_replies.FileLock(lock.holder, time.iso(lock.until), lock.note)


def _listed(access: Access | None) -> list[str] | None:
    return None if access is None else list(access.reader_ids)


def owner_of(access: Access | None) -> str | None:
    return None if access is None else access.owner.agent_id


def file_info(file: SharedFile, time: StoppableTime) -> file_replies.FileInfo:
    newest = file.versions[0]
    content = newest.content
    return file_replies.FileInfo(
        file.id,
        newest.file_type,
        newest.editor,
        newest.revision,
        time.iso(newest.written_at),
        content.size,
        content.digest,
        newest.content_type,
        None if file.ends_at is None else time.iso_or_none(file.ends_at),
        file.burn,
        None if file.lock is None else lock_info(rules.locked(file, time()), time),
        owner_of(file.access),
        _listed(file.access),
        0 if file.access is None else len(file.access.tasks),
    )


def file_history(key: str, file: SharedFile | None, time: StoppableTime) -> file_replies.FileHistory:
    there = rules.present(file, time())
    return file_replies.FileHistory(
        file_key=key,
        version=0 if there is None else there.revision,
        deleted=there is None,
        versions=[]
        if there is None
        else [
            file_replies.FileVersion(
                one.revision,
                one.content.size,
                one.content.digest,
                one.content_type,
                one.file_type,
                one.editor,
                time.iso(one.written_at),
            )
            for one in there.versions
        ],
        expires_at=None if there is None else time.iso_or_none(there.ends_at),
        burn_after_read=there is not None and there.burn,
        lock=lock_info(rules.locked(file, time()), time),
        owner=None if there is None else owner_of(there.access),
        readers=None if there is None else _listed(there.access),
    )
