"""The mapping, pure: what a client sends becomes work, and what becomes of the work is what the client sees."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from clawlink.domain.message import Attachment
from clawlink.domain.task import TaskState
from clawlink.doors.a2a.rules import asking, listing, saying, states, tasks, updates
from clawlink.doors.a2a.wire import base64s, failures, shapes
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.errors import BadRequest
from clawlink.protocol.replies import TaskEvent, TaskView


def at(second: int) -> str:
    return f"2026-05-13T06:51:{second:02d}.250+00:00"


def event(second: int, status: str, by: str | None = "bob", **fields: Any) -> TaskEvent:
    content = fields.get("content")
    raw = None if content is None else msgspec.Raw(msgspec.json.encode(content))
    return TaskEvent(at(second), status, by, fields.get("note"), fields.get("progress"), raw)


ASKED: dict[str, Any] = {
    "a2a": {
        "to": "agent bob",
        "contextId": "c-1",
        "message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
    }
}


def view(*events: TaskEvent, **fields: Any) -> TaskView:
    """Return a task of the client ``a2a`` with a history; its state is that of its last event."""
    history = [TaskEvent(at(0), "queued", "a2a", None, None, None), *events]
    known: dict[str, Any] = {
        "task_id": "t",
        "requester": "a2a",
        "assignee": "bob",
        "capability": None,
        "task": "hi",
        "context": ASKED,
        "priority": "normal",
        "status": history[-1].status,
        "progress": None,
        "note": None,
        "result": None,
        "attempts": 0,
        "version": len(history),
        "parent_task": None,
        "created_at": at(0),
        "history": history,
        "history_folded": 0,
    }
    names = [field.name for field in msgspec.structs.fields(TaskView)]
    return TaskView(**{name: None for name in names if name not in known and name != "hops"} | known | fields, hops=0)


def url_of(key: str) -> str:
    return f"https://relay/{key}"


def told_states(before: TaskView, now: TaskView) -> list[str]:
    """Return what the updates tell: states, and ids of artifacts."""
    told = []
    for update in updates.updates(updates.told(before), now, url_of):
        state = updates.ends(update)
        told.append(update["artifactUpdate"]["artifact"]["artifactId"] if state is None else state[11:])
    return told


def test_every_state_of_clawlink_is_one_of_a2a() -> None:
    assert set(states.STATES) == {state.value for state in TaskState}
    for status, shown in (
        ("queued", "SUBMITTED"),
        ("delivered", "WORKING"),
        ("in_progress", "WORKING"),
        ("input_required", "INPUT_REQUIRED"),
        ("completed", "COMPLETED"),
        ("failed", "FAILED"),
        ("rejected", "REJECTED"),
        ("cancelled", "CANCELED"),
        ("expired", "FAILED"),
        ("returned", "FAILED"),
    ):
        task = tasks.task(view(event(1, status)), url_of)
        assert task["status"]["state"] == f"TASK_STATE_{shown}", status
        assert task["status"]["timestamp"] == "2026-05-13T06:51:01.250Z"
        assert (task["id"], task["contextId"]) == ("t", "c-1")
        assert task["metadata"]["clawlink"]["status"] == status


def test_a_result_is_an_artifact() -> None:
    text = {"parts": [{"text": "x"}]}
    for result, artifacts in (
        ("done", [{"artifactId": "result", "name": "result", "parts": [{"text": "done"}]}]),
        ({"n": 1}, [{"artifactId": "result", "name": "result", "parts": [{"data": {"n": 1}}]}]),
        ([1, None], [{"artifactId": "result", "name": "result", "parts": [{"data": [1, None]}]}]),
        (None, None),
        ({"a2a": {"artifact": text}}, [{"artifactId": "result", **text}]),
        (
            {"a2a": {"artifacts": [{"artifactId": "p", "name": "n", **text}, {"artifactId": "q", **text}]}},
            [{"artifactId": "p", "name": "n", **text}, {"artifactId": "q", **text}],
        ),
        (
            {"a2a": {"artifact": {"parts": [{"url": "clawlink-file:k"}]}}},
            [{"artifactId": "result", "parts": [{"url": "https://relay/k"}]}],
        ),
    ):
        task = tasks.task(view(event(1, "completed"), result=result), url_of)
        assert task.get("artifacts") == artifacts, result
        assert "message" not in task["status"], result


def test_terms_of_a2a_that_are_wrong_are_plain_data() -> None:
    """So a worker cannot have a client get a part that its reader fails on."""
    wrongs: list[Any] = [
        {"artifact": {"parts": []}},
        {"artifact": {"parts": [{}]}},
        {"artifact": {"parts": [{"text": "x", "url": "y"}]}},
        {"artifact": {"parts": [{"raw": "no base64!"}]}},
        {"artifact": {"parts": [{"text": 1}]}},
        {"artifact": {"artifactId": "", "parts": [{"text": "x"}]}},
        {"message": {"parts": [{"text": "x", "metadata": "no object"}]}},
        {"unknown": 1},
        "text",
        None,
    ]
    for wrong in wrongs:
        result = {"a2a": wrong}
        assert saying.said(result) is None, wrong
        task = tasks.task(view(event(1, "completed"), result=result), url_of)
        assert task["artifacts"][0]["parts"] == [{"data": result}], wrong
    assert saying.said({"a2a": {}, "more": 1}) is None
    # Only the client's own answers have this form; from a worker it is data.
    answer = {"text": "x", "a2a": {"message": {"parts": [{"bad": 1}]}}}
    for status in ("completed", "input_required", "failed"):
        asked = event(1, status, content=answer if status == "input_required" else None)
        task = tasks.task(view(asked, result=answer), url_of)
        shown = task["artifacts"][0]["parts"] if status == "completed" else task["status"]["message"]["parts"]
        assert shown == [{"data": answer}], status


def test_a_failure_says_why_in_its_status() -> None:
    for status in ("failed", "rejected"):
        task = tasks.task(view(event(1, status, note="sorry"), result={"why": "no"}), url_of)
        assert task["status"]["message"]["parts"] == [{"data": {"why": "no"}}, {"text": "sorry"}]
        assert task["status"]["message"]["role"] == "ROLE_AGENT"
        assert "artifacts" not in task
    task = tasks.task(view(event(1, "expired", None, note="no agent finished it in time")), url_of)
    assert task["status"]["message"]["parts"] == [{"text": "no agent finished it in time"}]


def test_only_a_rejection_says_that_a_media_type_is_not_taken() -> None:
    plainly: dict[str, Any] = {"a2a": {"unsupportedMedia": True}}
    why = {"a2a": {"unsupportedMedia": True, "message": {"parts": [{"text": "no images"}, {"data": 1}]}}}
    for status, result, said in (
        ("rejected", why, "no images"),
        ("rejected", plainly, "the agent does not take the media type of a part"),
        ("rejected", {"a2a": {"unsupportedMedia": True, "message": {"parts": [{"text": "x" * 999}]}}}, "x" * 500),
        ("rejected", "no", None),
        ("failed", why, None),
        ("completed", why, None),
    ):
        assert tasks.unsupported(view(event(1, status), result=result)) == said, (status, result)


def test_a_question_and_its_answer_are_in_the_history() -> None:
    asked = view(event(1, "delivered"), event(2, "input_required", content="which?"))
    task = tasks.task(asked, url_of)
    assert task["status"]["message"]["parts"] == [{"text": "which?"}]
    assert [m["messageId"] for m in task["history"]] == ["m-1"], "the present message is that of the status alone"
    kept = {"messageId": "m-2", "role": "ROLE_USER", "parts": [{"text": "this"}, {"data": 1}]}
    answer = {"text": "this", "a2a": {"message": kept}}
    for content, parts in (("this", [{"text": "this"}]), (answer, [{"text": "this"}, {"data": 1}])):
        done = view(*asked.history[1:], event(3, "in_progress", "a2a", content=content), event(4, "completed"))
        history = tasks.task(done, url_of)["history"]
        assert [m["role"] for m in history] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"], content
        assert history[-1]["parts"] == parts
        assert all(m["taskId"] == "t" and m["contextId"] == "c-1" for m in history)
    for length, left in ((0, None), (1, 1), (2, 2), (99, 3), (None, 3)):
        history = tasks.task(done, url_of, history=length).get("history")
        assert (None if history is None else len(history)) == left, length
    needs = view(event(1, "input_required", content={"a2a": {"authRequired": True}}))
    assert tasks.state(needs) == "TASK_STATE_AUTH_REQUIRED"


def test_updates_lead_from_one_view_to_the_next() -> None:
    part = {"parts": [{"text": "x"}]}
    one = {"a2a": {"artifact": {"artifactId": "p", **part}}}
    for before, after, told in (
        ([], [event(1, "delivered")], ["WORKING"]),
        ([], [event(1, "delivered"), event(2, "in_progress", progress=40)], ["WORKING", "WORKING"]),
        ([event(1, "delivered")], [], ["SUBMITTED"]),  # the claim never left the relay
        ([], [], []),
        ([event(1, "delivered")], [event(2, "in_progress", content=one)], ["p"]),
        ([], [event(1, "in_progress", content=one)], ["WORKING", "p"]),
        (
            [event(1, "delivered")],
            [event(2, "queued", None, note="the lease has lapsed"), event(3, "delivered", "carol")],
            ["SUBMITTED", "WORKING"],
        ),
    ):
        kept = [] if told == ["SUBMITTED"] else before
        assert told_states(view(*before), view(*kept, *after)) == told, told
    done = view(event(1, "delivered"), event(2, "completed"), result="done")
    assert told_states(view(), done) == ["WORKING", "result", "COMPLETED"]
    assert updates.updates(updates.told(view()), done, url_of)[1]["artifactUpdate"]["lastChunk"] is True
    # Entries that were folded away are counted, so that nothing is told twice.
    folded = replace(done, history=[done.history[0], done.history[-1]], history_folded=1)
    assert told_states(view(event(1, "delivered")), folded) == ["result", "COMPLETED"]


def test_chunks_make_one_artifact() -> None:
    chunks = [
        event(n, "in_progress", content={"a2a": {"artifact": {"parts": [{"text": str(n)}]}, "append": n > 1}})
        for n in (1, 2, 3)
    ]
    task = tasks.task(view(*chunks), url_of)
    assert task["artifacts"] == [{"artifactId": "result", "parts": [{"text": "1"}, {"text": "2"}, {"text": "3"}]}]
    told = updates.updates(updates.told(view()), view(*chunks), url_of)
    assert [u["artifactUpdate"].get("append") for u in told if "artifactUpdate" in u] == [None, True, True]


def test_attached_files_are_parts_by_address() -> None:
    file = Attachment(file_key="a b/c", version=1, size=3, sha256="0" * 64, name="c.txt")
    done = view(event(1, "completed"), result_attachments=[file])
    (artifact,) = tasks.task(done, url_of)["artifacts"]
    assert artifact["artifactId"] == "files"
    assert artifact["parts"][0]["url"] == "https://relay/a b/c"
    assert artifact["parts"][0]["filename"] == "c.txt"
    assert tasks.keys(done) == {"a b/c"}
    linked = {"a2a": {**ASKED["a2a"], "message": {"messageId": "m", "parts": [{"url": "clawlink-file:mine"}]}}}
    assert tasks.keys(view(context=linked)) == {"mine"}
    assert tasks.keys(view()) == frozenset()


def test_a_worker_reads_text_before_data_before_files() -> None:
    table: list[tuple[list[dict[str, Any]], Any]] = [
        ([{"text": "a"}, {"text": "b"}], "a\n\nb"),
        ([{"data": {"n": 1}}, {"text": "a"}], "a"),
        ([{"data": {"n": 1}}], {"data": {"n": 1}}),
        ([{"data": 1}, {"data": 2}], {"data": [1, 2]}),
        ([{"url": "https://x/y", "filename": "y"}, {"url": "https://x/z"}], {"files": ["y", "https://x/z"]}),
        ([{"text": " "}], {"text": " "}),
        ([{"data": None}], {"text": ""}),
    ]
    for parts, task in table:
        assert asking.plain(parts) == task, parts
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "a"}]}
    ask = shapes.read({"message": message}, shapes.SendMessage)
    made = asking.work("agent bob", "c", ask, [{"text": "a"}])
    assert made.task == "a"
    assert made.context == {"a2a": {"to": "agent bob", "contextId": "c", "message": message}}
    assert asking.follow_up(ask.message, [{"text": "a"}]) == "a"
    assert asking.follow_up(ask.message, [{"text": "a"}, {"data": 1}])["a2a"]["message"]["parts"][1] == {"data": 1}


def test_names_come_in_both_spellings_and_metadata_stays() -> None:
    part = {"data": {"snake_case": None, "n": None}, "media_type": "a/b", "metadata": {"some_key": {"in_ner": 1}}}
    snake = {"message": {"message_id": "m", "role": "ROLE_USER", "parts": [part], "context_id": "c", "task_id": None}}
    ask = shapes.read({**snake, "unknown_field": 1, "configuration": {"history_length": 2}}, shapes.SendMessage)
    (read,) = ask.message.parts
    assert (ask.message.message_id, ask.message.context_id, ask.message.task_id) == ("m", "c", "")
    assert read.data == {"snake_case": None, "n": None}
    assert read.metadata == {"some_key": {"in_ner": 1}}
    assert (read.media_type, ask.configuration.history_length) == ("a/b", 2)
    null = shapes.read({"message": {**snake["message"], "parts": [{"data": None}]}}, shapes.SendMessage)
    assert null.message.parts[0].data is None
    good: dict[str, Any] = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": ""}]}
    assert shapes.read({"message": good}, shapes.SendMessage).message.parts[0].text == ""
    for wrong, field in (
        ({}, "message"),
        ({"message": {**good, "messageId": ""}}, "message.messageId"),
        ({"message": {**good, "role": "ROLE_AGENT"}}, "message.role"),
        ({"message": {**good, "parts": []}}, "message.parts"),
        ({"message": {**good, "parts": [{"metadata": {}}]}}, "message.parts[0]"),
        ({"message": {**good, "parts": [{"text": "a", "raw": "YQ=="}]}}, "message.parts[0]"),
        ({"message": good, "configuration": {"historyLength": -1}}, "configuration.historyLength"),
    ):
        with pytest.raises(BadRequest) as refused:
            shapes.read(wrong, shapes.SendMessage)
        assert refused.value.field == field, wrong


def test_times_compare_as_texts() -> None:
    for given, written in (
        ("2026-05-13T06:51:00Z", "2026-05-13T06:51:00.000Z"),
        ("2026-05-13T06:51:00.25z", "2026-05-13T06:51:00.250Z"),
        ("2026-05-13T06:51:00.123456789Z", "2026-05-13T06:51:00.123Z"),
        ("2026-05-13T08:51:00.250+02:00", "2026-05-13T06:51:00.250Z"),
    ):
        assert listing.instant(given, "f") == written, given
    for wrong in (
        "",
        "yesterday",
        "2026-05-13",
        "2026-05-13T06:51:00",
        "2026-13-13T06:51:00Z",
        "0001-01-01T00:00:00+23:59",
    ):
        with pytest.raises(A2AError):
            listing.instant(wrong, "f")


def test_a_token_stands_for_a_place_and_nothing_else_does() -> None:
    place = ("2026-05-13T06:51:01.250Z", "t")
    assert listing.place(listing.token(place)) == place
    others = (("yesterday", "t"), ("2026-05-13T06:51:01Z", "t"), ("2026-05-13T08:51:01.250+02:00", "t"))
    for wrong in ("x", "é", "AAAA", listing.token(place)[:-4], "MjAyNg", *map(listing.token, others)):
        with pytest.raises(A2AError):
            listing.place(wrong)


def test_base64_is_taken_in_both_alphabets() -> None:
    for text, data in (
        ("", b""),
        ("dGNr", b"tck"),
        ("dGM=", b"tc"),
        ("dGM", b"tc"),
        ("-_8", b"\xfb\xff"),
        ("+/8=", b"\xfb\xff"),
    ):
        assert base64s.from_base64(text) == data, text
    for wrong in ("a", "dG Nr", "dG\nNr", "é", "dG=Nr"):
        assert not base64s.is_base64(wrong), wrong


def test_every_reason_has_the_code_of_the_protocol() -> None:
    from a2a.utils.errors import A2A_ERROR_MAPPING, JSON_RPC_ERROR_CODE_MAP

    official = {known.reason: (JSON_RPC_ERROR_CODE_MAP[kind], known) for kind, known in A2A_ERROR_MAPPING.items()}
    for name, kind in failures.KINDS.items():
        if name not in official:
            assert name == "PARSE_ERROR", name
            continue
        rpc, known = official[name]
        assert (kind.rpc, kind.http, kind.status) == (rpc, known.http_code, known.grpc_status), name
    wrong = failures.refusal(A2AError("INVALID_PARAMS", "no", field="message"))
    assert wrong.rest()["error"]["details"][1]["fieldViolations"] == [{"field": "message", "description": "no"}]
    assert wrong.rpc(1)["error"]["code"] == -32602
