"""Every failure is one sentence and an exit code that scripts can rely on, and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink import errors
from clawlink.cli import main as cli
from clawlink.cli.exits import Exit, UsageError, exit_of
from clawlink.client.identity import NoIdentity, SeveralIdentities
from clawlink.client.wait_steps import StillPending
from tests import processes
from tests.cli.conftest import COMMAND, Relays, Run, until_polled
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE

CODES = {
    errors.RelayUnreachable: 3,
    errors.NotARelay: 3,
    errors.Draining: 3,
    errors.Stopped: 3,
    errors.NotActive: 3,
    errors.StoreUnavailable: 3,
    errors.NotAuthenticated: 4,
    errors.NotAllowed: 4,
    errors.UnknownAgent: 5,
    errors.UnknownTask: 5,
    errors.UnknownMessage: 5,
    errors.UnknownFile: 5,
    errors.UnknownUpload: 5,
    errors.UnknownEvent: 5,
    errors.UnknownRoute: 5,
    errors.WrongState: 7,
    errors.LeaseLost: 7,
    errors.NameTaken: 7,
    errors.AmbiguousName: 7,
    errors.KeyReused: 7,
    errors.BeingRead: 7,
    errors.OffsetConflict: 7,
    errors.VersionConflict: 7,
    errors.FileLocked: 7,
    errors.TooLarge: 8,
    errors.MailboxFull: 8,
    errors.RelayFull: 8,
    errors.RateLimited: 8,
    errors.LoopStopped: 8,
    errors.StorageFull: 8,
    errors.BadRequest: 1,
    errors.BadJson: 1,
    errors.DigestMismatch: 1,
    errors.RangeNotSatisfiable: 1,
    errors.ChecksumMismatch: 1,
    errors.MethodNotAllowed: 1,
    errors.BodyTimeout: 1,
    errors.UnsupportedMediaType: 1,
    errors.InternalError: 1,
    UsageError: 2,
    SeveralIdentities: 2,
    NoIdentity: 5,
    StillPending: 6,
}


@each(("kind", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_each_error_has_its_exit_code(kind: type[errors.ClawLinkError], code: int) -> None:
    assert exit_of(kind("x")) == code


def test_no_error_of_the_tree_is_left_out() -> None:
    leaves = {
        kind for kind in errors.all_errors() if not kind.__subclasses__() and kind.__module__ == "clawlink.errors"
    }
    assert leaves <= set(CODES)


def test_nobody_there(run: Run, call: Run) -> None:
    for args in (["discover"], ["info"], ["file-list"], ["register", "--name", "a"]):
        told = call("--relay", "http://127.0.0.1:1", *args).failed(3)
        assert "clawlink serve" in told.err
    told = run("--relay", "http://127.0.0.1:1", "discover", "--json").failed(3)
    assert json.loads(told.err)["code"] == "relay_unreachable"
    assert told.raw == b""


def test_a_write_that_was_refused_a_connection_was_not_stored(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    told = call("broadcast", "hello").failed(3).err
    assert f"no relay answers at {url}" in told
    assert "stored" not in told
    assert "--key" not in told
    listener = socket.create_server(("127.0.0.1", int(url.rpartition(":")[2])))

    def hang_up() -> None:
        connection, _ = listener.accept()
        listener.close()
        with connection:
            connection.recv(65536)

    thread = threading.Thread(target=hang_up)
    thread.start()
    lost = call("broadcast", "hello", "--key", "k").failed(3).err
    thread.join()
    assert lost.endswith("; it may have been stored; repeat it safely with --key k\n"), lost


@each(
    "address",
    ["ftp://x", ":abc", "http://", "http://[::1", "http://a b", "http://127.0.0.1:99999", "http://..", "http://a..b"],
)
def test_addresses_that_are_none(call: Run, address: str) -> None:
    assert "no address of a relay" in call("--relay", address, "info").failed(3).err


@each(
    ("address", "fault"),
    [
        ("ftp://x", "it has to begin with http:// or https://"),
        ("9077", "it lacks the host"),
        (":9077", "it lacks the host"),
        ("http:127.0.0.1:9077", "two slashes belong behind http:"),
        ("https:/relay.example", "two slashes belong behind https:"),
        ("127.0.0.1 9077", "it may have no white space"),
        ("http://a:9077:9077", "its port has to be a number from 1 to 65535"),
        ("http://a:0", "its port has to be a number from 1 to 65535"),
        ("http://a:9077,http://b:x", "its port has to be a number from 1 to 65535"),
    ],
)
def test_an_address_that_is_none_is_told_what_belongs_there(call: Run, address: str, fault: str) -> None:
    told = call("--relay", address, "info").failed(3).err
    assert told.strip().endswith(f" is no address of a relay: {fault}; it should look like http://127.0.0.1:9077")


Answer = Callable[[bytes], str]


@pytest.fixture
def answering() -> Iterator[Answer]:
    """Listen on a port, and answer everything with the same bytes: ``answering(b"HTTP/1.1 200 OK...")``."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        with listener:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(2)
                    connection.recv(65536)
                    connection.sendall(answer)

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.05)
        threads.append(threading.Thread(target=serve, args=(listener, answer)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_what_an_error_is_about_is_told_by_its_fields_and_not_by_its_sentence(
    call: Run, own_relay: Relays, answering: Answer
) -> None:
    url = own_relay("--token", "sesame")
    assert "field" not in json.loads(call("--relay", url, "info", "--json").failed(4).err)
    told = call("--relay", url, "--token", "wrong", "info", "--json").failed(4).err
    assert json.loads(told)["field"] == "Authorization"
    for field, source in (("Authorization", True), ("admin_token", False)):
        body = json.dumps({"error": "no", "code": "not_authenticated", "field": field}).encode()
        failed = call("--relay", answering(http("401 Unauthorized", body)), "--token", "wrong", "info").failed(4)
        assert ("; the wrong one comes from --token" in failed.err) == source


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"garbage\r\n\r\n", 3),
        (b"", 3),
        (http("200 OK", b"<html>hello</html>"), 3),
        (http("200 OK", b'{"service": 1}'), 3),
        (http("200 OK", b"\xff\xfe"), 3),
        (http("302 Found", b"", "Location: http://127.0.0.1:1/"), 3),
        (http("404 Not Found", b"<html>nginx</html>"), 3),
        (http("502 Bad Gateway", b"oops"), 3),
        (http("401 Unauthorized", b'{"error": "no", "code": "not_authenticated"}'), 4),
        (http("403 Forbidden", b'{"error": "no", "code": "not_allowed"}'), 4),
        (http("507 Insufficient Storage", b'{"error": "full", "code": "storage_full"}'), 8),
        (http("418 Teapot", b'{"error": "short and \\u001b[31mstout\\u2028"}'), 1),
    ],
)
def test_whatever_answers_there(call: Run, answering: Answer, answer: bytes, code: int) -> None:
    url = answering(answer)
    for args in (["info"], ["discover"], ["info", "--json"]):
        told = call("--relay", url, *args).failed(code)
        assert told.raw == b""
        assert not [c for c in told.err if (ord(c) < 32 and c != "\n") or c == "\u2028"]


