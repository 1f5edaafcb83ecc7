"""The mapping outward, pure: messages for remote agents, and what their tasks say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawlink.doors.a2a import outward
from clawlink.doors.a2a.outward import RemoteTask, Report
from clawlink.doors.a2a.rules import saying, states
from clawlink.doors.a2a.wire.remotes import REMOTES, add_remote, card_url, remote_of
from clawlink.errors import BadRequest, NameTaken


def remote(state: str, text: str | None = None, *artifacts: Any) -> RemoteTask:
    status: dict[str, Any] = {"state": f"TASK_STATE_{state}"}
    if text is not None:
        status["message"] = {"messageId": "m", "parts": [{"text": text}]}
    task = {"id": "r", "status": status, "artifacts": list(artifacts)}
    return outward.read(msgspec.json.encode(task), RemoteTask)


def artifact(*parts: Any, id: str = "a") -> dict[str, Any]:
    return {"artifactId": id, "parts": list(parts)}


def test_each_end_and_each_change_is_a_report() -> None:
    two = [{"artifactId": "a", "parts": [{"text": "x"}, {"data": 1}]}]
    table: list[tuple[RemoteTask | None, RemoteTask, Report | None]] = [
        (None, remote("SUBMITTED"), None),
        (None, remote("WORKING"), Report("in_progress")),
        (None, remote("WORKING", "half"), Report("in_progress", None, "half")),
        (remote("WORKING"), remote("WORKING"), None),
        (remote("WORKING"), remote("WORKING", "half"), Report("in_progress", None, "half")),
        (remote("WORKING"), remote("SUBMITTED"), None),
        (
            remote("WORKING"),
            remote("WORKING", None, artifact({"text": "x"})),
            Report("in_progress", {"a2a": {"artifacts": [artifact({"text": "x"})]}}),
        ),
        (None, remote("INPUT_REQUIRED", "which?"), Report("input_required", "which?")),
        (
            None,
            remote("AUTH_REQUIRED", "log in"),
            Report("input_required", {"a2a": {"authRequired": True, "message": {"parts": [{"text": "log in"}]}}}),
        ),
        (None, remote("COMPLETED", None, artifact({"text": "x"})), Report("completed", "x")),
        (None, remote("COMPLETED", None, artifact({"data": [1]})), Report("completed", [1])),
        (None, remote("COMPLETED", "bye", artifact({"text": "x"})), Report("completed", "x", "bye")),
        (None, remote("COMPLETED", "all"), Report("completed", "all")),
        (None, remote("COMPLETED"), Report("completed")),
        (
            None,
            remote("COMPLETED", None, artifact({"text": "x"}, {"data": 1})),
            Report("completed", {"a2a": {"artifacts": two}}),
        ),
        (None, remote("FAILED", "broken"), Report("failed", "broken")),
        (None, remote("REJECTED"), Report("rejected")),
        (None, remote("CANCELED"), Report("failed", None, "the remote agent cancelled it")),
    ]
    for before, now, told in table:
        assert outward.report(before, now) == told, (before, now)
    assert set(outward.ENDS) == states.FINAL
    # A client of A2A gets the parts as the remote agent gave them.
    said = outward.report(None, remote("COMPLETED", None, artifact({"text": "x"}, {"data": 1})))
    assert said is not None
    assert saying.said(said.result) is not None


def test_a_message_says_what_the_task_says() -> None:
    came = {"a2a": {"to": "agent p", "contextId": "c", "message": {"messageId": "m", "parts": [{"text": "hi"}]}}}
    filed = {"a2a": {"message": {"parts": [{"text": "hi"}, {"url": "clawlink-file:k"}]}}}
    for content, context, parts in (
        ("hi", None, [{"text": "hi"}]),
        ({"n": 1}, {}, [{"data": {"n": 1}}]),
        ("hi", came, [{"text": "hi"}]),
        ("hi", filed, [{"text": "hi"}]),
        ("hi", {"a2a": 5}, [{"text": "hi"}]),
    ):
        made = outward.message("t", content, context=context)
        assert (made["messageId"], made["role"], made["parts"]) == ("t", "ROLE_USER", parts), context
    made = outward.message("t", "hi", context={"lang": "en"})
    assert made["metadata"] == {"clawlink": {"context": {"lang": "en"}, "hops": 1}}
    for told, counted in ((3, 4), (None, 1), (True, 1), (-5, 1), ("3", 1), ([], 1)):
        through = {"a2a": {"message": {"parts": [{"text": "hi"}], "metadata": {"clawlink": {"hops": told}}}}}
        assert outward.message("t", "hi", context=through)["metadata"] == {"clawlink": {"hops": counted}}, told
    made = outward.message("t2", "more", task=outward.known("r", "c"))
    assert "metadata" not in made
    assert (made["taskId"], made["contextId"]) == ("r", "c")


def test_an_answer_that_is_none_is_refused() -> None:
    good = {"id": "r", "status": {"state": "x"}}
    wrongs: list[Any] = [
        *(None, [], {}, {"id": "r"}, {**good, "id": 5}, {**good, "status": {"state": 1}}),
        {**good, "artifacts": [artifact({"text": "x", "url": "y"})]},
        {**good, "artifacts": [artifact({})]},
        {**good, "artifacts": [artifact({"url": "clawlink-file:k"})]},
        {**good, "status": {"state": "x", "message": {"parts": [{"url": "clawlink-file:k"}]}}},
    ]
    for wrong in wrongs:
        with pytest.raises(BadRequest):
            outward.read(msgspec.json.encode(wrong), RemoteTask)


def card(**fields: Any) -> bytes:
    interface = {"url": "https://x/rpc/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0.1"}
    return json.dumps({"name": "The Poet!", "supportedInterfaces": [interface], **fields}).encode()


def test_a_card_becomes_an_agent() -> None:
    old = {"url": "https://x", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"}
    new = {"url": "https://y/", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}
    made = remote_of(
        card(
            supportedInterfaces=[old, new],
            skills=[{"id": "poetry"}, {"id": " "}],
            capabilities={"streaming": True},
            description="d" * 999,
        ),
        "https://x",
        name=None,
        credential="c",
    )
    assert (made.name, made.interface, made.binding) == ("The-Poet", "https://y", "HTTP+JSON")
    assert (made.streaming, made.capabilities, made.credential) == (True, ["poetry"], "c")
    assert len(made.description) <= 200
    for wrong in (
        b"{",
        b"[]",
        b"\xff",
        card(supportedInterfaces=[]),
        card(supportedInterfaces=[old]),
        card(supportedInterfaces=[{**new, "url": "file:///etc/passwd"}]),
        card(supportedInterfaces=[{**new, "protocolBinding": "GRPC"}]),
        card(name="!!!"),
        card(name=5),
        card(skills="x"),
    ):
        with pytest.raises(BadRequest):
            remote_of(wrong, "https://x", name=None, credential=None)
    for name in ("a b", "\u200b", "x" * 200, "a\nb"):
        with pytest.raises(BadRequest, match="--as"):
            remote_of(card(), "https://x", name=name, credential=None)
    assert card_url("https://x/a/") == "https://x/a/.well-known/agent-card.json"
    assert card_url("https://x/card.json") == "https://x/card.json"
    for no_url in ("", "x", "ftp://x", "https://", "https://[::1"):
        with pytest.raises(BadRequest):
            card_url(no_url)


def test_the_file_has_each_name_once(tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    one = remote_of(card(), "https://x", name="poet", credential=None)
    add_remote(file, one)
    with pytest.raises(NameTaken):
        add_remote(file, remote_of(card(), "https://y", name="POET", credential=None))
    add_remote(file, remote_of(card(), "https://y", name="poet", credential=None), replace=True)
    assert [remote.url for remote in REMOTES.read(file)] == ["https://y"]
    for wrong in ("{", "[]", '{"agents": [{"name": "x", "url": "u", "interface": "ftp://x", "binding": "JSONRPC"}]}'):
        file.write_text(wrong)
        with pytest.raises(BadRequest, match=str(file.name)):
            REMOTES.read(file)
