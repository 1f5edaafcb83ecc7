"""``references/portal.md`` and the code say the same."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec

import clawlink.portal
from clawlink.doors.portal import DOOR, transfers
from clawlink.doors.portal.cli.actions import ACTIONS
from clawlink.doors.portal.records import State
from clawlink.doors.portal.rules import access, file_parts
from clawlink.doors.portal.rules.access import RIGHTS, Role
from clawlink.doors.portal.server import (
    contacts,
    file_routes,
    files,
    import_page,
    keys,
    outbox,
    photos,
    poster,
    repository,
    socket,
)
from clawlink.doors.portal.settings import FILE_LIMITS, GIB, Settings
from clawlink.doors.portal.transfers import FileState
from clawlink.doors.portal.wire.calls import CALLS, CHAT_FILE, CHAT_UPLOAD, IMPORT_CALLS
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.doors.portal.wire.old_calls import OLD_CALLS, PHOTO_CALLS
from tests.cli.test_docs import require_described

PAGE = (Path(__file__).parents[3] / "references" / "portal.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
ALL = (*CALLS, *FILE_CALLS, CHAT_UPLOAD, CHAT_FILE, *OLD_CALLS, *PHOTO_CALLS, *IMPORT_CALLS)
_ROLES = {Role.OWNER: "owner", Role.AGENT: "agent", Role.CONTACT: "contact"}


def test_every_route_is_described_with_its_role_and_fields() -> None:
    rows = dict(re.findall(r"^\| `([A-Z]+ /(?:api|static)/\S+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == {f"{call.method} {call.path}" for call in ALL}
    for call in ALL:
        role, _, told = rows[f"{call.method} {call.path}"].partition(" | ")
        allowed = RIGHTS[call.name]
        expected = "all" if Role.NONE in allowed else ", ".join(_ROLES[one] for one in _ROLES if one in allowed)
        assert role == expected, call.name
        same = "the same" if call.name == "contact_change" else ""
        for field in () if call.body is None or same else msgspec.structs.fields(call.body):
            unused = call.name == "key_create" and field.name != "agent_name"
            assert unused or f"`{field.encode_name}" in told, (call.name, field.encode_name)


def test_flags_limits_and_states_are_those_of_the_code() -> None:
    told = re.findall(r"^\| (.+?) \| ([\d,]+) ([\w ]+?) \| `(--[\w-]+)` \|", PAGE, re.MULTILINE)
    limits = [field for field in dataclasses.fields(Settings) if field.metadata["unit"] is not None]
    assert sorted(told) == sorted(
        (f.metadata["help"], f"{f.default:,.0f}", f.metadata["unit"], f.metadata["flag"]) for f in limits
    )
    for field in dataclasses.fields(Settings):
        assert field.metadata["flag"] in PAGE, field.name
    states = set(re.findall(r"^\| `(\w+)` \| ", PAGE.split("| State | Fact |")[1].split("\n\n")[0], re.MULTILINE))
    assert states == {state.value for state in State} | {"answered"}
    told_states = PAGE.split("| State of a file | Fact |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \| ", told_states, re.MULTILINE)) == {state.value for state in FileState}
    for number, words in (
        (file_parts.MAX_PART_BYTES, "| a part of a file | {:,} bytes"),
        (file_parts.MAX_PARTS, "| parts of a file | {:,} |"),
        (file_routes.MAX_BODIES, "| parts of one contact on their way at a time | {:,} |"),
        (files.MAX_UNFINISHED, "| files of one contact under way | {:,} |"),
        (files.MAX_APART, "| parts of a file that came before their turn | {:,} |"),
        (transfers.UNFINISHED_SECONDS / 3600, "no part comes for {:.0f} hours"),
        (FILE_LIMITS["max_file_bytes"] / GIB, "takes {:.0f} GiB a file"),
        (FILE_LIMITS["max_files_bytes"] / GIB, "{:.0f} GiB of files in all"),
        (FILE_LIMITS["max_data"] / GIB, "and {:.0f} GiB of data"),
        (contacts.MAX_CONTACTS, "| contacts | {:,} |"),
        (photos.MAX_PHOTOS, "| photos of the front page | {:,} |"),
        (photos.MAX_PHOTO_BYTES, "| a photo | {:,} bytes"),
        (import_page.MAX_DATABASE_BYTES, "| a database that is brought on the page | {:,} bytes"),
        (import_page.MAX_BESIDE, "| files beside it | {:,} |"),
        (keys.MAX_AGENT_KEYS, "| agent keys | {:,} |"),
        (socket.MAX_SOCKETS, "| sockets of agents | {:,} |"),
        (socket.MAX_SOCKETS, "up to {} sockets"),
        (keys.LOGINS_AT_ONCE, "| logins of one address | {:,} at once"),
        (access.MAX_PASSWORD_LENGTH, "to {:,} characters"),
        (repository.MAX_MESSAGE_BYTES, "at most {:,} bytes"),
        (outbox.MOST_PAUSE_SECONDS, "up to {:.0f} s"),
        (poster.ANSWER_SECONDS, "within {:.0f} s"),
        (socket.LEASE_SECONDS, "has not acked within {:.0f} s"),
        (keys.SESSION_SECONDS / 3600, "a login of the last {:.0f} hours"),
    ):
        assert words.format(number) in TEXT, words
    assert "404, 408, 421, 423, 425, 429, 503" in TEXT
    assert {404, 408, 421, 423, 425, 429, 503} | {401, 403} == poster.LATER


def test_the_command_its_actions_and_the_functions_are_described() -> None:
    for verb in DOOR.verbs():
        require_described(verb, PAGE)
    for action in ACTIONS:
        assert re.search(rf"[`\s]{action}\b", PAGE), action
    for name in clawlink.portal.__all__:
        assert name in PAGE, name
