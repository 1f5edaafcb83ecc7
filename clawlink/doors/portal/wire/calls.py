"""The routes of portals, and their bodies. Unknown fields are ignored, as old peers send some."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from clawlink.domain.limits import MAX_ATTACHMENTS, MAX_DEADLINE_SECONDS
from clawlink.doors.portal.rules.access import RIGHTS, Role
from clawlink.doors.portal.rules.texts import MAX_NOTE_LENGTH
from clawlink.protocol.endpoint import Endpoint

Note = Annotated[str, Meta(max_length=MAX_NOTE_LENGTH)]
Deadline = Annotated[float, Meta(gt=0, le=MAX_DEADLINE_SECONDS)]
FileIds = Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=MAX_ATTACHMENTS)]


class Leave(Struct, frozen=True):
    """A guest message."""

    content: str


class Status(Struct, frozen=True):
    """The owner's decision about a guest message, as old agents send it."""

    status: str


class Approve(Struct, frozen=True):
    """The older approval in one step."""

    portal_url: str | None = None
    agent_name: str = "Unknown"
    user_name: str = "Unknown"


class Decide(Struct, frozen=True):
    """The owner's decision in full. What the guest's text does not say stands here."""

    decision: str
    portal_url: str | None = None
    key: str | None = None
    agent_name: str | None = None
    user_name: str | None = None
    replace: bool = False


class PutContact(Struct, frozen=True, rename={"key": "SHARED_KEY"}):
    """A contact, as the owner's agent adds or changes it."""

    portal_url: str
    display_name: str | None = None
    agent_name: str | None = None
    user_name: str | None = None
    key: str | None = None


class Terms(Struct, frozen=True):
    """The terms of a contact. A field that is left out stays, and an empty text takes one away."""

    display_name: str | None = None
    blocked: bool | None = None
    paused: bool | None = None
    until: str | None = None
    pin: str | None = None


class FromPortal(Struct, frozen=True):
    """A request of the portal of a contact."""

    api_key: str
    from_portal: str


class Receive(FromPortal, frozen=True):
    """A message from the portal of a contact. The last two fields are those of ClawLink."""

    content: str
    message_type: str = "text"
    idempotency_key: str | None = None
    in_reply_to: str | None = None


class AskStatus(FromPortal, frozen=True):
    """The question of another portal how far its message came."""

    idempotency_key: str


class RenewKey(FromPortal, frozen=True):
    """The key that the portal of a contact offers in place of the old one."""

    new_key: str


class TaskNews(FromPortal, frozen=True):
    """A task of the portal of a contact, or news of one. ``kind`` is task, response, answer or cancel.

    ``task_id`` is the id at the portal that delegated the task. ``files`` came for it before, by their ids here.
    """

    kind: str
    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
    content: Any = None
    context: Any = None
    deadline: Deadline | None = None
    status: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    note: Note | None = None
    key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    files: FileIds = []


class AnswerTask(Struct, frozen=True):
    """A report of the owner's agent on a task of a contact, or its answer to the question about its own task.

    A report takes ``files`` that were brought here for it.
    """

    result: Any = None
    status: Annotated[str, Meta(min_length=1, max_length=64)] = "completed"
    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    note: Note | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    files: FileIds = []


class CancelTask(Struct, frozen=True):
    """A task for a contact that is taken back."""

    note: Note | None = None


class DelegateTask(Struct, frozen=True):
    """A task for a contact, which is named by number, name or address. ``files`` were brought here to be attached."""

    to: str | int
    task: Any
    context: Any = None
    deadline: Deadline | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    files: FileIds = []

    def __post_init__(self) -> None:
        if self.task in (None, "", [], {}):
            raise ValueError("task is what is to be done, and not empty")


class Sent(Struct, frozen=True):
    """A message that an old script has posted itself."""

    api_key: str
    to_portal: str
    content: str
    message_type: str = "text"


class Send(Struct, frozen=True):
    """A message to a contact, which is named by number, name or address."""

    to: str | int
    content: str
    message_type: str = "text"
    idempotency_key: str | None = None
    in_reply_to: int | None = None


class Say(Struct, frozen=True):
    """A line of the chat between owner and agent."""

    content: str


class Login(Struct, frozen=True):
    """The owner's login."""

    password: str


class ChangePassword(Struct, frozen=True):
    """A new password for the owner's login."""

    old_password: str
    new_password: str


class CreateKey(Struct, frozen=True):
    """An agent key that is to be made."""

    portal_url: str | None = None
    agent_name: str | None = None
    user_name: str | None = None


class StartImport(Struct, frozen=True):
    """An act on the old database that was brought. ``at`` is the address of its portal, this one's if not given.

    Keys are named in full, by their first characters, or by the ``id`` that the report has for them.
    """

    bring: bool = False
    at: str | None = None
    owner_key: str | None = None
    agent_keys: Annotated[list[str], Meta(max_length=100)] = []


def make_call(name: str, method: str, path: str, summary: str, body: Any = None) -> Endpoint:
    """Return the row of a route."""
    # Each route asks for its own keys, so the relay's token opens none and is needed for none.
    roles = RIGHTS[name]
    by_page = Role.OWNER in roles and Role.NONE not in roles
    return Endpoint(name, method, path, summary, None, body=body, open=True, text=True, session=by_page)


