"""The endpoints of the operator's views, as in ``endpoints``. They need the right of the operator."""

from __future__ import annotations

from clawlink.client.calls import Call, Identity, simple_call
from clawlink.protocol import admin_paths as paths
from clawlink.protocol import admin_views as views


def talks(me: Identity, agent: str | None = None, *, limit: int = 50) -> Call[views.TalkPairs]:
    """Count the messages between agents since the relay started, the pairs with most messages first."""
    return simple_call(paths.TALKS, query={"agent": agent, "limit": limit})


def talk(
    me: Identity, agent: str, other: str | None = None, *, limit: int = 50, after: str | None = None
) -> Call[views.Talk]:
    """Show the talk of an agent, with one other or with all, the newest line first."""
    return simple_call(paths.TALK, query={"agent": agent, "other": other, "limit": limit, "after": after})


def all_broadcasts(
    me: Identity,
    *,
    topic: str | None = None,
    tag: str | None = None,
    author: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> Call[views.AllBroadcasts]:
    """List the broadcasts that the relay keeps, the newest first."""
    query = {"topic": topic, "tag": tag, "author": author, "limit": limit, "after": after}
    return simple_call(paths.ALL_BROADCASTS, query=query)


def all_files(
    me: Identity, *, text: str | None = None, agent: str | None = None, limit: int = 50, after: str | None = None
) -> Call[views.AllFiles]:
    """List the shared files, also those for readers: with a part of a key, or those of an agent."""
    return simple_call(paths.ALL_FILES, query={"text": text, "agent": agent, "limit": limit, "after": after})


def one_file(me: Identity, file_key: str) -> Call[views.OneFile]:
    """Show a shared file with its versions."""
    return simple_call(paths.ONE_FILE, file_key=file_key)


def search(me: Identity, text: str, *, limit: int = 50, after: str | None = None) -> Call[views.Hits]:
    """Search agents, tasks, broadcasts, files and messages by name, id or words."""
    return simple_call(paths.SEARCH, query={"text": text, "limit": limit, "after": after})


def children(me: Identity, task_id: str) -> Call[views.Children]:
    """List the tasks that follow from a task."""
    return simple_call(paths.CHILDREN, task_id=task_id)


def load(me: Identity) -> Call[views.Load]:
    """Show the counters, the limits and the last hour of the relay."""
    return simple_call(paths.LOAD)
