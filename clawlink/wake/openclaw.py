"""OpenClaw, woken over HTTP: ``POST /hooks/wake`` for our own words, ``POST /hooks/agent`` for texts of others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from clawlink.client.programs.places import Place
from clawlink.domain.backoff import backoff
from clawlink.domain.terminal import cell

URL, TOKEN = "OPENCLAW_GATEWAY_URL", "OPENCLAW_HOOKS_TOKEN"
DEFAULT_URL = "http://127.0.0.1:18789"
GATEWAY_FILE = Path(".openclaw") / "gateway.env"
SETTINGS_FILE = ".openclaw/openclaw.json"

MAX_BODY_BYTES = 256 * 1024
ANSWER_SECONDS = 20.0
# OpenClaw refuses these for good: a repeat gets the same answer.
KEPT_STATUSES = frozenset({400, 401, 404, 413})
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 300.0
# A gateway may ask for a longer pause than ours, up to this.
_MOST_ASKED_SECONDS = 3600.0
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_WHY = 200

COUNTED, KEPT, AGAIN = "counted", "kept", "again"
_NEXT_STEPS = {
    401: f"is {TOKEN} the value of hooks.token in {SETTINGS_FILE}?",
    404: f"is hooks.enabled true, and hooks.path the path here, in {SETTINGS_FILE}?",
}


class NoGateway(Exception):
    """No gateway of OpenClaw is known here; the message says why, and the next step."""


class Gateway(NamedTuple):
    """Where the hooks of an OpenClaw are, as ``http://127.0.0.1:18789/hooks``, and their token."""

    hooks: str
    token: str


class Outcome(NamedTuple):
    """The result of a request: ``counted``, ``kept`` (never try again, tell the owner) or ``again`` (retry later).

    ``status`` is None where no answer came. ``retry_after`` is the pause in seconds that the gateway asks for.
    """

    kind: str
    status: int | None = None
    why: str | None = None
    run_id: str | None = None
    retry_after: float | None = None


def find(environ: Mapping[str, str] = os.environ, *, home: Path | None = None) -> Gateway:
    """Return the gateway of this account. Raises NoGateway.

    The environment comes first, then ``~/.openclaw/gateway.env``, then ``hooks`` of ``~/.openclaw/openclaw.json``, or
    of the file that OpenClaw's own variables name.
    """
    kept: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}
    why = ""
    with contextlib.suppress(RuntimeError):  # an account without a home
        base = home or Path.home()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            kept = of_lines((base / GATEWAY_FILE).read_text("utf-8"))
        try:
            path = Place(base, environ=environ).of("openclaw", SETTINGS_FILE)
            settings = of_settings(path.read_text("utf-8"))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            why = f" {path} was not read: {error}."
    token = environ.get(TOKEN) or kept.get(TOKEN) or settings.get("token")
    url = environ.get(URL) or kept.get(URL) or settings.get("url") or DEFAULT_URL
    if not token:
        off = " There hooks.enabled is not true." if settings and not settings["enabled"] else ""
        raise NoGateway(
            f"no token for the hooks of OpenClaw is known: set {TOKEN}, write it into ~/{GATEWAY_FILE}, "
            f"or set hooks.enabled and hooks.token in ~/{SETTINGS_FILE}.{off}{why}"
        )
    return checked(url, str(settings.get("path") or "/hooks"), token)


def checked(url: str, path: str, token: str) -> Gateway:
    """Return a gateway. Raises NoGateway for an address, a path or a token that no request can carry."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise NoGateway(f"{cell(url)} is no address of a gateway; write it as {DEFAULT_URL}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise NoGateway(f"the token for OpenClaw has characters that no header can carry; correct {TOKEN}")
    middle = path.strip("/")
    if not middle or "?" in path or "#" in path or not path.isprintable():
        raise NoGateway(f"hooks.path {cell(path)} is no path; the default is /hooks")
    return Gateway(f"{url.strip().rstrip('/')}/{middle}", token)


def of_lines(text: str) -> dict[str, str]:
    """Read a ``gateway.env``: KEY=VALUE lines and comments, without quotes and export."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip()
    return found


