"""Every endpoint once: method, path, parameters, reply. Routes, clients, OpenAPI and the documentation test read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

from clawlink.protocol import headers, replies, requests

_TAKES = {"task_id": "[^/]+", "message_id": "[^/]+", "upload_id": "[^/]+"}
_PARAMETER = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Endpoint:
    """A method of a path. ``parameters`` in the path are percent-encoded as one piece, slashes included."""

    name: str
    method: str
    path: str
    summary: str
    reply: Any
    body: Any = None
    query: Any = None
    acts: bool = False  # acts as an agent: a claimed agent must show its key
    looks: bool = False  # shows an agent its private records, if it proves its identity
    open: bool = False  # needs no token
    admin: bool = False  # for the relay's operator alone
    text: bool = False  # answers text or a foreign document instead of a reply struct
    stays: bool = False  # the reply goes on for as long as the connection lasts
    headers: tuple[headers.Header, ...] = field(
        default=(), hash=False
    )  # of the request, besides those of every request
    tells: tuple[str, ...] = ()  # headers of the reply that a client needs
    claims: bool = False  # a GET that takes messages: a page in a browser must prove its right, and HEAD is refused
    ticket: bool = False  # a ticket of POST /tickets stands for token and key
    socket: bool = False  # a websocket: its token may also come in the address, or as a subprotocol
    takes_bytes: bool = False  # the body is bytes as they are, not JSON
    gives_bytes: bool = False  # so is the reply
    empty: bool = False  # the reply has headers alone
    use: str = ""  # the use case that does it, in JSON: a method of a part of the relay
    by: str = ""  # the field of the body, or the parameter of the path, that names the acting agent
    otherwise: tuple[str, ...] = ()  # fields of the query that name the asking agent if nothing else does
    quiet: bool = False  # is no sign of life of the acting agent
    registers: bool = False  # without keys of ClawLink 1.1, registers an unknown agent by the way

    @cached_property
    def plain(self) -> bool:
        """Whether token, Origin and Host are all that a request must show."""
        return not (self.claims or self.admin or self.ticket or self.name == "register")

    def url(self, **parameters: str) -> str:
        """Fill in the path's parameters."""
        return _PARAMETER.sub(lambda found: quote(parameters[found[1]], safe=""), self.path)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Match the endpoint's path, percent-encoded. At its end a parameter takes slashes too, but for ids we make."""
        literal = self.path.replace(".", r"\.")
        return re.compile(_PARAMETER.sub(lambda found: f"(?P<{found[1]}>{_TAKES.get(found[1], '.+')})", literal))


