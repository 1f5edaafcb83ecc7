"""A client beside relays that fail, and beside servers that are no relay."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from clawlink import errors
from clawlink.client.calls import Other
from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.server.keys import noted
from tests.client.conftest import Scripted, http
from tests.client.facade import connect
from tests.ports import free_port
from tests.tables import each

pytestmark = pytest.mark.usefixtures("each_client")

DRAINING = http("503 Service Unavailable", '{"error":"e","code":"draining","retry_after":3}', "Retry-After: 3")
OK = http("200 OK", '{"status":"ok"}')


def once(url: str, **options: float) -> Client:
    return connect(url, agent_id="a", backoff=Backoff(tries=1), **options)


@pytest.mark.parametrize(
    "reply",
    [
        http("200 OK", "<html>Welcome to nginx!</html>", "Content-Type: text/html"),
        http("200 OK", ""),
        http("200 OK", "{}"),
        http("200 OK", "[]"),
        http("200 OK", '{"status":5}'),
        http("200 OK", '{"status":"\\ud800"}'),
        http("200 OK", b'{"status":"\xff"}'),
        http("200 OK", "null"),
        http("404 Not Found", "<html>no such page</html>"),
        http("404 Not Found", ""),
        http("404 Not Found", '{"message":"not found"}'),
        http("401 Unauthorized", "who are you?"),
        http("403 Forbidden", '"no"'),
        http("500 Internal Server Error", "Traceback (most recent call last):"),
        http("502 Bad Gateway", "<html>bad gateway</html>"),
        http("204 No Content"),
        http("301 Moved", "", "Location: http://127.0.0.1:9/"),
        http("302 Found", "", "Location: https://login.example/"),
        http("307 Temporary Redirect", ""),
        http("418 I'm a teapot", "short and stout"),
    ],
)
def test_what_answers_but_is_no_relay_is_said_to_be_none(scripted: Scripted, reply: bytes) -> None:
    scripted.script = [reply]
    with once(scripted.url) as client, pytest.raises(errors.NotARelay) as failed:
        client.health()
    assert len(scripted.asked) == 1
    assert "\n" not in failed.value.message


@pytest.mark.parametrize(
    "reply", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"\x00" * 50]
)
def test_what_does_not_speak_http_to_its_end_cannot_be_reached(scripted: Scripted, reply: bytes) -> None:
    scripted.script = [reply]
    with once(scripted.url) as client, pytest.raises((errors.RelayUnreachable, errors.NotARelay)):
        client.health()


def test_nobody_there_is_unreachable_and_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with once(f"http://127.0.0.1:{port}") as client, pytest.raises(errors.RelayUnreachable, match="clawlink serve"):
        client.health()


def test_what_breaks_off_may_speak_tls(scripted: Scripted) -> None:
    scripted.script = [b""]
    secure = scripted.url.replace("http:", "https:")
    with once(scripted.url) as client, pytest.raises(errors.RelayUnreachable) as failed:
        client.health()
    assert failed.value.message.endswith(
        f"closed the connection without an answer; it may be restarting, or speak TLS: then try {secure}"
    )


def test_what_speaks_no_tls_is_to_be_asked_without_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(http("400 Bad Request", "no"))

        thread = threading.Thread(target=answer)
        thread.start()
        with once(f"https://127.0.0.1:{port}") as client, pytest.raises(errors.NotARelay) as refused:
            client.health()
        thread.join()
    assert refused.value.message.endswith(f"speaks no TLS; try http://127.0.0.1:{port}")


def test_a_refused_connection_has_sent_nothing_unless_an_earlier_attempt_got_one() -> None:
    with once(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(errors.RelayUnreachable) as refused:
        client.health()
    assert refused.value.unsent
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        connection, _ = listener.accept()
        listener.close()  # before the client learns of the end, so its next attempt is refused
        with connection:
            connection.recv(65536)

    thread = threading.Thread(target=hang_up)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    patient = Backoff(tries=2, first=0.01)
    with connect(url, agent_id="a", backoff=patient) as client, pytest.raises(errors.RelayUnreachable) as lost:
        client.health()
    thread.join()
    assert lost.value.message.startswith("no relay answers at"), "the last attempt was refused"
    assert not lost.value.unsent


def test_a_certificate_that_is_not_trusted_says_how_to_trust_it() -> None:
    client = Client("https://relay:9077")
    said = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    assert "--ca FILE or CLAWLINK_CA, in Python ca=" in client._untrusted(said).message
    assert "--ca" not in client._untrusted("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch").message


def test_a_relay_that_kept_its_data_is_started_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it an empty relay would begin in its place."""
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path))
    port, folder = free_port(), tmp_path / "my mesh"
    folder.mkdir()

    def advice(**known: str) -> str:
        client = connect(f"http://127.0.0.1:{port}", backoff=Backoff(tries=1), **known)
        with client, pytest.raises(errors.RelayUnreachable) as refused:
            client.health()
        return refused.value.message.partition("is it running? ")[2]

    without = f"start one with: clawlink serve --port {port}"
    assert advice() == without
    assert advice(agent_id="a") == f"{without}, with its --data DIR, if it had one"
    assert advice(token="t") == f"{without}, with its token, and its --data DIR, if it had one"
    with noted(ServerConfig(port=port, data=str(folder)), port, os.environ):
        pass
    with_folder = f"clawlink serve --port {port} --data {shlex.quote(str(folder))}"
    assert advice() == f"start it with the data folder that was last used there: {with_folder}"
    assert advice(token="t") == f"{advice()}, with its token"
    (folder / "token").write_text("t")
    assert advice(token="t") == advice(), "the folder has it"
    shutil.rmtree(folder)
    assert advice() == without
    for damaged in (b"/no/such\0folder", b"", b"."):
        (tmp_path / "relays" / str(port) / "data-folder").write_bytes(damaged)
        assert advice() == without


