"""The pure rules of the portal: addresses, screening, offers, words, rights, and the way of a message."""

from __future__ import annotations

from itertools import product

import pytest
from msgspec.structs import replace

from clawlink.domain import networks
from clawlink.doors.portal.records import Message, State
from clawlink.doors.portal.rules import (
    access,
    consent,
    file_parts,
    import_rows,
    outbox_steps,
    refused_reports,
    screening,
    texts,
    urls,
)
from clawlink.doors.portal.rules.access import Role
from clawlink.doors.portal.rules.consent import Decision, Offer
from clawlink.doors.portal.rules.outbox_steps import Outcome, Step
from clawlink.doors.portal.wire import calls
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.doors.portal.wire.old_calls import OLD_CALLS, PHOTO_CALLS
from clawlink.errors import BadRequest, NotAllowed, NotAuthenticated

OWN = "https://me.example"
KEY = "ap2p_" + "k" * 43


def message(state: State = State.QUEUED, **fields: object) -> Message:
    base = Message(
        id="m",
        version=1,
        number=1,
        inbound=False,
        contact="https://b.example",
        content="hi",
        message_type="text",
        created_at=0.0,
        state=state,
        expires_at=100.0,
    )
    return replace(base, **fields)


def test_an_address_has_one_spelling() -> None:
    for given, expected in (
        ("https://b.example", "https://b.example"),
        (" https://B.Example:443/ ", "https://b.example"),
        ("http://b.example:80//", "http://b.example"),
        ("https://b.example:8443/portal/", "https://b.example:8443/portal"),
        ("https://[::1]:9/", "https://[::1]:9"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
    ):
        assert urls.normalised(given) == expected, given
        assert urls.same(given, expected), given
    for given in (
        "",
        "b.example",
        "ftp://b.example",
        "https://",
        "https://u:p@b.example",
        "https://b.example/?x=1",
        "https://b.example/#x",
        "https://b.example:99999",
        "https://b ad.example",
        "https://b.example/\r\nX: 1",
        "https://" + "b" * 600,
        "javascript:alert(1)",
        "https://[::1",
    ):
        with pytest.raises(BadRequest):
            urls.normalised(given)
        assert not urls.same(given, OWN), given
    for given in ("https://b.example:99999", "https://b.example:0", "https://b.example:http"):
        with pytest.raises(BadRequest, match="the port of a portal's address is from 1 to 65535") as refused:
            urls.normalised(given, field="to")
        assert refused.value.field == "to"


def test_a_name_of_an_old_database_means_no_other_contact() -> None:
    rows = import_rows.ContactRows(OWN, 2e9, most=10)
    named = {"display_name": "12", "agent_name": "https://c.example", "user_name": " Bob "}
    assert rows.take({"id": 1, "portal_url": "https://b.example", "shared_key": "ap2p_" + "k" * 43, **named}) is None
    (found,) = rows.found
    assert (found.display_name, found.agent_name, found.user_name) == ("name-12", "https-c.example", "Bob")


def test_an_address_is_screened_as_a_portal_needs_it() -> None:
    none: tuple[networks.Network, ...] = ()
    assert screening.fault("10.1.2.3", none, encrypted=True) is not None
    assert screening.fault("b.example", none, encrypted=True) is not None
    assert screening.fault("1.1.1.1", none, encrypted=True) is None
    plain = screening.fault("1.1.1.1", none, encrypted=False)
    assert plain is not None
    assert "https://" in plain
    allowed = networks.networks("10.0.0.0/8, fd00::/8")
    for address in ("10.1.2.3", "fd00::1", "::ffff:10.0.0.1"):
        assert screening.fault(address, allowed, encrypted=False) is None, address
    assert screening.fault("127.0.0.1", allowed, encrypted=True) is not None
    for host in ("127.0.0.1", "localhost", "a.localhost", "::1"):
        assert screening.fault("127.0.0.1", screening.allowed_with(host, none), encrypted=False) is None, host
    assert screening.allowed_with("me.example", none) == ()


def test_an_offer_is_found_in_any_language() -> None:
    other = "ap2p_" + "o" * 43
    for text, expected in (
        (f"I am https://b.example and the key is {KEY}.", Offer("https://b.example", KEY)),
        (f"你好，我的Portal是https://b.example/，密钥：{KEY}，请同意。", Offer("https://b.example", KEY)),
        (f"To {OWN}/: je suis <https://B.example:443>; clé « {KEY} »", Offer("https://b.example", KEY)),
        (f"https://b.example https://b.example/ {KEY} {KEY}", Offer("https://b.example", KEY)),
        (f"https://b.example or https://c.example {KEY}", Offer(None, KEY)),
        (f"https://b.example {KEY} {other}", Offer("https://b.example", None)),
        ("https://b.example", Offer("https://b.example", None)),
        (f"https://b.example {consent.WELL_KNOWN_KEY}", Offer("https://b.example", None)),
        (f"https://b.example {consent.WELL_KNOWN_KEY} {KEY}", Offer("https://b.example", None)),
        ("https://b.example ap2p_short", Offer("https://b.example", None)),
        (f"{OWN} {KEY}", Offer(None, KEY)),
        ("", Offer(None, None)),
    ):
        assert consent.offered(text, OWN) == expected, text
    assert KEY not in consent.masked(f"the key is {KEY}.")


def test_the_owners_words_decide_and_no_others_do() -> None:
    for text, expected in (
        ("同意 3", (Decision.APPROVE, 3)),
        ("同意3", (Decision.APPROVE, 3)),
        (" 拒绝 12。 ", (Decision.DENY, 12)),
        ("已读 #4", (Decision.READ, 4)),
        ("Approve 5", (Decision.APPROVE, 5)),
        ("deny 6.", (Decision.DENY, 6)),
        ("我同意 3 个人的意见", None),
        ("同意 3 和 4", None),
        ("do not approve 3", None),
        ("同意", None),
        ("同意 -3", None),
        ("", None),
    ):
        assert consent.decided(text) == expected, text


def test_every_route_has_its_rights_and_none_else() -> None:
    assert set(access.RIGHTS) == {
        call.name
        for call in (
            *calls.CALLS,
            *FILE_CALLS,
            calls.CHAT_UPLOAD,
            calls.CHAT_FILE,
            *OLD_CALLS,
            *PHOTO_CALLS,
            *calls.IMPORT_CALLS,
        )
    } | {calls.SOCKET.name}
    for route, role in product(access.RIGHTS, Role):
        if role in access.RIGHTS[route]:
            access.require(route, role)
            continue
        unknown = role is Role.NONE or access.RIGHTS[route] == {Role.CONTACT}
        with pytest.raises(NotAuthenticated if unknown else NotAllowed):
            access.require(route, role)
    assert access.RIGHTS["message_receive"] == {Role.CONTACT}, "the owner key is 401 there, as on the wire"
    with pytest.raises(NotAuthenticated, match=r"0\.9 sends no key"):
        access.require("chat_reply", Role.NONE)


def test_a_message_in_doubt_goes_to_an_old_portal_twice_at_most() -> None:
    first = outbox_steps.begun(message(), None)
    assert (first.state, first.lost) == (State.SENDING, 1)
    lost = outbox_steps.after(first, Outcome.LOST, "cut", 1.0)
    assert outbox_steps.step(lost, None) is Step.ASK, "nobody knows whether that portal takes a repeat once"
    assert outbox_steps.step(lost, False) is Step.POST
    second = outbox_steps.begun(lost, False)
    assert (second.state, second.lost) == (State.SENDING, 2)
    third = outbox_steps.begun(outbox_steps.after(second, Outcome.LOST, "cut", 2.0), False)
    assert (third.state, outbox_steps.step(third, False)) == (State.UNKNOWN, Step.SETTLED)
    assert "may have it" in third.detail


def test_a_message_to_a_portal_of_ours_is_posted_as_often_as_it_takes() -> None:
    waiting = message()
    for _ in range(20):
        assert outbox_steps.begun(waiting, True) is waiting
        waiting = outbox_steps.after(waiting, Outcome.LOST, "cut", 1.0)
        assert (waiting.state, outbox_steps.step(waiting, True)) == (State.SENDING, Step.POST)
        waiting = outbox_steps.after(waiting, Outcome.NOT_STORED, "no route", 1.0)
        assert (waiting.state, waiting.lost) == (State.SENDING, 0), "what was lost before is in doubt as before"
    sent = outbox_steps.after(waiting, Outcome.STORED, "", 5.0)
    assert (sent.state, sent.sent_at, sent.version) == (State.SENT, 5.0, 42)


def test_what_surely_was_not_stored_is_no_loss() -> None:
    begun = outbox_steps.begun(message(), None)
    again = outbox_steps.after(begun, Outcome.NOT_STORED, "no route", 1.0)
    assert (again.state, again.lost, again.detail) == (State.QUEUED, 0, "no route")
    doubtful = outbox_steps.begun(outbox_steps.after(begun, Outcome.LOST, "cut", 1.0), False)
    still = outbox_steps.after(doubtful, Outcome.NOT_STORED, "no route", 2.0)
    assert (still.state, still.lost) == (State.SENDING, 1), "the first loss is in doubt as before"
    assert outbox_steps.after(begun, Outcome.REFUSED, "413", 1.0).state is State.REFUSED


def test_a_message_expires_while_it_waits_and_says_what_is_in_doubt() -> None:
    waiting = message(detail="no route")
    assert outbox_steps.lapse(waiting, 99.0) is waiting
    over = outbox_steps.lapse(waiting, 100.0)
    assert (over.state, over.ends_at) == (State.EXPIRED, None)
    assert "no route" in over.detail
    for lost in (0, 1):  # to a portal of ours no losses are counted
        doubtful = outbox_steps.lapse(message(State.SENDING, lost=lost, detail="cut"), 100.0)
        assert (doubtful.state, doubtful.ends_at) == (State.UNKNOWN, None)
        assert doubtful.detail.endswith("may have it; its time to live is over; the last failure: cut")
    sent = message(State.SENT)
    assert outbox_steps.lapse(sent, 1000.0) is sent


def test_refused_news_are_told_in_another_way_under_another_key() -> None:
    news = {"kind": "response", "task_id": "t", "status": "completed", "content": "42", "note": "n" * 495, "key": "k"}
    with_files = news | {"files": [{"id": "f"}]}
    assert list(refused_reports.in_place_of({"kind": "progress", "task_id": "t", "key": "k"}, "gone", final=True)) == []
    assert list(refused_reports.in_place_of(news, "gone", final=False)) == []
    ((how, failed),) = refused_reports.in_place_of(news, "gone", final=True)
    assert (how, failed["status"], failed["key"]) == ("as failed", "failed", "k failed")
    assert failed["content"] == "the answer (completed) did not go over: gone"
    (how, bare), (_, last) = refused_reports.in_place_of(with_files, "gone", final=True)
    assert how == "without its files"
    assert bare == news | {"key": "k bare", "note": ("n" * 495 + "; without its files: gone")[:500]}
    assert last == failed
    ((_, bare),) = refused_reports.in_place_of(with_files | {"note": None}, "gone", final=False)
    assert bare["note"] == "without its files: gone"


def test_times_have_microseconds_and_the_zone_of_their_field() -> None:
    assert texts.stamp(0.25) == "1970-01-01T08:00:00.250000+08:00"
    assert texts.utc(0.25) == "1970-01-01T00:00:00.250000+00:00"
    for far in ("0001-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
        with pytest.raises(ValueError, match="year"):
            texts.seconds(far)
    assert texts.seconds(texts.stamp(0.25)) == texts.seconds(texts.utc(0.25)) == 0.25
    assert texts.seconds(texts.stamp(1234567.125)) == 1234567.125


def test_names_of_files_are_harmless_in_folders_and_headers() -> None:
    for given, expected in (
        ("a/b\\c.txt", "c.txt"),
        ("..", "file"),
        (".hidden", "hidden"),
        ("x\u202etxt.exe", "xtxt.exe"),
        ("a\ud800b", "ab"),
        ("~root", "root"),
        ('q"u;o|te', "q_u;o_te"),
        ("CON", "CON"),
    ):
        assert file_parts.harmless(given) == expected, given
    assert len(file_parts.harmless("文" * 300 + ".pdf").encode()) <= 200
    assert file_parts.harmless("文" * 300 + ".pdf").endswith("文.pdf")
    assert file_parts.disposition('a"\\%é') == "attachment; filename=\"a____\"; filename*=UTF-8''a%22%5C%25%C3%A9"
    ids = {file_parts.derived_id(b"s", str(number)) for number in range(300)}
    assert len(ids) == 300
    assert {len(id) for id in ids} == {43}
    assert not any(id[0] in "-_" for id in ids), "old scripts take an id that begins with - for a flag"
