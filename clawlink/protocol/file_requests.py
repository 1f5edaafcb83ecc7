"""The requests of shared files: JSON bodies as in ``requests``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.protocol.requests import AgentId, FileKey, IdempotencyKey, ListQuery, Recipient, Wait


class PutFile(Struct, frozen=True, gc=False):
    """Write a shared file."""

    file_key: FileKey
    content: str
    agent_id: AgentId
    file_type: Annotated[str, Meta(max_length=limits.MAX_NAME_LENGTH)] = "text"
    encoding: Literal["utf-8", "base64"] = "utf-8"
    if_version: Annotated[int, Meta(ge=0, description="Write only at this version; 0: if it is new.")] | None = None
    force: Annotated[bool, Meta(description="Write though another agent holds the file's lock.")] = False
    readers: (
        Annotated[
            list[Recipient],
            Meta(
                max_length=limits.MAX_LIST_LENGTH,
                description="The agents that may see the file beside its owner: names or ids. "
                "Null leaves them as they are, an empty list is for the owner alone, * for everyone.",
            ),
        ]
        | None
    ) = None
    idempotency_key: IdempotencyKey | None = None


class LockFile(Struct, frozen=True, gc=False):
    """Ask the other agents not to write a file for a while; the file need not exist yet."""

    agent_id: AgentId
    file_key: FileKey
    seconds: Annotated[float, Meta(ge=1, le=limits.MAX_LOCK_SECONDS)]
    note: Annotated[str, Meta(max_length=limits.MAX_NOTE_LENGTH)] | None = None
    force: Annotated[bool, Meta(description="Take it though another agent holds it.")] = False


class UnlockQuery(Struct, frozen=True, gc=False):
    """The agent that gives a lock up; with ``force`` a lock of another agent."""

    agent_id: AgentId | None = None
    force: bool = False


class BlobQuery(Struct, frozen=True, gc=False):
    """The version; or, with ``versions``, the list of them: with ``wait`` once the file is not at ``since``.

    The asking agent is also taken from the header ClawLink-Agent.
    """

    version: Annotated[int, Meta(ge=1)] | None = None
    versions: str | None = None
    since: Annotated[int, Meta(ge=0)] | None = None
    wait: Wait = 0.0
    agent_id: AgentId | None = None


class DropBlobQuery(Struct, frozen=True, gc=False):
    """With ``read`` it confirms that a file that only one may read was read."""

    agent_id: AgentId | None = None
    read: bool = False
    force: bool = False


class FilesQuery(ListQuery, frozen=True, gc=False):
    """The part of a list, and the asking agent. Also taken from the header ClawLink-Agent."""

    agent_id: AgentId | None = None


class DeleteFileQuery(Struct, frozen=True, gc=False):
    """The deleting agent, and the version."""

    agent_id: AgentId | None = None
    if_version: Annotated[int, Meta(ge=1)] | None = None
    force: bool = False