@each(
    ("relay", "serve"),
    [
        ("http://127.0.0.1:9077", "start one with: clawlink serve"),
        ("http://127.0.0.1:9079", "start one with: clawlink serve --port 9079"),
        (
            "http://192.0.2.2:9077",
            "start it there with: clawlink serve --host 0.0.0.0, with its --data DIR, if it had one",
        ),
        (
            "http://192.0.2.2:9079",
            "start it there with: clawlink serve --port 9079 --host 0.0.0.0, with its --data DIR, if it had one",
        ),
        ("https://192.0.2.2", "start it there with: clawlink serve --host 0.0.0.0, with its --data DIR, if it had one"),
    ],
)
def test_a_relay_is_started_on_the_machine_that_has_none(clawlink_home: Path, relay: str, serve: str) -> None:
    """The account is the test's own: in another one a relay may have noted its folder."""
    assert Client(relay)._nobody(OSError(), broke_off=False).message.endswith(serve)


@each(
    "address",
    [
        "",
        "relay",
        "relay:9077",
        "ftp://relay",
        "http://",
        "http://[::1",
        "http://relay:99999",
        "http:// x",
        "://",
        "http://a..b",
    ],
)
def test_what_is_no_address_is_told(address: str) -> None:
    with once(address, timeout=2) as client, pytest.raises((errors.NotARelay, errors.RelayUnreachable)):
        client.health()


def test_a_slash_at_the_end_of_the_address_does_no_harm(relay: str) -> None:
    with once(relay + "/") as client:
        assert client.health().status == "ok"


def test_silence_ends_with_the_timeout(scripted: Scripted) -> None:
    scripted.script = [30.0]
    started = time.monotonic()
    with once(scripted.url, timeout=0.2) as client, pytest.raises(errors.RelayUnreachable, match=r"0\.2 s"):
        client.health()
    assert 0.15 < time.monotonic() - started < 15


def test_a_poll_is_given_its_wait_on_top_of_the_timeout(scripted: Scripted) -> None:
    scripted.script = [30.0]
    started = time.monotonic()
    with once(scripted.url, timeout=0.2) as client, pytest.raises(errors.RelayUnreachable):
        client.poll(wait=0.5)
    assert 0.6 < time.monotonic() - started < 15