def of_settings(text: str) -> dict[str, Any]:
    """Return ``enabled``, ``token``, ``path`` and ``url`` of an ``openclaw.json``. Raises ValueError, RecursionError.

    The file may have comments, which this does not read: then the environment has to name the token.
    """
    settings = json.loads(text)
    if not isinstance(settings, dict):
        raise ValueError("it is no JSON object")
    hooks, gateway = settings.get("hooks"), settings.get("gateway")
    hooks = hooks if isinstance(hooks, dict) else {}
    port = gateway.get("port") if isinstance(gateway, dict) else None
    enabled = hooks.get("enabled") is True
    token, path = hooks.get("token"), hooks.get("path")
    return {
        "enabled": enabled,
        "token": token if enabled and isinstance(token, str) else None,
        "path": path if isinstance(path, str) else None,
        "url": f"http://127.0.0.1:{port}" if type(port) is int and 0 < port < 65536 else None,
    }


class OpenClaw:
    """An adapter for one gateway. Each call is one request, which never raises for what the gateway does.

    ``session`` is the caller's, and stays open. A redirect is not followed, because it would carry the token away.
    """

    def __init__(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        self._session = session
        self._gateway = gateway

    async def wake(self, text: str, *, now: bool = True) -> Outcome:
        """Add a line to the main session, and start a turn at once, or else at the next heartbeat.

        OpenClaw trusts the text: it may have our own words and the owner's alone, never those of a peer. Texts that
        repeat may be merged, so each names the id of its message.
        """
        return await self._post("wake", {"text": text, "mode": "now" if now else "next-heartbeat"}, None)

    async def agent(self, message: str, *, key: str, name: str = "ClawLink", timeout: int | None = None) -> Outcome:
        """Run a turn of its own over a text of others, which OpenClaw wraps as external.

        ``key`` makes a repeat the same run. The answer is not delivered to a channel. ``timeout`` is in seconds.
        """
        body: dict[str, Any] = {"message": message, "name": name, "wakeMode": "now", "deliver": False}
        if timeout is not None:
            body["timeoutSeconds"] = timeout
        return await self._post("agent", body, key)

    async def _post(self, hook: str, body: dict[str, Any], key: str | None) -> Outcome:
        data = json.dumps(body).encode()
        if len(data) > MAX_BODY_BYTES:
            why = f"the text makes a request of {len(data)} bytes, and OpenClaw takes {MAX_BODY_BYTES}; shorten it"
            return Outcome(KEPT, 413, why)
        headers = {"Authorization": f"Bearer {self._gateway.token}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        url = f"{self._gateway.hooks}/{hook}"
        try:
            async with self._session.post(
                url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                said = await answer.content.read(_MAX_ANSWER_BYTES)
                return outcome(answer.status, said, answer.headers.get("Retry-After"))
        except asyncio.TimeoutError:  # no OSError before Python 3.11
            return Outcome(AGAIN, None, f"{url} did not answer within {ANSWER_SECONDS:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = cell(str(error))[:_MAX_WHY] or type(error).__name__
            return Outcome(AGAIN, None, f"{url} does not answer: {why}; does OpenClaw run?")


def outcome(status: int, said: bytes, retry_after: str | None = None) -> Outcome:
    """Read an answer. 2xx counts; 400, 401, 404 and 413 are final; anything else is worth a retry."""
    fields: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(said)
    fields = fields if isinstance(fields, dict) else {}
    if 200 <= status < 300:
        run_id = fields.get("runId")
        return Outcome(COUNTED, status, run_id=run_id[:_MAX_WHY] if isinstance(run_id, str) else None)
    error = fields.get("error")
    text = error if isinstance(error, str) else said.decode("utf-8", "replace")
    why = f"OpenClaw answers {status}: {cell(text)[:_MAX_WHY] or 'without a reason'}"
    if status in KEPT_STATUSES:
        return Outcome(KEPT, status, f"{why}; {_NEXT_STEPS[status]}" if status in _NEXT_STEPS else why)
    asked = float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None
    return Outcome(AGAIN, status, why, retry_after=None if asked is None else min(asked, _MOST_ASKED_SECONDS))


def pause(failed: int, last: Outcome) -> float:
    """Return the seconds before the next try, after failure number ``failed`` (from 1)."""
    own = backoff(failed, first=FIRST_PAUSE_SECONDS, most=MOST_PAUSE_SECONDS)
    return max(own, last.retry_after or 0.0)
