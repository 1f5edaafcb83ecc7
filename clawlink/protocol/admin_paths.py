"""The endpoints of the operator's views: rows as in ``paths``."""

from __future__ import annotations

from clawlink.protocol import admin_views, headers
from clawlink.protocol.endpoint import Endpoint

TALKS = Endpoint(
    "talks",
    "GET",
    "/admin/talks",
    "Count the messages between agents.",
    admin_views.TalkPairs,
    query=admin_views.TalksQuery,
    admin=True,
    use="talk_views.pairs",
)
TALK = Endpoint(
    "talk",
    "GET",
    "/admin/talk",
    "Show the talk of two agents, or all talk of one.",
    admin_views.Talk,
    query=admin_views.TalkQuery,
    admin=True,
    use="talk_views.talk",
)
ALL_BROADCASTS = Endpoint(
    "all_broadcasts",
    "GET",
    "/admin/broadcasts",
    "List the broadcasts that the relay keeps.",
    admin_views.AllBroadcasts,
    query=admin_views.BroadcastsQuery,
    admin=True,
    use="library_views.broadcasts",
)
ALL_FILES = Endpoint(
    "all_files",
    "GET",
    "/admin/files",
    "List the shared files of all agents.",
    admin_views.AllFiles,
    query=admin_views.AllFilesQuery,
    admin=True,
    use="library_views.files",
)
ONE_FILE = Endpoint(
    "one_file",
    "GET",
    "/admin/files/{file_key}",
    "Show a shared file with its versions.",
    admin_views.OneFile,
    query=admin_views.FileQuery,
    admin=True,
    use="library_views.file",
)
FILE_BYTES = Endpoint(
    "file_bytes",
    "GET",
    "/admin/file-content/{file_key}",
    "Read a version of a shared file as it is.",
    None,
    query=admin_views.ContentQuery,
    admin=True,
    text=True,
    gives_bytes=True,
    tells=headers.OF_A_FILE,
)
SEARCH = Endpoint(
    "search",
    "GET",
    "/admin/search",
    "Search agents, tasks, broadcasts, files and messages.",
    admin_views.Hits,
    query=admin_views.SearchQuery,
    admin=True,
    use="search_views.search",
)
CHILDREN = Endpoint(
    "children",
    "GET",
    "/admin/tasks/{task_id}/children",
    "List the tasks that follow from a task.",
    admin_views.Children,
    query=admin_views.ChildrenQuery,
    admin=True,
    use="talk_views.children",
)
LOAD = Endpoint(
    "load",
    "GET",
    "/admin/load",
    "Show the counters, the limits and the last hour of a relay.",
    admin_views.Load,
    query=admin_views.LoadQuery,
    admin=True,
    use="load_views.load",
)

ADMIN_ENDPOINTS: tuple[Endpoint, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Endpoint)
)