def test_it_tries_again_until_the_relay_is_back(scripted: Scripted, pauses: list[float]) -> None:
    scripted.script = [b"", DRAINING, http("500 x", '{"error":"e","code":"internal_error"}'), OK]
    with connect(scripted.url) as client:
        assert client.health().status == "ok"
    assert len(scripted.asked) == 4
    assert len(pauses) == 3
    assert 0.05 <= pauses[0] <= 0.1
    assert 1.5 <= pauses[1] <= 3  # half to all of what Retry-After says
    assert 0.2 <= pauses[2] <= 0.4


def test_it_gives_up_with_the_last_failure(scripted: Scripted, pauses: list[float]) -> None:
    scripted.script = [DRAINING]
    with connect(scripted.url) as client, pytest.raises(errors.Draining) as failed:
        client.health()
    assert failed.value.retry_after == 3
    assert (len(scripted.asked), len(pauses)) == (4, 3)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("400", "bad_request"),
        ("401", "not_authenticated"),
        ("404", "unknown_agent"),
        ("409", "name_taken"),
        ("429", "mailbox_full"),
    ],
)
def test_a_refusal_is_not_tried_again(scripted: Scripted, pauses: list[float], status: str, code: str) -> None:
    scripted.script = [http(f"{status} x", f'{{"error":"e","code":"{code}"}}')]
    with connect(scripted.url) as client, pytest.raises(errors.BY_CODE[code]):
        client.health()
    assert (len(scripted.asked), pauses) == (1, [])


def test_a_repeat_carries_the_same_idempotency_key(scripted: Scripted, pauses: list[float]) -> None:
    scripted.script = [b""]
    with connect(scripted.url, agent_id="a") as client, pytest.raises(errors.RelayUnreachable):
        client.send("b", "x")
    assert len(scripted.asked) == 4
    assert len({asked.partition(b"\r\n\r\n")[2] for asked in scripted.asked}) == 1


def test_leaving_and_deleting_are_not_repeated(scripted: Scripted, pauses: list[float]) -> None:
    scripted.script = [b""]
    with connect(scripted.url, agent_id="a") as client:
        with pytest.raises(errors.RelayUnreachable):
            client.leave()
        with pytest.raises(errors.RelayUnreachable):
            client.delete_file("k")
    assert (len(scripted.asked), pauses) == (2, [])


def test_an_error_code_from_the_future_is_told_by_its_status(scripted: Scripted) -> None:
    for status, kind in (("409", errors.Conflicted), ("429", errors.OverLimit), ("599", errors.InternalError)):
        scripted.script = [http(f"{status} x", '{"error":"the moon is full","code":"full_moon","field":"moon"}')]
        with once(scripted.url) as client, pytest.raises(kind) as failed:
            client.health()
        assert (failed.value.message, failed.value.field) == ("the moon is full", "moon")


def test_messages_of_a_kind_from_the_future_are_handed_out_as_they_are(scripted: Scripted) -> None:
    scripted.script = [
        http(
            "200 OK",
            '{"messages":[{"type":"song","verse":1},{"type":"message","message_id":"m"},{"x":1}],"count":3,"deliveries":['
            + ",".join('{"message_id":"m","receipt":"r","attempt":1,"lease_expires_at":"t","more":1}' for _ in range(3))
            + '],"more":{}}',
        )
    ]
    with once(scripted.url) as client:
        song, torn, bare = client.poll()
    assert song.message == Other("song", {"type": "song", "verse": 1})
    assert torn.message == Other("message", {"type": "message", "message_id": "m"})
    assert bare.raw == {"x": 1}


@pytest.mark.parametrize("polled", ['[{"type":"song"}],"count":1', '[5],"count":1', '[[]],"count":1', '5,"count":1'])
def test_a_poll_of_another_shape_comes_from_no_relay(scripted: Scripted, polled: str) -> None:
    held = '{"message_id":"m","receipt":"r","attempt":1,"lease_expires_at":"t"}' if "song" not in polled else ""
    scripted.script = [http("200 OK", f'{{"messages":{polled},"deliveries":[{held}]}}')]
    with once(scripted.url) as client, pytest.raises(errors.NotARelay):
        client.poll()


