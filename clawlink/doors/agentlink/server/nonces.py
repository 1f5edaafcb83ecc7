"""The signed frames that were used: each counts once, in the memory of one relay, or in the store of several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from clawlink.doors.agentlink.server.records import UsedFrame
from clawlink.errors import NotAllowed, RateLimited
from clawlink.relay.core import Core
from clawlink.relay.ids import derived
from clawlink.store.base import Batch, Conflict, Drop, Put

MAX_OF_ONE = 50_000
MAX_OF_ALL = 500_000
_DIGEST_BYTES = 16


class Nonces:
    """Remembers a nonce only while the relay would accept a frame with it.

    A frame older than ``tolerance`` seconds is refused by its time, so its nonce may be forgotten. Without room the new
    frame is refused; an old nonce is never forgotten, because its frame would then count again. A frame signed before
    ``since`` is refused, because the nonces used then are not known. A clock that is set back lets no frame in again.
    All times are seconds since the epoch.
    """

    def __init__(
        self, *, tolerance: float, since: float, max_of_one: int = MAX_OF_ONE, max_of_all: int = MAX_OF_ALL
    ) -> None:
        self._tolerance = tolerance
        self._horizon = since
        self._max_of_one = max_of_one
        self._max_of_all = max_of_all
        self._used: dict[str, dict[int, set[bytes]]] = {}  # by owner, and second of the time that was signed
        self._counts: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many nonces are remembered."""
        return self._count

    def use(self, owner: str, nonce: str, *, signed_at: float, now: float) -> None:
        """Take a properly signed frame of ``owner``, once.

        Raises NotAllowed if it was used before or its time is too far off, RateLimited if there is no room.
        """
        off = signed_at - now
        if abs(off) > self._tolerance:
            how = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this relay"
            raise NotAllowed(
                f"the time that was signed is {how}, and {self._tolerance:g} s are allowed: set the clock",
                field="time",
                limit=self._tolerance,
                actual=off,
            )
        if signed_at < self._horizon:
            raise NotAllowed(
                "what was signed then may have been used already: the relay was started, or its clock set back, since; "
                "sign it again",
                field="time",
            )
        self._forget(now)
        seconds = self._used.setdefault(owner, {})
        mark = hashlib.blake2b(nonce.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        # The time is signed together with the nonce: a replay has the same second.
        used = seconds.setdefault(int(signed_at), set())
        if mark in used:
            raise used_before()
        self._require_room(owner, seconds)
        used.add(mark)
        self._counts[owner] = self._counts.get(owner, 0) + 1
        self._count += 1

    def _require_room(self, owner: str, seconds: Iterable[int]) -> None:
        for count, limit in ((self._counts.get(owner, 0), self._max_of_one), (self._count, self._max_of_all)):
            if count >= limit:
                raise RateLimited(
                    f"{count} signed frames came within {2 * self._tolerance:g} s, and no more are remembered; "
                    "try again when the oldest are forgotten",
                    limit=limit,
                    actual=count,
                    retry_after=1.0,
                )

    def _forget(self, now: float) -> None:
        """Forget nonces whose time alone refuses them. The seconds of one owner are few, and each goes at once."""
        before = int(self._horizon)
        self._horizon = max(self._horizon, now - self._tolerance)
        if int(self._horizon) == before:
            return
        for owner, seconds in list(self._used.items()):
            for second in [second for second in seconds if second + 1 <= self._horizon]:
                gone = len(seconds.pop(second))
                self._counts[owner] = self._counts.get(owner, 0) - gone
                self._count -= gone
            if not seconds:
                del self._used[owner]
                self._counts.pop(owner, None)


def used_before() -> NotAllowed:
    """Return the refusal of a frame that was used before."""
    return NotAllowed("this frame was used before: a nonce counts once; sign it again with a new one", field="nonce")


_SLICE = 200
_MOST_SLICES = 10


class UsedFrames:
    """Keeps a record of each frame until every relay refuses its time.

    Relays of a mesh read the time of its server, and may differ by less than ``_APART_SECONDS``.
    """

    _APART_SECONDS = 5.0

    def __init__(self, core: Core, *, tolerance: float) -> None:
        self._core = core
        self._tolerance = tolerance

    async def use(self, owner: str, nonce: str, *, signed_at: float) -> None:
        """Take a frame of ``owner``, once. Raises NotAllowed if any relay has taken it, and the store's errors."""
        id = derived("agentlink frame", owner, nonce)
        frame = UsedFrame(id, 1, signed_at + self._tolerance + self._APART_SECONDS)
        try:
            await self._core.commit(id, Put(frame), quiet=True)
        except Conflict:
            raise used_before() from None

    async def forget(self) -> None:
        """Drop the records of frames whose time is over: in steady time, which a stop of all work does not stop."""
        core = self._core
        for _ in range(_MOST_SLICES):
            over = await core.store.ending(UsedFrame, core.steady(), _SLICE)
            if not over:
                return
            batches = [Batch(frame.id, (Drop(frame),)) for frame in over]
            most = core.store.partitions_at_once
            for at in range(0, len(batches), most):
                await core.store.commit_many(batches[at : at + most])
