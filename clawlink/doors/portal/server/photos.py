"""The photos of the front page: the owner adds them, and everybody may see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from clawlink.domain.limits import MIB
from clawlink.doors.portal.records import AGENT, PHOTOS, Photo
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.keys import Keys
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.owner_files import OwnerFiles, part_of, within
from clawlink.doors.portal.server.portal_request import PortalRequest, handler_of
from clawlink.doors.portal.wire.old_calls import PHOTO_CALLS, PHOTO_FILES
from clawlink.errors import RelayFull, UnknownFile, UnsupportedMediaType
from clawlink.protocol.endpoint import Endpoint
from clawlink.random_text import random_text
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, parameter
from clawlink.store.base import Drop, Put

MAX_PHOTO_BYTES = 10 * MIB
MAX_PHOTOS = 100
PLACE = "portal/photos/"
"""The beginning of the keys of photos among the relay's files."""
_TYPES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}
_LARGE = f"a photo has at most {MAX_PHOTO_BYTES} bytes"
_MAGIC_BYTES = 12


class Photos:
    """The four routes of photos."""

    def __init__(self, relay: Relay, keys: Keys, contacts: Contacts, members: Members) -> None:
        self._core = relay.core
        self._keys = keys
        self._contacts = contacts
        self._kept = OwnerFiles(relay, members)

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes."""
        for call in PHOTO_CALLS:
            handler = handler_of(self._keys, self._contacts.used, call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    async def photo_upload(self, ask: PortalRequest) -> Any:
        """Keep the part ``photo`` of a form. Its first bytes say which kind of picture it is."""
        known = await self._core.store.usage(Photo, PHOTOS)
        if known.count >= MAX_PHOTOS:
            raise RelayFull(
                f"there are {known.count} photos, and no more are taken; delete one: clawlink portal remove-photo",
                limit=MAX_PHOTOS,
                actual=known.count,
            )
        body = within(await part_of(ask.request, "photo"), MAX_PHOTO_BYTES, "photo", _LARGE)
        first = b""
        async for piece in body:
            first += piece
            if len(first) >= _MAGIC_BYTES:
                break
        ending = _ending_of(first)
        if ending is None:
            raise UnsupportedMediaType("a photo is a picture: jpg, png, gif or webp", field="photo")
        name = f"{random_text(16)}.{ending}"
        await self._kept.put(PLACE + name, _joined(first, body), field="photo")
        await self.note(name)
        return {"status": "ok", "url": PHOTO_FILES + name}

    async def note(self, name: str) -> None:
        """Show a file that is kept among the photos, if it is named as a picture."""
        photo = Photo(id=name, version=1, created_at=self._core.steady())
        if type_of(name) is not None and await self._core.store.get(Photo, name) is None:
            await self._core.commit(AGENT, Put(photo))

    async def photo_list(self, ask: PortalRequest) -> Any:
        """List the photos, the newest first."""
        page = await self._core.store.page(Photo, PHOTOS, limit=MAX_PHOTOS, newest=True)
        return {"photos": [{"url": PHOTO_FILES + quote(photo.id, safe="")} for photo in page.records]}

    async def photo(self, ask: PortalRequest) -> Any:
        """Send a photo. Its name gives the type, and a browser takes it for nothing else."""
        name = parameter(ask.request, "name")
        content_type = type_of(name)
        if content_type is None or await self._core.store.get(Photo, name) is None:
            raise UnknownFile("there is no such photo", field="name")
        return await self._kept.show(ask.request, PLACE + name, content_type)

    async def photo_remove(self, ask: PortalRequest) -> Any:
        name = parameter(ask.request, "name")
        if not await self._forget(name):
            raise UnknownFile("there is no such photo; 'clawlink portal photos' lists them", field="name")
        with suppress(UnknownFile):
            await self._kept.delete(PLACE + name)
        return {"status": "deleted"}

    @retrying
    async def _forget(self, name: str) -> bool:
        photo = await self._core.store.get(Photo, name)
        if photo is not None:
            await self._core.commit(AGENT, Drop(photo))
        return photo is not None


def type_of(name: str) -> str | None:
    """Return the content type of a photo of this name; None for a name of no picture."""
    return _TYPES.get(name.rpartition(".")[2].lower())


def _ending_of(first: bytes) -> str | None:
    """Return the ending that the first bytes of a picture give it; None for no picture."""
    if first.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if first.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if first[:4] == b"RIFF" and first[8:12] == b"WEBP" else None


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