INFO = Endpoint("info", "GET", "/", "Show the relay, its contents and its limits.", replies.Info)
REGISTER = Endpoint(
    "register", "POST", "/register", "Register an agent, or resume one.", replies.Registered, body=requests.Register
)
CHALLENGE = Endpoint(
    "challenge",
    "POST",
    "/challenge",
    "Prove the identity of the relay.",
    replies.Challenged,
    body=requests.Challenge,
    open=True,
)
DISCOVER = Endpoint("discover", "GET", "/discover", "List agents.", replies.Discovered, query=requests.DiscoverQuery)
HEARTBEAT = Endpoint(
    "heartbeat", "POST", "/heartbeat", "Show a sign of life.", replies.Beat, body=requests.Heartbeat, acts=True
)
LEAVE = Endpoint("leave", "DELETE", "/agents/{agent_id}", "Leave the relay.", replies.Left, acts=True)
KICK = Endpoint(
    "kick", "POST", "/kick", "Remove an agent, as its operator.", replies.Left, body=requests.Kick, admin=True
)
DELEGATE = Endpoint(
    "delegate",
    "POST",
    "/delegate",
    "Delegate a task.",
    replies.Delegated,
    body=requests.Delegate,
    acts=True,
    use="submission.delegate",
    by="from_agent",
    registers=True,
)
RESPOND = Endpoint(
    "respond",
    "POST",
    "/respond",
    "Report on a task, or answer it.",
    replies.ResponseSent,
    body=requests.Respond,
    acts=True,
    use="responses.respond",
    by="from_agent",
    registers=True,
)
TASKS = Endpoint(
    "tasks",
    "GET",
    "/tasks",
    "List tasks.",
    replies.TaskList,
    query=requests.TasksQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="task_views.list",
    otherwise=("requester", "assignee"),
)
TASK = Endpoint(
    "task",
    "GET",
    "/tasks/{task_id}",
    "Show a task.",
    replies.TaskView,
    query=requests.TaskQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="task_views.get",
)
CANCEL = Endpoint(
    "cancel",
    "POST",
    "/tasks/{task_id}/cancel",
    "Take a task back for good.",
    replies.Cancelled,
    body=requests.Cancel,
    acts=True,
    use="tasks.cancel",
    by="from_agent",
)
ANSWER = Endpoint(
    "answer",
    "POST",
    "/tasks/{task_id}/answer",
    "Answer a question of an assignee.",
    replies.Answered,
    body=requests.Answer,
    acts=True,
    use="tasks.answer",
    by="from_agent",
)
SEND = Endpoint(
    "send",
    "POST",
    "/send",
    "Send a plain message.",
    replies.Sent,
    body=requests.Send,
    acts=True,
    use="messages.send",
    by="from_agent",
)
BROADCAST = Endpoint(
    "broadcast",
    "POST",
    "/broadcast",
    "Tell all other agents that subscribe to a topic.",
    replies.BroadcastSent,
    body=requests.Broadcast,
    acts=True,
    use="broadcasts.broadcast",
    by="from_agent",
    registers=True,
)
KNOWLEDGE = Endpoint(
    "knowledge", "GET", "/broadcasts", "What was told.", replies.KnowledgeList, query=requests.KnowledgeQuery
)
POLL = Endpoint(
    "poll",
    "GET",
    "/poll/{agent_id}",
    "Claim messages.",
    replies.Polled,
    query=requests.PollQuery,
    acts=True,
    claims=True,
)
POLL_AND_ACK = Endpoint(
    "poll_and_ack",
    "POST",
    "/poll/{agent_id}",
    "Settle messages, and claim the next.",
    replies.PolledAndAcked,
    body=requests.PollAndAck,
    acts=True,
)
SOCKET = Endpoint(
    "socket",
    "GET",
    "/ws/{agent_id}",
    "Get messages, and act, over a websocket.",
    None,
    query=requests.StreamQuery,
    acts=True,
    text=True,
    stays=True,
    claims=True,
    socket=True,
)
EVENTS = Endpoint(
    "events",
    "GET",
    "/events/{agent_id}",
    "Get messages as server-sent events.",
    None,
    query=requests.EventsQuery,
    acts=True,
    text=True,
    stays=True,
    claims=True,
    ticket=True,
    headers=(headers.LAST_EVENT_ID,),
)
TICKETS = Endpoint(
    "tickets",
    "POST",
    "/tickets",
    "Get a ticket that opens one event stream without headers.",
    replies.TicketMade,
    body=requests.MakeTicket,
    acts=True,
)
ACK = Endpoint(
    "ack",
    "POST",
    "/ack",
    "Settle leased messages.",
    replies.Receipted,
    body=requests.Ack,
    acts=True,
    use="receipts.ack",
    by="agent_id",
)
NACK = Endpoint(
    "nack",
    "POST",
    "/nack",
    "Give leased messages back.",
    replies.Receipted,
    body=requests.Nack,
    acts=True,
    use="receipts.nack",
    by="agent_id",
)
EXTEND = Endpoint(
    "extend",
    "POST",
    "/extend",
    "Lengthen leases.",
    replies.Receipted,
    body=requests.Extend,
    acts=True,
    use="receipts.extend",
    by="agent_id",
)
DEAD_LETTERS = Endpoint(
    "dead_letters",
    "GET",
    "/dead-letters/{agent_id}",
    "List dead letters.",
    replies.DeadLetters,
    query=requests.ListQuery,
    acts=True,
    use="messages.dead_letters",
    by="agent_id",
)
REDRIVE = Endpoint(
    "redrive",
    "POST",
    "/redrive",
    "Put dead letters back.",
    replies.Redriven,
    body=requests.Redrive,
    acts=True,
    use="messages.redrive",
    by="agent_id",
)
MESSAGE = Endpoint(
    "message",
    "GET",
    "/messages/{message_id}",
    "Show how far a message came.",
    replies.MessageStatus,
    query=requests.MessageQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="messages.status",
)
UNREAD = Endpoint(
    "unread",
    "GET",
    "/agents/{agent_id}/unread",
    "Show what waits in a mailbox, and lease nothing.",
    replies.Unread,
    query=requests.UnreadQuery,
    acts=True,
    use="unread_mail.unread",
    by="agent_id",
    quiet=True,
)
WOKEN = Endpoint(
    "woken",
    "POST",
    "/messages/{message_id}/woken",
    "Store that an agent was woken for a message.",
    replies.WakeStored,
    body=requests.Woken,
    acts=True,
    use="unread_mail.woken",
    by="agent_id",
    quiet=True,
)
FIND_IDS = Endpoint(
    "find_ids",
    "GET",
    "/ids/{beginning}",
    "Find tasks, messages and broadcasts by the first characters of their ids.",
    replies.FoundIds,
    query=requests.Asker,
    acts=True,
    headers=(headers.AGENT,),
    use="messages.find",
)
PUT_FILE = Endpoint(
    "put_file", "POST", "/files", "Write a shared file.", replies.FilePut, body=requests.PutFile, acts=True
)
LIST_FILES = Endpoint(
    "list_files",
    "GET",
    "/files",
    "List shared files.",
    replies.FileList,
    query=requests.FilesQuery,
    looks=True,
    headers=(headers.AGENT,),
    use="file_reads.list",
)
GET_FILE = Endpoint(
    "get_file",
    "GET",
    "/files/{file_key}",
    "Read a shared file.",
    replies.FileContent,
    query=requests.Asker,
    looks=True,
    headers=(headers.AGENT,),
)
DELETE_FILE = Endpoint(
    "delete_file",
    "DELETE",
    "/files/{file_key}",
    "Delete a shared file.",
    replies.FileDeleted,
    query=requests.DeleteFileQuery,
    acts=True,
    headers=(headers.AGENT,),
)
PUT_BLOB = Endpoint(
    "put_blob",
    "PUT",
    "/blobs/{file_key}",
    "Write a shared file as it is.",
    replies.FileSaved,
    acts=True,
    takes_bytes=True,
    headers=headers.PUT_BLOB,
    tells=("ETag",),
)
LIST_BLOBS = Endpoint(
    "list_blobs",
    "GET",
    "/blobs",
    "List shared files.",
    replies.FileList,
    query=requests.FilesQuery,
    looks=True,
    headers=(headers.AGENT,),
    use="file_reads.list",
)
GET_BLOB = Endpoint(
    "get_blob",
    "GET",
    "/blobs/{file_key}",
    "Read a shared file as it is, or list its versions.",
    None,
    query=requests.BlobQuery,
    looks=True,
    text=True,
    gives_bytes=True,
    headers=headers.GET_BLOB,
    tells=headers.OF_A_FILE,
)
HEAD_BLOB = Endpoint(
    "head_blob",
    "HEAD",
    "/blobs/{file_key}",
    "Show the facts of a shared file.",
    None,
    query=requests.BlobQuery,
    looks=True,
    text=True,
    gives_bytes=True,
    headers=headers.HEAD_BLOB,
    tells=headers.OF_A_FILE,
)
DELETE_BLOB = Endpoint(
    "delete_blob",
    "DELETE",
    "/blobs/{file_key}",
    "Delete a shared file, or confirm that it was read.",
    replies.FileDeleted,
    query=requests.DropBlobQuery,
    acts=True,
    headers=headers.DELETE_BLOB,
)
LOCK_FILE = Endpoint(
    "lock_file",
    "POST",
    "/locks",
    "Ask the other agents not to write a file.",
    replies.FileLocked,
    body=requests.LockFile,
    acts=True,
    use="files.lock",
    by="agent_id",
)
UNLOCK_FILE = Endpoint(
    "unlock_file",
    "DELETE",
    "/locks/{file_key}",
    "Give a lock up.",
    replies.FileUnlocked,
    query=requests.UnlockQuery,
    acts=True,
    headers=(headers.AGENT,),
)
UPLOAD_OPTIONS = Endpoint(
    "upload_options",
    "OPTIONS",
    "/uploads",
    "Show the supported parts of tus 1.0.0.",
    None,
    open=True,
    text=True,
    empty=True,
    tells=("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
)
CREATE_UPLOAD = Endpoint(
    "create_upload",
    "POST",
    "/uploads",
    "Begin a resumable upload.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.CREATE_UPLOAD,
    tells=("Location", *headers.OF_AN_UPLOAD),
)
UPLOAD_OFFSET = Endpoint(
    "upload_offset",
    "HEAD",
    "/uploads/{upload_id}",
    "Show how much of an upload has come.",
    None,
    acts=True,
    text=True,
    empty=True,
    headers=headers.UPLOAD,
    tells=("Upload-Length", "Upload-Defer-Length", "Upload-Metadata", *headers.OF_AN_UPLOAD),
)
UPLOAD_PART = Endpoint(
    "upload_part",
    "PATCH",
    "/uploads/{upload_id}",
    "Go on.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.UPLOAD_PART,
    tells=headers.OF_AN_UPLOAD,
)
END_UPLOAD = Endpoint(
    "end_upload",
    "DELETE",
    "/uploads/{upload_id}",
    "Give it up.",
    None,
    acts=True,
    text=True,
    empty=True,
    headers=headers.UPLOAD,
    tells=("Tus-Resumable",),
)
UPLOAD_OTHERWISE = Endpoint(
    "upload_otherwise",
    "POST",
    "/uploads/{upload_id}",
    "Send another method, by the header X-HTTP-Method-Override.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.UPLOAD_OTHERWISE,
    tells=headers.OF_AN_UPLOAD,
)
HEALTH = Endpoint("health", "GET", "/healthz", "Show whether the relay takes work.", replies.Health, open=True)
METRICS = Endpoint("metrics", "GET", "/metrics", "Counters in Prometheus text format.", None, text=True)
OPENAPI = Endpoint("openapi", "GET", "/openapi.json", "This interface as OpenAPI 3.1.", None, text=True)

ENDPOINTS: tuple[Endpoint, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Endpoint))


@dataclass(frozen=True)
class Frame:
    """A request over a websocket that no route takes."""

    name: str
    body: Any
    reply: Any
    use: str
    by: str


# The requests that a websocket takes. A frame says what the body of its endpoint does, with its name as the type.
FRAMES: dict[str, Endpoint | Frame] = {
    row.name: row
    for row in (
        Frame("heartbeat", requests.Heartbeat, replies.Beat, "agents.heartbeat", "agent_id"),
        DELEGATE,
        BROADCAST,
        RESPOND,
        SEND,
        ACK,
        NACK,
        EXTEND,
        Frame("subscribe", requests.Subscribe, replies.Subscribed, "agents.choose_topics", "agent_id"),
        Frame("ping", requests.Ping, replies.Pong, "agents.ping", "agent_id"),
    )
}