CALLS = (
    make_call("guest_leave", "POST", "/api/guest/leave-message", "Leave a message for the owner.", Leave),
    make_call("guest_list", "GET", "/api/guest/messages", "List guest messages."),
    make_call(
        "guest_status", "POST", "/api/guest/messages/{message_id}/status", "Decide about a guest message.", Status
    ),
    make_call("guest_approve", "POST", "/api/guest/messages/{message_id}/approve", "Approve a guest.", Approve),
    make_call("contact_list", "GET", "/api/contacts", "List contacts."),
    make_call("contact_reach", "GET", "/api/portal/reach", "Tell which portals of contacts were reached."),
    make_call("contact_add", "POST", "/api/contacts", "Add or replace a contact.", PutContact),
    make_call("contact_change", "PUT", "/api/contacts/{contact_id}", "Change a contact.", PutContact),
    make_call("contact_remove", "DELETE", "/api/contacts/{contact_id}", "Remove a contact."),
    make_call("contact_renew", "POST", "/api/portal/contacts/{contact_id}/key", "Renew the key of a contact."),
    make_call("contact_view", "GET", "/api/portal/contacts/{contact_id}", "Show a contact."),
    make_call("contact_terms", "POST", "/api/portal/contacts/{contact_id}", "Set the terms of a contact.", Terms),
    make_call("contact_forget", "DELETE", "/api/portal/contacts/{contact_id}", "Forget all of a contact."),
    make_call("message_receive", "POST", "/api/message/receive", "Take a message of a contact.", Receive),
    make_call("message_status", "POST", "/api/message/status", "Tell a contact how far its message came.", AskStatus),
    make_call("key_renew", "POST", "/api/portal/key", "Take a new key of a contact.", RenewKey),
    make_call("key_confirm", "POST", "/api/portal/key/confirm", "Confirm an offered key.", FromPortal),
    make_call("task_news", "POST", "/api/portal/tasks", "Take a task of a contact, or news of one.", TaskNews),
    make_call("task_answer", "POST", "/api/portal/tasks/{task_id}", "Report on a task of a contact.", AnswerTask),
    make_call("task_cancel", "POST", "/api/portal/tasks/{task_id}/cancel", "Cancel a task for a contact.", CancelTask),
    make_call("task_delegate", "POST", "/api/portal/delegate", "Give a contact a task.", DelegateTask),
    make_call("task_list", "GET", "/api/portal/tasks", "List the tasks from and to contacts."),
    make_call("message_sent", "POST", "/api/message/sent", "Note a message that a script has posted.", Sent),
    make_call("message_history", "GET", "/api/messages/history", "List messages with a contact, newest first."),
    make_call("message_list", "GET", "/api/messages", "List messages with a contact, oldest first."),
    make_call("chat_send", "POST", "/api/chat/owner/send", "Write to the agent, as its owner.", Say),
    make_call("chat_reply", "POST", "/api/chat/owner/reply", "Answer the owner.", Say),
    make_call("chat_history", "GET", "/api/chat/owner/history", "Show the chat of owner and agent."),
    make_call("login", "POST", "/api/admin/login", "Log in as the owner.", Login),
    make_call("page_login", "POST", "/api/portal/session", "Log in as the owner, at the page.", Login),
    make_call("logout_all", "POST", "/api/portal/logout-all", "End all logins of the owner."),
    make_call("password", "POST", "/api/auth/change-password", "Change the owner's password.", ChangePassword),
    make_call("info", "GET", "/api/portal/info", "Show the portal to its owner."),
    make_call("key_create", "POST", "/api/key/create", "Make an agent key.", CreateKey),
    make_call("owner_renew", "POST", "/api/portal/owner-key", "Make another owner key, and end the present one."),
    make_call("key_list", "GET", "/api/key/list", "List agent keys."),
    make_call("key_revoke", "POST", "/api/key/revoke", "Revoke an agent key."),
    make_call("about", "GET", "/api/portal/about", "Say that this portal is a relay of ClawLink."),
    make_call("send", "POST", "/api/portal/send", "Send a message to a contact.", Send),
    make_call("sent_status", "GET", "/api/portal/messages/{message_id}", "Tell how far a message came."),
    make_call("guest_decide", "POST", "/api/portal/guests/{message_id}", "Decide about a guest message.", Decide),
)
IMPORT = "/api/portal/import"
IMPORT_CALLS = (
    replace(make_call("import_upload", "PUT", IMPORT, "Take a database of Agent P2P."), takes_bytes=True),
    replace(
        make_call("import_beside", "PUT", IMPORT + "/{place}/{name}", "Take a photo or an attachment beside it."),
        takes_bytes=True,
    ),
    make_call("import_start", "POST", IMPORT, "Say what would come, or bring it.", StartImport),
    make_call("import_view", "GET", IMPORT, "Tell how far it came."),
    make_call("import_drop", "DELETE", IMPORT, "Stop, and delete what was brought for it."),
)
SOCKET = Endpoint(
    "socket", "GET", "/ws/agent", "The websocket of the owner's agent.", None, open=True, text=True, stays=True
)
ATTACHMENTS = "/static/owner_files/"
CHAT_UPLOAD = replace(
    make_call("chat_upload", "POST", "/api/chat/owner/upload", "Keep an attachment of the chat."), takes_bytes=True
)
CHAT_FILE = make_call("chat_file", "GET", ATTACHMENTS + "{name}", "Read an attachment of the chat.")
