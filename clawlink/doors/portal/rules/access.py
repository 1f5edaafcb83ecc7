"""The rights on the portal: one table says which role may use which route."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from clawlink.errors import NotAllowed, NotAuthenticated


class Role(str, Enum):
    """The identity that a request shows by its key."""

    NONE = "none"
    """No key, or a key that is not known here: a guest."""
    CONTACT = "contact"
    """The shared key of a contact. It opens what is about that contact alone."""
    AGENT = "agent"
    """An agent key: reads messages, writes to contacts and answers the owner."""
    OWNER = "owner"
    """The owner key, or a session of the owner's login."""


NONE, CONTACT, AGENT, OWNER = Role.NONE, Role.CONTACT, Role.AGENT, Role.OWNER
_ALL = frozenset(Role)
_OWNER = frozenset({OWNER})
_OURS = frozenset({AGENT, OWNER})

RIGHTS: Mapping[str, frozenset[Role]] = {
    "guest_leave": _ALL,
    "guest_list": _OWNER,
    "guest_status": _OWNER,
    "guest_approve": _OWNER,
    "contact_list": _OURS,
    "contact_view": _OURS,
    "contact_reach": _OURS,
    "contact_add": _OWNER,
    "contact_change": _OWNER,
    "contact_remove": _OWNER,
    "contact_terms": _OWNER,
    "contact_renew": _OWNER,
    "contact_forget": _OWNER,
    "message_receive": frozenset({CONTACT}),
    "message_status": frozenset({CONTACT}),
    "key_renew": frozenset({CONTACT}),
    "key_confirm": frozenset({CONTACT}),
    "task_news": frozenset({CONTACT}),
    "task_answer": _OURS,
    "task_cancel": _OURS,
    "task_delegate": _OURS,
    "task_list": _OURS,
    "message_sent": _OURS,
    "message_history": _OURS,
    "message_list": _OURS,
    "chat_send": _OWNER,
    "chat_reply": _OURS,
    "chat_history": _OURS,
    "chat_upload": _OWNER,
    "chat_file": _OURS,
    "login": _ALL,
    "page_login": _ALL,
    "logout_all": _OWNER,
    "password": _OWNER,
    "info": _OWNER,
    "key_create": _OWNER,
    "key_list": _OWNER,
    "key_revoke": _OWNER,
    "owner_renew": _OWNER,
    "about": _ALL,
    "send": _OURS,
    "sent_status": _OURS,
    "guest_decide": _OWNER,
    "file_initiate": frozenset({CONTACT}),
    "file_chunk": frozenset({CONTACT}),
    "file_part": frozenset({CONTACT, AGENT, OWNER}),
    "file_status": frozenset({CONTACT, AGENT, OWNER}),
    "file_download": frozenset({CONTACT, AGENT, OWNER}),
    "file_send": _OURS,
    "file_list": _OURS,
    "file_remove": _OWNER,
    "old_send": _OURS,
    "openclaw": _OWNER,
    "old_page": _ALL,
    "old_icon": _ALL,
    "plugin_reply": _OURS,
    "file_confirm": frozenset({CONTACT, AGENT, OWNER}),
    "file_noted": _OURS,
    "notifications": _OURS,
    "key_exchange": _OURS,
    "photo_upload": _OWNER,
    "photo_list": _ALL,
    "photo": _ALL,
    "photo_remove": _OWNER,
    "import_upload": _OWNER,
    "import_beside": _OWNER,
    "import_start": _OWNER,
    "import_view": _OWNER,
    "import_drop": _OWNER,
    "socket": _OURS,
}
"""The roles that may use each route. A route that is not here does not exist."""

_BY_IMPORT = ", or run 'clawlink portal import' while the portal is stopped"
PAGE_ONLY: Mapping[str, str] = {
    **dict.fromkeys(("import_upload", "import_beside", "import_start", "import_view", "import_drop"), _BY_IMPORT),
    "owner_renew": ", or start the portal with another key in AGENTP2P_API_KEY",
}
"""The routes for a session of the owner's page alone, and the other way to do the same.

Agents hold the owner key, and could bring keys of their own, or shut out their owner.
"""

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 6, 1024
PUBLIC_PASSWORD = "19950302"  # noqa: S105 - the default of Agent P2P, which everybody knows


def password_fault(password: str) -> str | None:
    """Return what is wrong with a password of the owner; None if it can be one."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        return f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters"
    if password == PUBLIC_PASSWORD:
        return "this password is the default of Agent P2P, which everybody knows"
    return None


_WAYS = {
    NONE: "the key is missing or not known here",
    CONTACT: "the key is that of a contact, and this is for the owner",
    AGENT: "the key is an agent key, and this is for the owner",
    OWNER: "the key is the owner's, and this is for contacts",
}
_KEYS = "; give the owner key or an agent key, on the command line as --key or AGENTP2P_API_KEY"


def require(route: str, role: Role) -> None:
    """Refuse a route to a role that may not use it. Raises NotAuthenticated for strangers, NotAllowed for others."""
    if role in RIGHTS[route]:
        return
    if role is NONE or RIGHTS[route] == {CONTACT}:
        ours = _KEYS if role is NONE and OWNER in RIGHTS[route] else ""
        raise NotAuthenticated("Invalid API Key: " + _WAYS[role] + HINTS.get(route, ours))
    raise NotAllowed(_WAYS[role] + HINTS.get(route, ""))


HINTS: Mapping[str, str] = {
    "chat_reply": "; send.py --to-owner of 0.9 sends no key: answer with 'clawlink portal reply' in its place, or send "
    "the header 'Authorization: Bearer <AGENTP2P_API_KEY>'",
    "old_send": "; show an agent key as 'Authorization: Bearer KEY', or use 'clawlink portal send'",
    "file_confirm": "; files need no confirmation: read a complete one by GET /api/file/download/ID, or by 'clawlink "
    "portal get-file'",
    "file_noted": "; the portal keeps no note of a file that a script of 0.8 has sent itself: send it by 'clawlink "
    "portal send-file'",
    "notifications": "; news come over the websocket /ws/agent, which 'clawlink portal bridge' reads; 'clawlink portal "
    "list' shows guests, and 'clawlink portal history CONTACT' messages",
    "key_exchange": "; no key is exchanged by this call: offer one in a guest message, as 'clawlink portal ask URL' "
    "does, and the owner takes it over by the approval",
    "photo_upload": "; give the owner key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
    "plugin_reply": "; the channel plugin p2p-portal sends no key: answer with 'clawlink portal reply' in its place, "
    "or have it send the header 'Authorization: Bearer KEY'",
    "message_receive": "; ask the owner of this portal to approve you as a contact",
}
"""The next step in a refusal, for routes that old peers call without a key."""
