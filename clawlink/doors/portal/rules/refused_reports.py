"""Reports on a task that take the place of one that the other portal refused for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clawlink.doors.portal.rules.texts import note_of


def in_place_of(news: dict[str, Any], why: str, *, final: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what to tell in place of refused news, the fullest first, each with how it differs, in words.

    ``why`` is the refusal. A ``final`` answer is told as failed at last: its requester would wait for ever.
    """
    if news["kind"] != "response":
        return
    if "files" in news:
        note = note_of(news["note"], f"without its files: {why}")
        bare = {field: told for field, told in news.items() if field != "files"}
        yield "without its files", bare | {"key": f"{news['key']} bare", "note": note}
    if final:
        told = f"the answer ({news['status']}) did not go over: {why}"
        failed = {"status": "failed", "content": told, "key": f"{news['key']} failed"}
        yield "as failed", {"kind": "response", "task_id": news["task_id"], **failed}
