"""A task as a turn of an agent that speaks the Agent Client Protocol (ACP), pure: messages in, messages out.

The version is 1, and the optional parts of a client (files, terminals) are not offered. Everything an agent says is
checked, and all that is kept has a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from clawlink.client.acp import content, permission
from clawlink.client.acp.content import File
from clawlink.client.acp.permission import Policy, Question
from clawlink.version import VERSION

PROTOCOL_VERSION = 1
MAX_TEXT_LENGTH = 16 * 2**20
MAX_QUESTIONS = 16
_METHOD_NOT_FOUND, _INVALID_PARAMS = -32601, -32602
_LOGIN_REQUIRED = -32000
_SENTENCE_LENGTH = 1000
_BAD_STOPS = {
    "refusal": "the agent refuses this task",
    "max_tokens": "the agent reached its limit of tokens before the end",
    "max_turn_requests": "the agent reached its limit of requests to its model before the end",
    "cancelled": "the agent cancelled its own turn",
}


class Broken(Exception):
    """The agent breaks the protocol, or a bound. The sentence is for the requester."""


class End(NamedTuple):
    """The end of a turn: the reason for a failure, None if the task is done."""

    why: str | None


class Turn:
    """The state of a turn. The methods return the messages to send."""

    def __init__(self, prompt: str, folder: str, policy: Policy) -> None:
        self.end: End | None = None
        self.percent: float | None = None
        self.note: str | None = None
        self.files: list[File] = []
        self.questions: list[Question] = []
        self.prompting = False
        self._prompt = prompt
        self._folder = folder
        self._policy = policy
        self._session: str | None = None
        self._kinds: dict[str, str] = {}
        self._pieces: list[str] = []
        self._length = 0
        self._apart = False
        self._cancelled = False
        self._asked = ""
        self._then: Callable[[dict[str, Any]], list[dict[str, Any]]] = self._opened
        self._count = 0

    @property
    def text(self) -> str:
        """All that the agent said."""
        return "".join(self._pieces)

    @property
    def waits_for(self) -> str:
        """The method whose answer is waited for."""
        return self._asked

    def begin(self) -> list[dict[str, Any]]:
        """Return the first message."""
        fields = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
            "clientInfo": {"name": "clawlink", "version": VERSION},
        }
        return [self._ask("initialize", fields, self._opened)]

    def hear(self, message: Any) -> list[dict[str, Any]]:
        """Take a message of the agent. Raises Broken."""
        if not isinstance(message, dict):
            raise Broken("the agent sent JSON that is no message")
        method, id = message.get("method"), message.get("id")
        if not isinstance(method, str):
            return self._answered(message) if id == self._count else []
        params = message.get("params")
        if "id" not in message:
            if method == "session/update" and isinstance(params, dict):
                self._updated(params.get("update"))
            return []
        if not isinstance(id, int | str):
            raise Broken("the agent sent a request without a proper id")
        if method != "session/request_permission":
            return [_error(id, _METHOD_NOT_FOUND, f"this client has no method {method[:64]!r}")]
        return self._permission(id, params)

    def answer(self, question: Question, words: Any) -> list[dict[str, Any]] | None:
        """Return the agent's answer for a requester's words; None if they choose nothing."""
        option = permission.chosen(question, words)
        if option is None:
            return None
        return self._decide(question, option)

    def refuse(self, question: Question) -> list[dict[str, Any]]:
        """Return a refusal of what the agent asked for."""
        return self._decide(question, question.rejection)

    def cancel(self) -> list[dict[str, Any]]:
        """Return the messages that end the turn early."""
        if self._cancelled or self._session is None or not self.prompting:
            return []
        self._cancelled = True
        refused = [permission.outcome(question.id, None) for question in self.questions]
        self.questions.clear()
        note = {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": self._session}}
        return [note, *refused]

    # -- requests of ours ----------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, params: dict[str, Any], then: Callable[[dict[str, Any]], list[dict[str, Any]]]
    ) -> dict[str, Any]:
        self._count += 1
        self._asked, self._then = method, then
        return {"jsonrpc": "2.0", "id": self._count, "method": method, "params": params}

    def _answered(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        asked, self._asked = self._asked, ""
        if not asked:
            return []  # an answer that came twice
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            if error.get("code") == _LOGIN_REQUIRED and asked != "session/prompt":
                raise Broken(f"the agent wants a login ({_short(error.get('message'))}); log in by hand as this user")
            raise Broken(f"the agent answered {asked} with an error: {_short(error.get('message'))}")
        if not isinstance(result, dict):
            raise Broken(f"the agent answered {asked} with no result")
        return self._then(result)

    def _opened(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        version = result.get("protocolVersion")
        if version != PROTOCOL_VERSION:
            raise Broken(f"the agent speaks version {_short(version)} of the Agent Client Protocol, and not 1")
        return [self._ask("session/new", {"cwd": self._folder, "mcpServers": []}, self._prompted)]

    def _prompted(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        session = result.get("sessionId")
        if not isinstance(session, str):
            raise Broken("the agent opened a session without an id")
        self._session = session
        self.prompting = True
        blocks = [{"type": "text", "text": self._prompt}]
        return [self._ask("session/prompt", {"sessionId": session, "prompt": blocks}, self._ended)]

    def _ended(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        reason = result.get("stopReason")
        self.prompting = False
        if reason == "end_turn":
            self.end = End(None)
        elif isinstance(reason, str) and reason in _BAD_STOPS:
            self.end = End(_BAD_STOPS[reason])
        else:
            raise Broken(f"the agent ended its turn for a reason that is not known: {_short(reason)}")
        return []

    # -- what the agent tells ------------------------------------------------------------------------------------------

    def _updated(self, update: Any) -> None:
        if not isinstance(update, dict):
            return
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._said(update.get("content"))
        elif kind in ("tool_call", "tool_call_update"):
            self._called(update)
        elif kind == "plan":
            self.percent, self.note = content.progress(update.get("entries"), self.percent, self.note)

    def _said(self, block: Any) -> None:
        text, file = content.read(block, self._folder)
        if file is not None:
            self.files.append(file)
            if len(self.files) > content.MAX_FILES or sum(len(f.data or b"") for f in self.files) > MAX_TEXT_LENGTH:
                raise Broken("the agent sent more files than a result can have")
        if text:
            if self._apart and self._pieces and not self._pieces[-1].endswith("\n"):
                text = "\n\n" + text
            self._apart = False
            self._pieces.append(text)
            self._length += len(text)
            if self._length > MAX_TEXT_LENGTH:
                raise Broken(f"the agent said more than {MAX_TEXT_LENGTH} characters")

    def _called(self, call: dict[str, Any]) -> None:
        """Note a use of a tool. The text after it is a new paragraph."""
        self._apart = True
        kind, title, id = call.get("kind"), call.get("title"), call.get("toolCallId")
        if isinstance(id, str) and isinstance(kind, str) and len(self._kinds) < permission.MAX_CALLS:
            self._kinds[id] = kind
        if isinstance(title, str) and title.strip():
            self.note = _short(title)

    def _permission(self, id: int | str, params: Any) -> list[dict[str, Any]]:
        question = permission.read(id, params, self._kinds)
        if question is None:
            return [_error(id, _INVALID_PARAMS, "a request for permission has toolCall and options")]
        if self._cancelled or not self.prompting or len(self.questions) >= MAX_QUESTIONS:
            return [permission.outcome(id, None)]
        allowed = self._policy.allows(question.kind)
        if allowed and question.permission is not None:
            return [permission.outcome(id, question.permission)]
        if not self._policy.ask or question.choices == ():
            return [permission.outcome(id, question.rejection)]
        self.questions.append(question)
        return []

    def _decide(self, question: Question, option: str | None) -> list[dict[str, Any]]:
        if question not in self.questions:
            return []
        self.questions.remove(question)
        return [permission.outcome(question.id, option)]


def _error(id: int | str, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:_SENTENCE_LENGTH]
