"""``clawlink wake --try``: send a message to an idle session, and show what came of it."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawlink import private
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.sync import Client

SECONDS = 60.0
_LOOK_SECONDS = 0.05
_ASK_SECONDS = 5.0
# Programs whose sessions nothing wakes while they are idle, unless wake.toml has another way.
_NEVER_WOKEN = ("gemini", "cursor")
_TEXT = "This is a test of waking, sent by `clawlink wake --try`. Read it; no answer is needed."


def run(ctx: Context, folder: Path, program: str) -> Exit:
    """Wait for a session, write to it, and follow the message until it is read."""
    with _waking(ctx, folder):
        until = time.monotonic() + (ctx.args.timeout or SECONDS)
        agent = _found(ctx, folder, program, until)
        if agent is None:
            return _said(ctx, {"works": False, "why": _none(program, folder)})
        ways = [name for name, why in agent["ways"].items() if why is None]
        if not ways:
            closed = "; ".join(f"{name}: {why}" for name, why in agent["ways"].items())
            return _said(ctx, {"works": False, "agent": agent["name"], "why": closed})
        return _said(ctx, {"agent": agent["name"], **_followed(ctx, agent, until)})


def _found(ctx: Context, folder: Path, program: str, until: float) -> dict[str, Any] | None:
    """Return the newest agent of a program, as soon as one of its ways is open; the last seen at the end."""
    from clawlink.client.hooks import port

    asked = False
    found: dict[str, Any] | None = None
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            agents: list[dict[str, Any]] = port.ask(str(folder), {"ask": "status"}, _ASK_SECONDS)["agents"]
            fits = [one for one in agents if program in (one["host"], *one["ways"])]
            best: dict[str, Any] | None = max(reversed(fits), key=hope, default=None)
            found = best
            if found is not None and (None in found["ways"].values() or found["hopeless"]):
                return found
            if found is None and not _can_be_woken(program, folder):
                return None
        if not asked:
            asked = True
            ctx.err.line(f"Waiting for an idle session. {_none(program, folder)}")
            ctx.err.flush()
        time.sleep(_LOOK_SECONDS * 10)
    return found


def hope(agent: dict[str, Any]) -> tuple[bool, bool]:
    """Return how likely a wake is: a way is open, and the relay knows the agent."""
    return None in agent["ways"].values(), agent["unread"] is not None


def _can_be_woken(program: str, folder: Path) -> bool:
    """Return True if a session of the program may be woken while it is idle, as far as the settings tell."""
    from clawlink.wake import settings

    if program not in _NEVER_WOKEN:
        return True
    try:
        own = settings.load(folder)
    except (OSError, settings.BadSettings):
        return True
    return any(set(agent.chain or ()) - {settings.SESSION} for agent in (own.general, *dict(own.patterns).values()))


def _none(program: str, folder: Path) -> str:
    if not _can_be_woken(program, folder):
        return (
            f"{program} cannot be woken while it is idle: its sessions notice mail at the end of a turn. Another way "
            "is a chain in wake.toml."
        )
    if program == "openclaw":
        return 'No agent has openclaw in its chain: set it in wake.toml, as [agents.NAME] chain = ["openclaw"].'
    return f"Connect it (clawlink connect {program}), begin a session, and leave it at its prompt."


def _followed(ctx: Context, agent: dict[str, Any], until: float) -> dict[str, Any]:
    """Send the message, and return when it was woken for and read, in seconds."""
    from clawlink.cli.shared import Absences
    from clawlink.client.sync import Client
    from clawlink.errors import RelayUnreachable

    absences = Absences(ctx, until)
    saved = ctx.identities.pick(named=agent["agent_id"], relay=agent["relay"])
    with Client(saved.relay, token=saved.token, ca=saved.ca) as sender:
        sender.register(f"wake-try-{secrets.token_hex(2)}")
        began = time.monotonic()
        id = sender.send(agent["agent_id"], _TEXT).message_id
        found: dict[str, Any] = {"message_id": id, "woken": [], "woken_after": None, "read_after": None}
        with contextlib.suppress(RelayUnreachable):  # the relay is away at the end of the time
            while time.monotonic() < until and found["read_after"] is None:
                absences.bear(lambda: _look(sender, found, began))
                if any(wake["result"] == "given_up" for wake in found["woken"]):
                    break
                time.sleep(_LOOK_SECONDS)
    works = found["read_after"] is not None
    why = None if works else "it was woken, and did not read" if found["woken"] else "nothing woke it"
    return {**found, "works": works, "why": why}


def _look(sender: Client, found: dict[str, Any], began: float) -> None:
    status = sender.message(found["message_id"])
    now = round(time.monotonic() - began, 2)
    found["woken"] = [{"adapter": w.adapter, "result": w.result, "note": w.note} for w in status.woken]
    if found["woken"] and found["woken_after"] is None:
        found["woken_after"] = now
    if status.delivered_at is not None:
        found["read_after"] = now


def _said(ctx: Context, found: dict[str, Any]) -> Exit:
    from clawlink.domain.terminal import cell

    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE if found["works"] else Exit.FAILED
    woken = [
        f"{wake['adapter']} {wake['result']}" + (f" ({wake['note']})" if wake["note"] else "")
        for wake in found.get("woken", ())
    ]
    ctx.out.facts(
        ("agent", cell(found["agent"]) if "agent" in found else None),
        ("message", found.get("message_id")),
        *(("woken", cell(text)) for text in woken),
        ("after", f"{found['woken_after']} s" if found.get("woken_after") is not None else None),
        ("read", f"after {found['read_after']} s" if found.get("read_after") is not None else None),
    )
    ctx.out.line("It works." if found["works"] else f"It does not work: {cell(found['why'])}", style="bold")
    return Exit.DONE if found["works"] else Exit.FAILED


@contextlib.contextmanager
def _waking(ctx: Context, folder: Path) -> Iterator[None]:
    """Have the program run: it runs already, or it does in a thread for as long as this lasts."""
    import asyncio

    from filelock import FileLock, Timeout

    from clawlink.wake.program import Program

    private.make_folder(folder)
    lock = FileLock(folder / "wake.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield
        return
    loop = asyncio.new_event_loop()
    program = Program(folder, log=lambda text: None, environ=ctx.environ)
    task = loop.create_task(program.run())

    def serve() -> None:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
        lock.release()