HEADERS = {
    "ClawLink-Version": "1",
    "Repr-Digest": "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:",
    "Content-Type": "text/plain",
}
LESS = {
    "nothing": {},
    "no version": {**HEADERS, "ClawLink-Version": ""},
    "no number": {**HEADERS, "ClawLink-Version": "one"},
    "no digest": {**HEADERS, "Repr-Digest": "md5=:x:"},
    "a digest in no base64": {**HEADERS, "Repr-Digest": "sha-256=:a:"},
    "a short digest": {**HEADERS, "Repr-Digest": "sha-256=:YQ==:"},
}


@pytest.mark.parametrize("headers", LESS.values(), ids=LESS)
def test_a_file_that_lacks_what_a_relay_says_comes_from_none(headers: dict[str, str], scripted: Scripted) -> None:
    scripted.script = [http("200 OK", "abc", *(f"{name}: {value}" for name, value in headers.items()))]
    with once(scripted.url) as client, pytest.raises(errors.NotARelay):
        client.get_file("k")


@pytest.mark.parametrize("said", ["bytes 0-1/3", "bytes 0-2/*", "pages 0-2/3", ""])
def test_a_part_of_a_file_that_is_another_than_it_says_is_not_taken(said: str, scripted: Scripted) -> None:
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    scripted.script = [http("206 Partial Content", "abc", *lines, f"Content-Range: {said}")]
    with once(scripted.url) as client, pytest.raises((errors.NotARelay, errors.RelayUnreachable)):
        client.get_blob("k", start=0)


def test_a_file_that_breaks_off_is_not_taken(scripted: Scripted) -> None:
    reply = http("200 OK", "abc", *(f"{name}: {value}" for name, value in HEADERS.items()))
    scripted.script = [reply[:-1]]
    with once(scripted.url) as client, pytest.raises(errors.RelayUnreachable):
        client.get_file("k")
    scripted.script = [reply]
    with once(scripted.url) as client:
        assert client.get_file("k").content == b"abc"


@pytest.mark.parametrize(("status", "kind"), [("404 x", errors.UnknownFile), ("500 x", errors.NotARelay)])
def test_what_is_answered_without_a_body_is_read_from_its_status(
    status: str, kind: type[errors.ClawLinkError], scripted: Scripted
) -> None:
    scripted.script = [http(status)]
    with once(scripted.url) as client, pytest.raises(kind):
        client.stat_blob("k")


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden"])
def test_a_proxy_that_answers_head_is_not_taken_for_the_relay(status: str, scripted: Scripted) -> None:
    with once(scripted.url) as client:
        scripted.script = [http(status, "", "Content-Type: text/html")]
        with pytest.raises(errors.NotARelay, match=status[:3]):
            client.stat_blob("k")
        scripted.script = [http(status, "", "Content-Type: application/json; charset=utf-8")]
        with pytest.raises(errors.Refused):
            client.stat_blob("k")


@pytest.mark.parametrize("content_type", ["a\nb", "a\r\nX: y", " a", "a\x00"])
def test_a_header_that_would_be_two_is_refused_before_it_is_sent(content_type: str, scripted: Scripted) -> None:
    with once(scripted.url) as client, pytest.raises(errors.BadRequest) as refused:
        client.put_blob("k", b"", content_type=content_type)
    assert refused.value.field == "Content-Type"
    assert scripted.asked == []


def test_metrics_that_are_no_text_come_from_no_relay(scripted: Scripted) -> None:
    scripted.script = [http("200 OK", b"\xff\xfe")]
    with once(scripted.url) as client, pytest.raises(errors.NotARelay):
        client.metrics()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_told(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    refused = pytest.raises((errors.NotARelay, errors.RelayUnreachable))
    with connect("https://127.0.0.1:9", ca=str(path), backoff=Backoff(tries=1)) as client, refused as failed:
        client.health()
    assert content is not None or str(path) in failed.value.message


def test_a_token_that_is_no_text_is_told(scripted: Scripted) -> None:
    scripted.script = [http("200 OK", '{"status":"ok"}')]
    with connect(scripted.url, token="\udc80") as client, pytest.raises(errors.BadRequest):
        client.health()
    assert scripted.asked == []