def test_a_token_that_is_missing_or_wrong(call: Run, own_relay: Callable[..., str]) -> None:
    url = own_relay("--token", "sesame")
    for args in ([], ["--token", "wrong"], ["--token", "töken €"], ["--token", "sesam"]):
        told = call("--relay", url, *args, "info").failed(4)
        assert "token" in told.err
    assert "no header can carry" in call("--relay", url, "--token", "a\nb", "info").failed(1).err
    call("--relay", url, "--token", "sesame", "info").ok()


def test_a_token_may_be_any_text(call: Run, own_relay: Callable[..., str]) -> None:
    call("--relay", own_relay("--token", "Sésam €"), "--token", "Sésam €", "info").ok()


def test_a_key_that_is_not_ours(call: Run, relay: str, account: Path, fresh: Callable[[str], str]) -> None:
    call("register", "--name", fresh("ada")).ok()
    [file] = (account / ".clawlink" / "identities").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "agent_key": "stolen"}))
    call("poll").failed(4)
    call("send", "--to", "x", "--content", "y").failed(4)


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(
    call: Run, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    call("info").ok()


def test_a_certificate_file_that_is_none(call: Run, answering: Answer, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    url = answering(b"").replace("http:", "https:")
    assert "TLS" in call("--relay", url, "--ca", str(file), "info").failed(3).err
    assert "no certificate file" in call("--relay", url, "--ca", str(tmp_path / "none"), "info").failed(2).err


def test_a_defect_is_told_in_one_sentence(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Exit:
        raise ZeroDivisionError("by \x1bzero")

    monkeypatch.setattr("clawlink.cli.learn.completion.run", broken)
    told = call("completion", "bash").failed(1)
    assert "clawlink has a defect: ZeroDivisionError: by ␛zero" in told.err
    monkeypatch.setenv("CLAWLINK_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["completion", "bash"])


def test_an_error_of_the_system_is_told_with_its_file(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Exit:
        raise OSError(errno.EACCES, "Permission denied", "/some/where")

    monkeypatch.setattr("clawlink.cli.learn.completion.run", broken)
    assert call("completion", "bash").failed(1).err == (
        "clawlink: Permission denied (/some/where); see who may read and write it, or choose another place\n"
    )


def test_an_interrupt_ends_with_130(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Exit:
        raise KeyboardInterrupt

    monkeypatch.setattr("clawlink.cli.learn.completion.run", broken)
    told = call("completion", "bash")
    assert (told.code, told.err) == (130, "")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_control_c_while_waiting(call: Run, relay: str, fresh: Callable[[str], str]) -> None:
    call("register", "--name", fresh("ada")).ok()
    process = Popen([*COMMAND, "poll", "--wait", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_polled(relay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
@each("args", [["completion", "bash"], ["skill"]])
def test_a_reader_that_has_gone_is_no_reason_to_complain(args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = Popen([*COMMAND, *args], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@each(
    "args",
    [["completion", "bash"], ["skill", "--install", "claude"], ["--help"], ["poll", "--help"], ["--version"]],
)
@each("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_failure(args: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = processes.run([*COMMAND, *args], stdout=full, text=True, timeout=PATIENCE, env=environ)
    assert (done.returncode, done.stderr) == (
        1,
        "clawlink: No space left on device; make room there, or choose another place\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_that_cannot_be_told_still_has_its_code() -> None:
    with open("/dev/full", "w") as full:
        assert subprocess.run([*COMMAND, "nonsense"], stderr=full, timeout=PATIENCE).returncode == 2


def test_main_takes_its_arguments_from_the_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import sys

    before = gc.get_threshold()
    monkeypatch.setattr(sys, "argv", ["clawlink", "--version"])
    try:
        assert cli.main() == 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
    assert capsys.readouterr().out.startswith("clawlink 1.")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to a process")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_at_the_end_of_the_interpreter_leaves_the_exit_code(name: str, account: Path) -> None:
    """Shells and service managers send a second one, which may come after the first has ended the command."""
    program = f"""
import os, signal, sys
from clawlink.cli.main import main

class Late:  # a module goes after the interpreter has brought the default actions of signals back
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{name}):
        kill(pid, number)

late = Late()
sys.argv = ["clawlink", "nonsense"]
sys.exit(main())
"""
    done = processes.run([sys.executable, "-c", program], timeout=PATIENCE)
    assert done.returncode == Exit.USAGE, done.stderr
