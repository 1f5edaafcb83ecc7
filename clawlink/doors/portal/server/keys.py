"""The keys of a portal: which role a request has, the owner's password, and the sessions of the owner's login."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from clawlink.doors.portal.records import AGENT, KEYS, AgentKey, Contact, Portal, contact_by_key, hash_key
from clawlink.doors.portal.rules import access, consent
from clawlink.doors.portal.rules.access import Role
from clawlink.errors import BadRequest, ClawLinkError, NotAuthenticated, RateLimited, RelayFull
from clawlink.random_text import random_text
from clawlink.relay.core import retrying
from clawlink.relay.limits.token_buckets import Buckets
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Drop, Failed, Put

OWNER_KEY = "AGENTP2P_API_KEY"
PASSWORD = "CLAWLINK_PORTAL_PASSWORD"  # noqa: S105 - the name of a variable
SESSION_SECONDS = 24 * 3600.0
LOGINS_AT_ONCE = 10
LOGIN_SECONDS = 60.0
MAX_AGENT_KEYS = 100
MAX_LABEL_LENGTH = 200
_SHOWN_KEY = 20
_MOST_ENDED = 100
_ALL = "all addresses"
_ALL_TIMES = 10
_MOST_SESSIONS = 100
_USE_SECONDS = 3600.0
PORTAL_ID = "portal"
PAGE = secrets.token_hex(32)
"""Stands in this process for the session of the owner's page, which the relay has looked at itself."""
_COST = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}


class Caller(NamedTuple):
    """The role of a request, and the contact whose key it shows."""

    role: Role
    contact: Contact | None = None
    key: str = ""


