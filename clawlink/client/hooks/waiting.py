"""The hook that waits while a session is idle: it watches the mailbox, and its end wakes the session.

It leases nothing and is no sign of life, so work still goes to agents that are awake. Where the program that wakes
agents runs, it waits there, and that program watches.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from clawlink.client.hooks import port, rules
from clawlink.client.hooks.ask import Answer, Relay
from clawlink.client.hooks.sessions import Session, Sessions

# After each look the program that wakes agents is looked for.
_LOOK_SECONDS = 10.0
# An answer comes within this time after the wait of a look.
_ANSWER_SECONDS = 15.0
# Messages of one moment wake once; and what a hook of the same moment tells is no reason to wake.
BATCH_SECONDS = 1.0
_RETRY_SECONDS = 5.0
# The program that wakes agents, and the host, are looked for this often.
_PORT_SECONDS = 5.0
_WANTED_SECONDS = 20.0
# The first hook of a session registers it within this time.
BEGIN_SECONDS = 10.0
_STEP_SECONDS = 0.2
_OK = 200


class Waiter:
    """Waits for mail of one session. ``gone`` returns True once the session's program has ended."""

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        *,
        gone: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._gone = gone
        self._sleep = sleep
        self._id = secrets.token_hex(16)

    def wait(self, seconds: float) -> str | None:
        """Return the words that wake the session once mail has come; None if it is not to be woken any more.

        A later waiter, a session that works, and the end of its program end the wait. So does the time.
        """
        until = time.monotonic() + seconds
        self._sessions.arm(self._session, self._id)
        self._sleep(BATCH_SECONDS)
        since = 0
        while self._is_wanted() and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(OSError):
                return self._by_program(until)
            try:
                found = self._look(since, min(left, _LOOK_SECONDS))
                if self._fresh(found):
                    self._sleep(BATCH_SECONDS)
                    fresh = self._fresh(self._look(0, 0.0))  # what was read meanwhile wakes nobody
                    if fresh and self._is_wanted():
                        self._told(fresh)
                        return rules.notice(self._session.name, fresh)
                since = max(since, int(found["latest"]))
            except (OSError, ValueError, LookupError, TypeError):  # the relay is away, or restarts
                self._sleep(_RETRY_SECONDS)
        return None

    def _by_program(self, until: float) -> str | None:
        """Wait at the program that wakes agents, which watches the mailbox. Raises OSError if it does not run."""
        home = str(self._sessions.folder.parent)
        question = {"ask": "wait", "host": self._session.host, "session": self._session.session_id}
        with port.Conversation(port.find(home), question, _PORT_SECONDS) as there:
            if there.next(_PORT_SECONDS).get("waits") is not True:
                raise port.NoPort("the program does not know the session")
            while self._is_wanted() and (left := until - time.monotonic()) > 0:
                try:
                    said = there.next(min(left, _WANTED_SECONDS))
                except TimeoutError:
                    continue
                except OSError:
                    if self._is_wanted():  # the program has ended, and not this wait
                        raise
                    break
                if not self._is_wanted():
                    break
                self._note([str(id) for id in said["ids"]])
                return str(said["wake"])
        return None

    def _is_wanted(self) -> bool:
        return self._sessions.armed(self._session) == self._id and not self._gone()

    def _look(self, since: int, wait: float) -> Any:
        agent = quote(str(self._session.agent_id), safe="")
        answer = self._ask("GET", f"/agents/{agent}/unread?limit=100&since={since}&wait={wait:.3f}", None, wait)
        if answer.status != _OK:
            raise ValueError(f"the relay refused: {answer.status}")
        return answer.body

    def _fresh(self, found: Any) -> list[Any]:
        """Return the messages of which no hook has told the session."""
        now = self._sessions.find(self._session.host, self._session.session_id) or self._session
        return rules.unread_of(found["messages"], now.told)

    def _told(self, fresh: list[Any]) -> None:
        """Store the wake with each message, and then that the session was told. A crash in between wakes once more."""
        for message in fresh:
            path = f"/messages/{quote(message['message_id'], safe='')}/woken"
            ask = {
                "agent_id": self._session.agent_id,
                "adapter": f"{self._session.host} hook",
                "result": "queued",
                "idempotency_key": self._id,
            }
            self._ask("POST", path, ask, 0.0)
        self._note([message["message_id"] for message in fresh])

    def _note(self, ids: list[str]) -> None:
        """Keep that the session was told of these messages, and is no longer idle."""
        now = self._sessions.find(self._session.host, self._session.session_id) or self._session
        self._sessions.keep(now._replace(told=(*now.told, *ids)[-rules.MAX_TOLD :]))
        self._sessions.disarm(now)

    def _ask(self, method: str, path: str, body: Any, wait: float) -> Answer:
        session = self._session
        relay = Relay(session.relay, session.token, session.ca, time.monotonic() + wait + _ANSWER_SECONDS)
        return relay.ask(method, path, body, agent_key=session.agent_key)


def begun(sessions: Sessions, host: str, session_id: str) -> Session:
    """Return a session once its first hook, which runs at the same moment, has registered it. Raises ValueError."""
    until = time.monotonic() + BEGIN_SECONDS
    while time.monotonic() < until:
        session = sessions.find(host, session_id)
        if session is not None and session.agent_id is not None and not session.ended:
            return session
        time.sleep(_STEP_SECONDS)
    raise ValueError("the session has no agent yet")
