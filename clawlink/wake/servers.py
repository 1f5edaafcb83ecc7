"""Sessions of programs that have a server of their own: Codex by its app-server, opencode by HTTP."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from clawlink.domain.terminal import cell
from clawlink.timeouts import wait_for
from clawlink.version import VERSION
from clawlink.wake.adapters import MAX_NOTE, Notice, Result
from clawlink.wake.rules import FAILED, STARTED

ANSWER_SECONDS = 10.0
AGAIN_SECONDS = 10.0
_MAX_BYTES = 4 * 2**20
_CLOSE_SECONDS = 1.0
_NOT_FOUND = "thread not found"


class CodexError(Exception):
    """The app-server answered with an error; the message is its own."""


class Codex:
    """A thread of Codex behind ``codex app-server --listen ENDPOINT``, with its screen at ``codex --remote ENDPOINT``.

    ``endpoint`` is ``unix:///path`` or ``ws://host:port``. The server speaks JSON-RPC, a message a frame.
    """

    name = "codex app-server"
    once = False

    def __init__(self, endpoint: str, thread: str) -> None:
        self._endpoint = endpoint
        self._thread = thread

    def closed(self) -> str | None:
        return None

    async def busy(self) -> bool:
        try:
            async with _Rpc(self._endpoint) as server:
                return _is_active(await server.ask("thread/read", {"threadId": self._thread, "includeTurns": False}))
        except (CodexError, aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return False  # the attempt itself says why

    async def fire(self, notice: Notice) -> Result:
        turn = {
            "threadId": self._thread,
            "input": [{"type": "text", "text": notice.text}],
            "clientUserMessageId": notice.key,
        }
        try:
            async with _Rpc(self._endpoint) as server:
                try:
                    await server.ask("turn/start", turn)
                except CodexError as error:
                    if _NOT_FOUND not in str(error):
                        raise
                    if _is_active(await server.ask("thread/resume", {"threadId": self._thread})):
                        return Result(FAILED, "the thread is in a turn", AGAIN_SECONDS)
                    await server.ask("turn/start", turn)
        except CodexError as error:
            return Result(FAILED, f"the app-server refuses: {cell(str(error))}"[:MAX_NOTE])
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            why = cell(str(error)) or type(error).__name__
            return Result(FAILED, f"no app-server at {self._endpoint}: {why}"[:MAX_NOTE], AGAIN_SECONDS)
        return Result(STARTED)


def _is_active(result: Any) -> bool:
    thread = result.get("thread") if isinstance(result, dict) else None
    status = thread.get("status") if isinstance(thread, dict) else None
    return isinstance(status, dict) and status.get("type") == "active"


class _Rpc:
    """A connection to an app-server, past the greeting."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._last = 0
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None

    async def __aenter__(self) -> _Rpc:
        parts = urlsplit(self._endpoint)
        is_unix = parts.scheme == "unix"
        connector = aiohttp.UnixConnector(path=parts.path) if is_unix else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(connector=connector)
        try:
            url = "http://localhost/" if is_unix else self._endpoint
            closing = aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS)
            connecting = self._session.ws_connect(url, max_msg_size=_MAX_BYTES, timeout=closing)
            self._socket = socket = await wait_for(connecting, ANSWER_SECONDS)
            client = {"name": "clawlink", "title": "ClawLink", "version": VERSION}
            await self.ask("initialize", {"clientInfo": client})
            await socket.send_str(json.dumps({"method": "initialized"}))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            if self._socket is not None:
                await self._socket.close()
        finally:
            await self._session.close()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Return the result of a method. Raises CodexError."""
        if self._socket is None:
            raise CodexError("there is no connection")
        self._last += 1
        await self._socket.send_str(json.dumps({"id": self._last, "method": method, "params": params}))
        return await wait_for(self._answer(self._socket, self._last), ANSWER_SECONDS)

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse[bool], number: int) -> Any:
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                break
            try:
                said = json.loads(frame.data)
            except (ValueError, RecursionError):
                raise CodexError("a frame is no JSON") from None
            if not isinstance(said, dict) or said.get("id") != number or "method" in said:
                continue  # news of threads, and questions to clients with a screen
            if "error" in said:
                error = said["error"]
                raise CodexError(str(error.get("message") if isinstance(error, dict) else error))
            return said.get("result")
        raise CodexError("the connection ended before an answer")


class Opencode:
    """A session behind the HTTP server of opencode (``opencode serve``, or the one of its screen)."""

    name = "opencode server"
    once = False

    def __init__(self, http: aiohttp.ClientSession, url: str, session: str, password: str | None = None) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._session = session
        basic = b64encode(f"opencode:{password}".encode()).decode()
        self._headers = {} if password is None else {"Authorization": f"Basic {basic}"}
        self._timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)

    def closed(self) -> str | None:
        return None

    async def busy(self) -> bool:
        """Return True for a session that the server lists with a status other than idle."""
        try:
            async with self._http.get(
                f"{self._url}/session/status", headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                said = json.loads(await answer.content.read(_MAX_BYTES))
            status = said.get(self._session) if isinstance(said, dict) else None
            return isinstance(status, dict) and status.get("type") != "idle"
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError):
            return False  # the attempt itself says why

    async def fire(self, notice: Notice) -> Result:
        session = f"{self._url}/session/{quote(self._session, safe='')}"
        url = f"{session}/prompt_async"
        body = {"parts": [{"type": "text", "text": notice.text}], **await self._mode(session)}
        try:
            async with self._http.post(
                url, json=body, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                status, said = answer.status, await answer.content.read(1024)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            why = cell(str(error)) or type(error).__name__
            return Result(FAILED, f"no opencode server at {self._url}: {why}"[:MAX_NOTE], AGAIN_SECONDS)
        if 200 <= status < 300:
            return Result(STARTED)
        why = f"opencode answers {status}: {cell(said.decode('utf-8', 'replace'))}"[:MAX_NOTE]
        if status == 401:
            why = "opencode answers 401: set opencode_password to the value of OPENCODE_SERVER_PASSWORD"
        return Result(FAILED, why, AGAIN_SECONDS if status >= 500 else None)

    async def _mode(self, url: str) -> dict[str, Any]:
        """Return the agent of opencode and the model that a session has now.

        A prompt without them is for the default agent: a session that only plans could then change files.
        """
        try:
            async with self._http.get(
                url, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                said = json.loads(await answer.content.read(_MAX_BYTES))
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError):
            return {}  # the attempt itself says why
        said = said if isinstance(said, dict) else {}
        found: dict[str, Any] = {}
        if isinstance(said.get("agent"), str):
            found["agent"] = said["agent"]
        model = said.get("model")
        if isinstance(model, dict) and isinstance(model.get("id"), str) and isinstance(model.get("providerID"), str):
            found["model"] = {"providerID": model["providerID"], "modelID": model["id"]}
        return found
