"""The routes of Agent P2P that new agents do not need, and those that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct

from clawlink.doors.portal.rules.access import HINTS
from clawlink.doors.portal.wire.calls import make_call


class OldSend(Struct, frozen=True):
    """A message to a contact, as agents before 0.5 send it."""

    contact_id: int
    content: str
    message_type: str = "text"


class OpenClawPlace(Struct, frozen=True):
    """The OpenClaw of the owner, which the portal keeps for the owner alone."""

    url: str
    token: str


class Confirm(Struct, frozen=True):
    """The acceptance of a file, as agents of 0.7 send it."""

    api_key: str | None = None
    file_id: str | None = None
    accept: bool | None = None


class FileNote(Struct, frozen=True):
    """The note of a file that a script of 0.8 has sent itself."""

    api_key: str | None = None


class PluginReply(Struct, frozen=True):
    """The agent's answer to its owner, as the channel plugin of OpenClaw sends it."""

    content: str


OLD_SEND = make_call("old_send", "POST", "/api/message/send", "Send a message to a contact, by its number.", OldSend)
OPENCLAW = make_call("openclaw", "POST", "/api/config/openclaw", "Keep where OpenClaw is.", OpenClawPlace)
OLD_CALLS = (
    OLD_SEND,
    OPENCLAW,
    make_call("old_page", "GET", "/static/admin.html", "Lead to the owner's page."),
    make_call("old_icon", "GET", "/static/favicon.png", "Lead to the icon of the page."),
    make_call("plugin_reply", "POST", "/api/internal/agent-reply", "Answer the owner.", PluginReply),
    make_call("file_confirm", "POST", "/api/file/confirm", "Say that files need no confirmation.", Confirm),
    make_call("file_noted", "POST", "/api/file/sent", "Say that the portal sends files itself.", FileNote),
    make_call("notifications", "GET", "/api/notifications/pending", "Say where notifications come."),
    make_call("key_exchange", "POST", "/api/key/exchange", "Say how a key is exchanged."),
)
GONE: Mapping[str, int] = {"file_confirm": 400, "file_noted": 404, "notifications": 410, "key_exchange": 410}
"""The statuses of routes that only say what to do in their place. ``HINTS`` has the words."""
PHOTO_FILES = "/static/photos/"
PHOTO_UPLOAD = replace(
    make_call("photo_upload", "POST", "/api/photos/upload", "Show a photo on the front page."), takes_bytes=True
)
PHOTO_CALLS = (
    PHOTO_UPLOAD,
    make_call("photo_list", "GET", "/api/photos/list", "List the photos of the front page."),
    make_call("photo", "GET", PHOTO_FILES + "{name}", "See a photo of the front page."),
    make_call("photo_remove", "DELETE", "/api/photos/{name}", "Delete a photo of the front page."),
)


def instead(name: str) -> str:
    """Return what is to be done in place of a route that is gone."""
    return HINTS[name].removeprefix("; ")