class Keys:
    """Knows keys, password and sessions. It keeps hashes of all but the shared keys, which it has to send."""

    def __init__(self, relay: Relay, url: str) -> None:
        self._relay = relay
        self._core = relay.core
        self._url = url
        self._logins = Buckets(1 / LOGIN_SECONDS, LOGINS_AT_ONCE)
        self._all_logins = Buckets(_ALL_TIMES / LOGIN_SECONDS, LOGINS_AT_ONCE * _ALL_TIMES)
        self._hashing = asyncio.Semaphore(1)

    @retrying
    async def start(self, environ: Mapping[str, str]) -> list[str]:
        """Make the owner key and the password at the first start. Return what the operator has to read once.

        Of several relays that start at once, one makes them.
        The environment replaces the owner key at any start, and the password at the first alone: the owner changes it.
        Raises ClawLinkError for a key or a password that everybody knows.
        """
        key, password = environ.get(OWNER_KEY) or None, environ.get(PASSWORD) or None
        if key is not None and (fault := consent.key_fault(key)) is not None:
            raise ClawLinkError(f"{OWNER_KEY} cannot be the owner key: {fault}; unset it to have one made")
        if password is not None and (fault := access.password_fault(password)) is not None:
            raise ClawLinkError(f"{PASSWORD} cannot be the owner's password: {fault}; unset it to have one made")
        told = []
        before = await self._core.store.get(Portal, PORTAL_ID) or Portal(
            id=PORTAL_ID, version=0, url=self._url, owner_hash="", password=""
        )
        if key is not None and hash_key(key) in before.ended_keys:
            told.append(f"Warning: {OWNER_KEY} is an owner key that was ended on the page: put the present one there.")
            key = None
        if key is None and not before.owner_hash:
            key = new_key()
            told.append(f"The owner key of the portal, shown this once: {key}")
        if password is None and not before.password:
            password = random_text(12)
            told.append(f"The owner's password, shown this once: {password}")
        stored = before.password
        if password is not None and not stored:
            stored = await self._hashed(password)
        same = stored == before.password
        new = replace(
            self._with_owner(before, key),
            url=self._url,
            password=stored,
            sessions=before.sessions if same else {},
            pages=before.pages if same else {},
        )
        if new != before:
            await self._core.commit(new.partition_key, Put(replace(new, version=before.version + 1)))
        return told

    @retrying
    async def adopt(self, key: str | None, password: str | None) -> bool:
        """Take over the owner key of an earlier portal, and its password if none is set here.

        The next start makes what is missing. Return True if the password came.
        """
        old = await self._core.store.get(Portal, PORTAL_ID)
        kept = "" if old is None else old.password
        comes = password is not None and not kept and access.password_fault(password) is None
        hashed = await self._hashed(password) if comes and password is not None else kept
        before = old or Portal(id=PORTAL_ID, version=0, url=self._url, owner_hash="", password="")
        new = replace(self._with_owner(before, key), password=hashed)
        if old is None or new != old:
            await self._core.commit(new.partition_key, Put(replace(new, version=before.version + 1)))
        return comes

    def _with_owner(self, portal: Portal, key: str | None) -> Portal:
        """Return the settings with this owner key; None is the present one."""
        if key is None or (hash_key(key) == portal.owner_hash and portal.owner_shown):
            return portal
        hashed = hash_key(key)
        return replace(
            portal,
            owner_hash=hashed,
            owner_shown=key[:_SHOWN_KEY] + "...",
            owner_since=self._core.steady(),
            owner_used_at=None,
            ended_keys=tuple(one for one in portal.ended_keys if one != hashed),
        )

    async def owner(self) -> Portal | None:
        """Return the settings, which tell of the owner key."""
        return await self._core.store.get(Portal, PORTAL_ID)

    @retrying
    async def renew_owner(self) -> str:
        """Make another owner key, shown this once. The one before counts no more, also if the environment has it."""
        key = new_key()
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            new = self._with_owner(portal, key)
            ended = (*portal.ended_keys, portal.owner_hash)[-_MOST_ENDED:]
            await self._core.commit(AGENT, Put(replace(new, version=portal.version + 1, ended_keys=ended)))
        return key

    async def caller(self, key: str | None) -> Caller:
        """Return the role that a key or a session gives."""
        if not key:
            return Caller(Role.NONE)
        if hmac.compare_digest(key.encode("utf-8", "surrogatepass"), PAGE.encode()):
            return Caller(Role.OWNER)
        hashed = hash_key(key)
        store = self._core.store
        portal = await store.get(Portal, PORTAL_ID)
        if portal is not None and hmac.compare_digest(portal.owner_hash, hashed):
            await self._note_owner_use(portal)
            return Caller(Role.OWNER)
        if portal is not None and portal.sessions.get(hashed, 0.0) > self._core.steady():
            return Caller(Role.OWNER)
        own = await store.get(AgentKey, hashed)
        if own is not None:
            await self._note_use(own)
            return Caller(Role.AGENT)
        for contact in (await store.page(Contact, contact_by_key(hashed), limit=1)).records:
            if any(hmac.compare_digest(hash_key(known), hashed) for known in contact.keys):
                return Caller(Role.CONTACT, contact, key)
        return Caller(Role.NONE)

    async def _note_use(self, key: AgentKey) -> None:
        """Note that a key is in use, once an hour. Another request may have done it, and no request fails for it."""
        now = self._core.steady()
        if key.used_at is None or now - key.used_at > _USE_SECONDS:
            with contextlib.suppress(Conflict, Failed, ClawLinkError):
                await self._core.commit(AGENT, Put(replace(key, version=key.version + 1, used_at=now)))

    async def _note_owner_use(self, portal: Portal) -> None:
        """Note that the owner key is in use, as for an agent key."""
        now = self._core.steady()
        if portal.owner_used_at is None or now - portal.owner_used_at > _USE_SECONDS:
            with contextlib.suppress(Conflict, Failed, ClawLinkError):
                await self._core.commit(AGENT, Put(replace(portal, version=portal.version + 1, owner_used_at=now)))

    async def require(self, route: str, key: str | None) -> Caller:
        """Return the caller, or refuse one that may not use the route."""
        caller = await self.caller(key)
        access.require(route, caller.role)
        return caller

    # -- agent keys --------------------------------------------------------------------------------------------------

    async def make(self, label: str) -> str:
        """Make an agent key, which is shown this once. Raises RelayFull."""
        known = await self._core.store.usage(AgentKey, KEYS)
        if known.count >= MAX_AGENT_KEYS:
            raise RelayFull(
                f"there are {known.count} agent keys; revoke some", limit=MAX_AGENT_KEYS, actual=known.count
            )
        key = new_key()
        made = AgentKey(
            id=hash_key(key),
            version=1,
            label=label[:MAX_LABEL_LENGTH],
            shown=key[:_SHOWN_KEY] + "...",
            created_at=self._core.steady(),
        )
        await self._core.commit(made.partition_key, Put(made))
        return key

    async def agent_keys(self) -> Sequence[AgentKey]:
        """Return the agent keys."""
        return (await self._core.store.page(AgentKey, KEYS, limit=MAX_AGENT_KEYS)).records

    @retrying
    async def revoke(self, named: str) -> bool:
        """Revoke an agent key, named in full or by its first characters as they are listed; False if none is."""
        hashed = hash_key(named)
        found = [key for key in await self.agent_keys() if hashed == key.id or named == key.shown]
        if found:
            await self._core.commit(AGENT, *map(Drop, found))
        return bool(found)

    # -- the owner's login -------------------------------------------------------------------------------------------

    async def login(self, password: str, address: str | None) -> tuple[str, float]:
        """Return a new session and its end. Raises NotAuthenticated, and RateLimited after many wrong passwords."""
        await self._require_right(password, address)
        token = secrets.token_hex(32)
        return token, await self._begin_session(hash_key(token))

    @retrying
    async def _begin_session(self, hashed: str) -> float:
        now = self._core.steady()
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            sessions = [(one, end) for one, end in portal.sessions.items() if end > now][-_MOST_SESSIONS + 1 :]
            begun = {**dict(sessions), hashed: now + SESSION_SECONDS}
            await self._core.commit(AGENT, Put(replace(portal, version=portal.version + 1, sessions=begun)))
        return now + SESSION_SECONDS

    async def require_password(self, password: str, address: str | None) -> None:
        """Refuse all but the owner's password. Raises NotAuthenticated, and RateLimited after many wrong ones."""
        await self._require_right(password, address)

    @retrying
    async def end_sessions(self) -> int:
        """End all logins, those at the page, too. Return how many others there were."""
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is None or not (portal.sessions or portal.pages):
            return 0
        await self._core.commit(AGENT, Put(replace(portal, version=portal.version + 1, sessions={}, pages={})))
        return len(portal.sessions)

    async def change_password(self, old: str, new: str, address: str | None) -> None:
        """Change the password, and end all sessions. Raises BadRequest for a wrong old one."""
        _require_password(new, field="new_password")
        try:
            await self._require_right(old, address)
        except NotAuthenticated as error:
            raise BadRequest(error.message, field="old_password") from None
        await self._set_password(await self._hashed(new))

    async def set_password(self, new: str | None) -> str:
        """Set another password without the old one, for the operator of the machine. None makes one. Return it."""
        new = random_text(12) if new is None else new
        _require_password(new, field="password")
        await self._set_password(await self._hashed(new))
        return new

    @retrying
    async def _set_password(self, stored: str) -> None:
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is not None:
            new = replace(portal, version=portal.version + 1, password=stored, sessions={}, pages={})
            await self._core.commit(new.partition_key, Put(new))

    async def _require_right(self, password: str, address: str | None) -> None:
        now = self._core.steady()
        wait = max(self._all_logins.wait(_ALL, now), 0.0 if address is None else self._logins.wait(address, now))
        if wait:
            raise RateLimited(
                f"too many logins; try again in {math.ceil(wait)} s",
                limit=LOGINS_AT_ONCE,
                retry_after=wait,
                field="password",
            )
        self._all_logins.take(_ALL, now)
        if address is not None:
            self._logins.take(address, now)
        portal = await self._core.store.get(Portal, PORTAL_ID)
        if portal is None or not await self._is_password(password[: access.MAX_PASSWORD_LENGTH], portal.password):
            raise NotAuthenticated("the password is wrong", field="password")

    async def _hashed(self, password: str) -> str:
        salt = os.urandom(16)
        return f"{salt.hex()}${(await self._scrypt(password, salt)).hex()}"

    async def _is_password(self, password: str, stored: str) -> bool:
        salt, _, expected = stored.partition("$")
        return hmac.compare_digest((await self._scrypt(password, bytes.fromhex(salt))).hex(), expected)

    async def _scrypt(self, password: str, salt: bytes) -> bytes:
        """Hash in a thread, one at a time: each takes 16 MiB and a good part of a second."""
        async with self._hashing:
            data = password.encode("utf-8", "surrogatepass")
            return await asyncio.to_thread(lambda: hashlib.scrypt(data, salt=salt, **_COST))


def new_key() -> str:
    """Return a new key, in the form that all keys of the wire have."""
    return consent.KEY_PREFIX + secrets.token_urlsafe(32)


def _require_password(password: str, *, field: str) -> None:
    fault = access.password_fault(password)
    if fault is not None:
        raise BadRequest(fault, field=field, limit=access.MIN_PASSWORD_LENGTH, actual=len(password))
