"""An event of a host, from its input to the answer. All of it ends at a fixed time, whatever the relay does."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from clawlink.client.hooks import rules
from clawlink.client.hooks.ask import Answer, Relay
from clawlink.client.hooks.rules import Host
from clawlink.client.hooks.sessions import FORGET_SECONDS, Session, Sessions

# While a session works, its hooks show a sign of life this often.
BEAT_SECONDS = 20.0
_OK = 200
_CONFLICT = 409
_NAMES_TRIED = 3
_PAGE = 20


class Where(NamedTuple):
    """The relay for new sessions."""

    relay: str
    token: str | None = None
    ca: str | None = None


class Hook:
    """An event of a session. ``until`` returns when all requests end, in monotonic time; ``now`` is the clock's.

    ``tells`` is False where no model reads the answer: then no message counts as told.
    """

    def __init__(
        self,
        sessions: Sessions,
        host: Host,
        said: Mapping[str, Any],
        *,
        until: Callable[[], float],
        now: Callable[[], float] = time.time,
        tells: bool = True,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._sessions = sessions
        self._host = host
        self._said = said
        self._until = until
        self._now = now()
        self._tells = tells
        self._environ = environ

    def run(self, event: str, where: Callable[[], Where]) -> dict[str, Any] | None:
        """Do what the event asks for, and return what to print. Raises OSError or ValueError if nothing came of it."""
        session_id = self._said.get(self._host.session_field)
        if not isinstance(session_id, str) or not session_id:
            raise ValueError(f"the input has no {self._host.session_field}")
        session = self._sessions.find(self._host.name, session_id)
        if event == "SessionEnd":
            self._ended(session)
            return None
        if session is None or session.agent_id is None or session.ended or event == "SessionStart":
            if session is None or session.agent_id is None:
                session = self._made(session_id, where(), session)
            session = self._registered(session)
            if event == "SessionStart":
                return self._greeted(session)
        return self._told(event, session)

    # -- the identity --------------------------------------------------------------------------------------------------

    def _made(self, session_id: str, where: Where, before: Session | None) -> Session:
        """Return a session without an agent. An earlier try may have registered it: then its claim finds the agent."""
        folder = self._said.get("cwd") or next(iter(self._said.get("workspace_roots") or ()), "")
        name = rules.name_of(self._host.name, Path(str(folder)).name, session_id)
        claim = secrets.token_hex(32) if before is None else before.claim
        made = Session(self._host.name, session_id, name, where.relay, claim, token=where.token, ca=where.ca)
        return made._replace(folder=str(folder) or None)

    def _registered(self, session: Session) -> Session:
        """Register the agent of a session, or resume it. The file comes first: the relay makes a key only once."""
        from clawlink.client.hooks.ancestors import ancestors, host_among

        server = self._said.get("server")
        session = session._replace(
            variables={name: self._environ[name] for name in self._host.variables if self._environ.get(name)},
            ended=False,
            seen_at=self._now,
            host_process=host_among(ancestors()),
            server=server if isinstance(server, str) else session.server,
        )
        self._sessions.keep(session)
        name, number = session.name, 1
        while True:
            ask = {
                "agent_id": session.agent_id,
                "name": name,
                "claim": True,
                "machine": socket.gethostname().encode(errors="replace").decode()[:128],
                "description": f"a session of {self._host.name}",
                "idempotency_key": session.claim,
            }
            answer = self._ask(session, "POST", "/register", ask)
            if answer.status != _CONFLICT or session.agent_id is not None or number == _NAMES_TRIED:
                break
            number += 1
            name = f"{session.name}-{number}"
        agent = _of(answer)["agent"]
        session = session._replace(
            name=agent["name"], agent_id=agent["agent_id"], agent_key=answer.body.get("agent_key") or session.agent_key
        )
        self._sessions.keep(session._replace(beat_at=self._now))
        return session

    def _ended(self, session: Session | None) -> None:
        """Mark the session, and have its agent sleep: its tasks go back, and a session that is resumed finds its mail.

        A relay that does not hear of it waits for the leases to end.
        """
        if session is None:
            return
        self._sessions.disarm(session)
        self._sessions.keep(session._replace(ended=True, seen_at=self._now, host_process=None))
        if session.agent_id is not None:
            _of(self._ask(session, "POST", "/sleep", {"agent_id": session.agent_id, "forget_after": FORGET_SECONDS}))

    def _forget_one(self) -> None:
        """Forget a session that was not resumed for long. Its agent leaves the relay, unless that is away."""
        for old in self._sessions.all():
            host = rules.HOSTS.get(old.host)
            if self._now - old.seen_at > FORGET_SECONDS and not (host is not None and host.lasting):
                if old.agent_id is not None:
                    with contextlib.suppress(OSError, ValueError):
                        self._ask(old, "DELETE", f"/agents/{quote(old.agent_id, safe='')}")
                self._sessions.forget(old)
                return

    # -- the words -----------------------------------------------------------------------------------------------------

    def _greeted(self, session: Session) -> dict[str, Any]:
        found = _of(self._ask(session, "GET", f"/discover?limit={_PAGE}"))
        others = [agent for agent in found["agents"] if agent["agent_id"] != session.agent_id]
        text = rules.greeting(session.name, session.relay, others, found.get("next") is not None)
        unread = self._unread(session)
        told = tuple(message["message_id"] for message in unread["messages"]) if self._tells else session.told
        if unread["messages"]:
            text += "\n" + rules.digest(session.name, unread["messages"], unread["count"])
        self._sessions.keep(session._replace(told=told, blocks=0, beat_at=self._now, seen_at=self._now))
        self._forget_one()
        said = rules.context(self._host, self._event("SessionStart"), text)
        return {**said, "agent": session.name, "session_id": session.session_id} if self._host.plugin else said

    def _told(self, event: str, session: Session) -> dict[str, Any] | None:
        before = session
        if event != "Stop":
            self._sessions.disarm(session)  # it works: a wake would open a turn beside this one
        if self._now - session.beat_at > BEAT_SECONDS:
            beat = self._ask(session, "POST", "/heartbeat", {"agent_id": session.agent_id})
            if beat.body.get("status") != "ok":  # the relay has forgotten the agent, as after a restart
                session = self._registered(session)
            session = session._replace(beat_at=self._now, seen_at=self._now)
        if event == "UserPromptSubmit" and session.blocks == rules.ENDED:
            session = session._replace(blocks=0)
        unread: Any = self._unread(session) if self._tells else {"messages": [], "count": 0}
        fresh = rules.unread_of(unread["messages"], session.told)
        said: dict[str, Any] | None = None
        if event == "Stop":
            if rules.blocks(len(unread["messages"]), session.blocks):
                text = rules.digest(session.name, unread["messages"], unread["count"])
                said = rules.go_on(self._host, text)
                session = session._replace(blocks=session.blocks + 1)
            else:
                session = session._replace(blocks=rules.ENDED if unread["messages"] else 0)
        elif fresh:
            said = rules.context(self._host, self._event(event), rules.digest(session.name, fresh, unread["count"]))
        if fresh and said is not None:
            told = (*session.told, *(message["message_id"] for message in fresh))[-rules.MAX_TOLD :]
            session = session._replace(told=told)
        if session != before:
            self._sessions.keep(session)
        return said

    def _event(self, event: str) -> str:
        """Return the name of the event as the host has it."""
        given = self._said.get("hook_event_name")
        return given if isinstance(given, str) else event

    def _unread(self, session: Session) -> Any:
        path = f"/agents/{quote(str(session.agent_id), safe='')}/unread?limit={_PAGE}&words={rules.MAX_WORDS}"
        return _of(self._ask(session, "GET", path))

    def _ask(self, session: Session, method: str, path: str, body: Any = None) -> Answer:
        relay = Relay(session.relay, session.token, session.ca, self._until())
        return relay.ask(method, path, body, agent_key=session.agent_key)


def _of(answer: Answer) -> Any:
    """Return the body of a success. Raises ValueError with the relay's sentence for anything else."""
    if answer.status != _OK:
        why = answer.body.get("error") if isinstance(answer.body, dict) else None
        raise ValueError(f"the relay refused: {why or answer.status}")
    return answer.body


def read(data: bytes) -> dict[str, Any]:
    """Read the input of a host. Raises ValueError if it is no object."""
    said = json.loads(data)
    if not isinstance(said, dict):
        raise ValueError("the input is no JSON object")
    return said
