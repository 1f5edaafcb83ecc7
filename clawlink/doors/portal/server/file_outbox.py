"""Sends the files that wait for contacts: one file of a contact at a time, a few of all."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from functools import partial

from msgspec.structs import replace

from clawlink.domain.backoff import backoff, spread
from clawlink.domain.task import FINAL, TaskState
from clawlink.doors.portal.records import Contact, ForwardedTask, forwarded_of
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.rules.urls import shown
from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.file_poster import Begun, Bytes, FilePoster, Refusal, There
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.server.workers import ContactWorkers
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.errors import NotAllowed, NotFound, OverLimit, StorageFull, Unavailable
from clawlink.protocol import requests
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Failed, Fenced

FILES_AT_ONCE = 16
MOST_FAILED = 3
MOST_MISHAPS = 3
_READ_BYTES = 256 * 1024
_MISHAP_SECONDS = 5.0
_FULL = 507
# Failures that pass by themselves: no file is to blame.
_PASSING = (Conflict, Failed, Unavailable, OverLimit, StorageFull)
_log = logging.getLogger("clawlink.portal")


class FileOutbox(ContactWorkers):
    """Sends files. A contact for which none waits costs nothing."""

    def __init__(
        self,
        relay: Relay,
        repository: Repository,
        file_store: FileStore,
        poster: FilePoster,
        moved: Callable[[str], None],
    ) -> None:
        """``moved`` is called with a contact once a file for it is settled."""
        super().__init__()
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._file_store = file_store
        self._poster = poster
        self._moved = moved
        self._at_once = asyncio.Semaphore(FILES_AT_ONCE)
        self._failed: dict[str, int] = {}
        self._mishaps: dict[str, int] = {}
        self._aside: set[str] = set()
        """Files whose end cannot be stored. They hold up no other, and are tried again after a restart."""

        self._kept: dict[str, set[str]] = {}
        """By contact, the files of answers that wait while the contact is blocked. They hold up no other."""

    def wake(self, contact: str) -> None:
        """Send what waits for a contact, at once if it waits for another try."""
        self._kept.pop(contact, None)
        super().wake(contact)

    async def start(self) -> None:
        """Go on with the files that waited when the relay was here last."""
        self._closed = False
        for contact in await self._file_store.receivers():
            self.wake(contact)

    def look(self, contact: str) -> None:
        """Send what waits for a contact, in its turn: a pause after a failure goes on."""
        if contact in self._working:
            self._again.add(contact)
        else:
            self.wake(contact)

    async def close(self) -> None:
        """Stop sending. What is there of a file stays there, and the relay goes on with it when it comes back."""
        self._closed = True
        await self._cancel()

    async def _work(self, contact: str) -> None:
        tries = 0
        while True:
            self._again.discard(contact)
            try:
                transfer = await self._file_store.next_waiting(contact, self._aside | self._kept.get(contact, set()))
                if transfer is None:
                    return
                self._hurry[contact].clear()
                if self._core.stopped:
                    await self._wait(contact, outbox.STOPPED_SECONDS)
                    continue
                done = await self._send_or_end(transfer)
            except Fenced:  # another relay is the portal now
                return
            except _PASSING:
                _log.exception("sending files waits for the store", extra={"contact": contact})
                await self._wait(contact, _MISHAP_SECONDS)
                continue
            tries = 0 if done else tries + 1
            if not done:
                await self._pause(contact, transfer, tries)

    async def _send_or_end(self, transfer: Transfer) -> bool:
        """Take a file as far as it goes; return True once it is settled. A file that always fails is ended."""
        try:
            async with self._at_once:
                return await self._send(transfer)
        except _PASSING:
            raise
        except Exception:
            _log.exception("a file cannot be sent", extra={"contact": transfer.contact, "file": transfer.id})
        mishaps = self._mishaps[transfer.id] = self._mishaps.get(transfer.id, 0) + 1
        if mishaps < MOST_MISHAPS:
            return False
        try:
            return await self._settle(
                transfer,
                FileState.REFUSED,
                "the portal could not read it to send it; send it again, or in another form",
            )
        except _PASSING:
            raise
        except Exception:
            _log.exception("a file cannot be ended", extra={"contact": transfer.contact, "file": transfer.id})
            self._aside.add(transfer.id)
            return True

    async def _pause(self, contact: str, transfer: Transfer, tries: int) -> None:
        pause = spread(
            backoff(tries, first=outbox.FIRST_PAUSE_SECONDS, most=outbox.MOST_PAUSE_SECONDS), random.random()
        )
        if transfer.expires_at is not None:
            pause = min(pause, max(transfer.expires_at - self._core.clock(), 0.0))
        await self._wait(contact, pause)

    async def _send(self, transfer: Transfer) -> bool:
        """Take a file as far as it goes; return True once it is settled."""
        peer = await self._core.store.get(Contact, transfer.contact)
        why = "removed" if peer is None else peer.shut(self._core.steady())
        if peer is None or (why is not None and not await self._is_for_answer(transfer)):
            return await self._settle(transfer, FileState.REFUSED, f"the contact was {why} before the file was sent")
        if transfer.expires_at is not None and transfer.expires_at <= self._core.clock():
            last = f"; the last failure: {transfer.detail}" if transfer.detail else ""
            return await self._settle(transfer, FileState.EXPIRED, f"it was not sent within its time to live{last}")
        if why is not None:
            self._kept.setdefault(transfer.contact, set()).add(transfer.id)
            return True
        if peer.paused:
            return False
        if transfer.for_task and await self._is_over(transfer):
            return await self._settle(transfer, FileState.REFUSED, "the task that it goes with is over")
        outcome = await self._step(peer, transfer)
        if isinstance(outcome, Refusal):
            if outcome.final or (transfer.task is not None and outcome.status == _FULL):
                return await self._settle(transfer, FileState.REFUSED, outcome.detail)
            await self._file_store.note(transfer.id, FileState.QUEUED, outcome.detail)
            return False
        return await self._settle(transfer, FileState.SENT, "")

    async def _is_for_answer(self, transfer: Transfer) -> bool:
        """Return True if a file goes with the answer to a task of its contact, which waits for a blocked contact."""
        if not transfer.task:
            return False
        return bool(
            (await self._core.store.page(ForwardedTask, forwarded_of(transfer.contact, transfer.task), limit=1)).records
        )

    async def _is_over(self, transfer: Transfer) -> bool:
        """Return True if the task of an attachment needs no files any more."""
        agent = await self._file_store.agent(transfer.contact, inbound=True)
        try:
            view = await self._relay.task_views.get(agent, str(transfer.task), requests.TaskQuery())
        except (NotFound, NotAllowed):
            return True
        return TaskState(view.status) in FINAL

    async def _step(self, peer: Contact, transfer: Transfer) -> Refusal | None:
        """Send what the other portal does not have; None once it has all of it, and the sums are right there."""
        if transfer.md5 is None and not peer.ours:  # a portal of Agent P2P knows no other sum
            transfer = replace(transfer, md5=await self._file_store.md5(transfer))
        begun = await self._poster.begin(peer, transfer) if transfer.peer_id is None else None
        if isinstance(begun, Refusal):
            return begun
        if begun is not None:
            await self._file_store.note(transfer.id, FileState.QUEUED, "", begun.file_id)
        file_id = begun.file_id if begun is not None else str(transfer.peer_id)
        there = await self._poster.look(peer, file_id)
        if isinstance(there, There) and there.status not in ("transferring", "completed"):
            begun = None  # it is not known there any more, or it has failed
            again = await self._poster.begin(peer, transfer)
            if isinstance(again, Refusal):
                return again
            await self._file_store.note(transfer.id, FileState.QUEUED, "", again.file_id)
            begun, there = again, await self._poster.look(peer, again.file_id)
        if isinstance(there, Refusal):
            return there
        if there.status == "completed":
            return None
        begun = begun or Begun(file_id, raw=bool(peer.ours))
        peer = await self._core.store.get(Contact, peer.id) or peer  # it may have taken the offered key just now
        return await self._send_parts(peer, transfer, begun, there)

    async def _send_parts(self, peer: Contact, transfer: Transfer, begun: Begun, there: There) -> Refusal | None:
        refused = await self._send_missing(peer, transfer, begun, there)
        if refused is not None and not refused.final:
            return refused
        end = await self._poster.look(peer, begun.file_id)
        if isinstance(end, Refusal):
            return end
        if end.status == "completed":
            return None
        self._failed[transfer.id] = self._failed.get(transfer.id, 0) + 1
        detail = refused.detail if refused is not None else f"the other portal says that the file is {end.status}"
        return Refusal(detail, final=self._failed[transfer.id] >= MOST_FAILED)

    async def _send_missing(self, peer: Contact, transfer: Transfer, begun: Begun, there: There) -> Refusal | None:
        """Send parts until all are taken or one is refused.

        Between two portals of ClawLink a part leaves while the other portal puts the one before on its disk.
        """
        refused: Refusal | None = None
        under_way: list[asyncio.Task[Refusal | None]] = []
        try:
            for index in range(file_parts.count(transfer.size, transfer.part_size)):
                if index in there.received:
                    continue
                if self._core.stopped:
                    return Refusal("the operator has stopped all work here; it goes on once work is resumed", False)
                length = file_parts.length(index, transfer.size, transfer.part_size)
                leaving = _Leaving()
                contents = partial(self._contents, transfer, index * transfer.part_size, length, leaving)
                under_way.append(asyncio.create_task(self._part(peer, begun, index, length, contents, leaving)))
                await _either(leaving.gone, under_way[-1])
                while refused is None and len(under_way) > (1 if begun.raw else 0):
                    refused = await under_way.pop(0)
                if refused is not None:
                    return refused
            while refused is None and under_way:
                refused = await under_way.pop(0)
            return refused
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _part(
        self, peer: Contact, begun: Begun, index: int, length: int, contents: Bytes, leaving: _Leaving
    ) -> Refusal | None:
        """Send a part. What failed here, and not on the way, is raised: aiohttp would call it a lost connection."""
        refused = await self._poster.part(peer, begun, index, length, contents)
        if leaving.fault is not None:
            raise leaving.fault
        return refused

    async def _contents(
        self, transfer: Transfer, start: int, length: int, leaving: _Leaving
    ) -> AsyncGenerator[bytes, None]:
        """Give a part, and note once all of it has left."""
        try:
            async with self._file_store.opened(transfer, start) as (_, opened):
                while length > 0 and (piece := await opened.read(min(_READ_BYTES, length))):
                    length -= len(piece)
                    yield piece
        except Exception as fault:
            leaving.fault = fault
            raise
        leaving.gone.set()

    async def _settle(self, transfer: Transfer, state: FileState, detail: str) -> bool:
        """End a file, and tell the owner's agent if it did not arrive."""
        self._failed.pop(transfer.id, None)
        self._mishaps.pop(transfer.id, None)
        text = f"File {transfer.filename} to {shown(transfer.contact)} is {state.value}: {detail}"
        quiet = state is FileState.SENT or transfer.for_task  # the requester of the task hears of it
        await self._file_store.sent(transfer.id, state, detail, None if quiet else text)
        self._moved(transfer.contact)
        return True


class _Leaving:
    """A part on its way out: whether all of it has left, and what failed at its source."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.fault: Exception | None = None


async def _either(event: asyncio.Event, task: asyncio.Task[Refusal | None]) -> None:
    """Wait until an event is set or a task is over."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
