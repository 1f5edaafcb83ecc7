"""Permission for an agent's use of a tool, pure: a policy decides, or the requester of the task.

A requester may only allow something once. "Always" would outlast its task.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from clawlink.domain.terminal import escaped

KINDS = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other")
ASK, ALL, NONE = "ask", "all", "none"
MAX_CALLS = 10_000
_MAX_OPTIONS = 20
_MAX_WORDS = 200
_MAX_INPUT = 2000
_YES = ("yes", "allow", "y", "ok")
_NO = ("no", "reject", "deny", "n")


class Policy(NamedTuple):
    """The kinds of tools that are allowed, and whether the requester is asked about the others."""

    kinds: frozenset[str] = frozenset()
    ask: bool = True

    def allows(self, kind: str) -> bool:
        """Return True if a tool of this kind needs no answer."""
        return kind in self.kinds


def policy(words: list[str]) -> Policy:
    """Return the policy of ``--allow``. Raises ValueError for a word that is no kind."""
    for word in words:
        if word not in (*KINDS, ASK, ALL, NONE):
            raise ValueError(f"{word!r} is no kind of tool; there are {', '.join((*KINDS, ALL, ASK, NONE))}")
    if NONE in words and len(words) > 1:
        raise ValueError(f"{NONE!r} stands alone")
    return Policy(frozenset(KINDS if ALL in words else words) - {ASK, NONE}, ASK in words)


class Question(NamedTuple):
    """A request for permission. ``choices`` are the options that a requester has: id, name and kind of each."""

    id: int | str
    kind: str
    choices: tuple[tuple[str, str, str], ...]
    permission: str | None
    rejection: str | None
    text: str


def read(id: int | str, params: Any, kinds: dict[str, str]) -> Question | None:
    """Return a request for permission, None if it is malformed. ``kinds`` are those of earlier calls, by their ids."""
    call = params.get("toolCall") if isinstance(params, dict) else None
    given = params.get("options") if isinstance(params, dict) else None
    if not isinstance(call, dict) or not isinstance(given, list):
        return None
    options = [option for option in map(_option, given[:_MAX_OPTIONS]) if option is not None]
    kind = call.get("kind")
    if not isinstance(kind, str):
        called = call.get("toolCallId")
        kind = kinds.get(called, "other") if isinstance(called, str) else "other"
    kind = kind if kind in KINDS else "other"
    choices = tuple(option for option in options if option[2].endswith("_once"))
    return Question(
        id,
        kind,
        choices,
        _first(options, "allow_once", "allow_always"),
        _first(options, "reject_once", "reject_always"),
        _text(kind, call, choices),
    )


def outcome(id: int | str, option: str | None) -> dict[str, Any]:
    """Return the answer to a request for permission. Without an option the use of the tool is cancelled."""
    told = {"outcome": "cancelled"} if option is None else {"outcome": "selected", "optionId": option}
    return {"jsonrpc": "2.0", "id": id, "result": {"outcome": told}}


def chosen(question: Question, words: Any) -> str | None:
    """Return the id of the option that a requester chose; None if its words are no choice."""
    if not isinstance(words, str):
        return None
    said = words.strip().strip(".!\"'`").casefold()
    for id, name, kind in question.choices:
        if said in (id.casefold(), name.casefold(), kind):
            return id
    wanted = "allow_once" if said in _YES else "reject_once" if said in _NO else None
    return next((id for id, _, kind in question.choices if kind == wanted), None)


def _option(given: Any) -> tuple[str, str, str] | None:
    if not isinstance(given, dict):
        return None
    id, name, kind = given.get("optionId"), given.get("name"), given.get("kind")
    return (id, name, kind) if isinstance(id, str) and isinstance(name, str) and isinstance(kind, str) else None


def _first(options: list[tuple[str, str, str]], *kinds: str) -> str | None:
    return next((id for wanted in kinds for id, _, kind in options if kind == wanted), None)


def _text(kind: str, call: dict[str, Any], choices: tuple[tuple[str, str, str], ...]) -> str:
    """Return the question for a requester. The agent's words stand in quotes."""
    title = call.get("title")
    lines = [f"May the agent use a tool ({kind})?"]
    if isinstance(title, str) and title:
        lines.append(f"Its words: {_quoted(title, _MAX_WORDS)}")
    if call.get("rawInput") is not None:
        given = msgspec.json.encode(call["rawInput"]).decode("utf-8", "surrogatepass")
        lines.append(f"Its input: {_quoted(given, _MAX_INPUT)}")
    offered = ", ".join(f"{of} ({_quoted(name, _MAX_WORDS)})" for _, name, of in choices)
    lines.append(f"Answer with one of: {offered}")
    return "\n".join(lines)


def _quoted(text: str, most: int) -> str:
    return escaped(json.dumps(text if len(text) <= most else text[: most - 1] + "…", ensure_ascii=False))
