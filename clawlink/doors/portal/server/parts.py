"""The parts of a portal, for those that use many of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from clawlink.doors.portal.records import Chat
from clawlink.doors.portal.server.chat import OwnerChat
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.files import Files
from clawlink.doors.portal.server.forwarded_tasks import ForwardedTasks
from clawlink.doors.portal.server.guests import Guests
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.mail import Mail
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.photos import Photos
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.server.tasks import Tasks
from clawlink.relay.relay import Relay
from clawlink.server.page_sessions import PageSessions


class Parts(NamedTuple):
    """The parts of a portal that its routes use."""

    relay: Relay
    url: str
    keys: Keys
    contacts: Contacts
    guests: Guests
    chat: OwnerChat
    mail: Mail
    files: Files
    forwarded_tasks: ForwardedTasks
    tasks: Tasks
    poster: Poster
    wake: Callable[[str], None]
    pages: PageSessions | None
    replied: Callable[[Chat], None]
    keys_ended: Callable[[], Awaitable[None]]


class Home(NamedTuple):
    """The parts of a portal that take what an earlier one had."""

    relay: Relay
    url: str
    repository: Repository
    keys: Keys
    members: Members
    contacts: Contacts
    files: Files
    file_store: FileStore
    photos: Photos
