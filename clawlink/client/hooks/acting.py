"""The session that calls a tool: that of the program above, or the session that the program names."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from clawlink.client.hooks import rules
from clawlink.client.hooks.run import Hook, Where
from clawlink.client.hooks.sessions import Session, Sessions
from clawlink.client.identity import NoIdentity, SeveralIdentities
from clawlink.errors import RelayUnreachable

Key = tuple[int, str]
OPENCODE, OPENCLAW = "opencode", "openclaw"
_LOCK_SECONDS = 30.0


def of_call(sessions: Sessions, above: Sequence[Key], named: str | None) -> Session | None:
    """Return the session that calls; None in a program without hooks. ``above`` are the processes above this one.

    ``named`` is the id that the plugin of opencode puts into a call. Raises NoIdentity, and SeveralIdentities where
    the sessions of one process cannot be told apart: then nothing is done as the wrong one.
    """
    if named is not None:
        session = sessions.find(OPENCODE, named)
        known = session is not None and session.agent_id is not None and not session.ended
        if session is None or not known or (above and session.host_process not in above):
            raise NoIdentity(
                "this session has no agent yet, as while the relay is away; see: clawlink doctor; then write a prompt, "
                "or run the command in a shell of the session: clawlink poll"
            )
        return session
    running = [one for one in sessions.all() if one.agent_id is not None and not one.ended]
    for process in above:
        found = [one for one in running if one.host_process == process]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(one.name for one in found)
            raise SeveralIdentities(
                f"{len(found)} sessions share this server ({names}), and the call does not say which is yours. In a "
                "shell of the session run: clawlink poll --as NAME. The person can mend it: clawlink connect "
                f"{found[0].host} --yes, and a new start of {found[0].host}"
            )
    return None


def of_gateway(sessions: Sessions, where: Callable[[], Where], seconds: float, *, begins: bool) -> Session:
    """Return the one session of OpenClaw's gateway, registered or resumed. Its sessions share one agent.

    All requests end after ``seconds``. Raises RelayUnreachable.
    """
    from filelock import FileLock, Timeout

    from clawlink import private

    private.make_folder(sessions.folder)
    try:
        # OpenClaw starts a server for each of its sessions, and several at one moment.
        with FileLock(sessions.folder / f"{OPENCLAW}.lock", timeout=_LOCK_SECONDS):
            known = next((one for one in sessions.all() if one.host == OPENCLAW), None)
            id = secrets.token_hex(8) if known is None else known.session_id
            ends_at = time.monotonic() + seconds
            hook = Hook(sessions, rules.HOSTS[OPENCLAW], {"session_id": id}, until=lambda: ends_at, tells=False)
            hook.run("SessionStart" if begins else "PostToolUse", where)
            session = sessions.find(OPENCLAW, id)
    except (OSError, ValueError, LookupError, TypeError, Timeout) as error:
        raise RelayUnreachable(f"the agent of OpenClaw cannot be registered: {error}; see: clawlink doctor") from None
    if session is None or session.agent_id is None:
        raise RelayUnreachable("the agent of OpenClaw cannot be kept; see: clawlink doctor")
    return session
