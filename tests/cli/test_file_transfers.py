"""Large files, streams and folders on the command line: there and back, through cuts, and never anywhere else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Relays, Run
from tests.client.attacks import NAMES
from tests.client.proxy import Proxy
from tests.processes import Popen
from tests.waiting import PATIENCE, wait_until

Fresh = Callable[[str], str]
LARGE = random.Random(3).randbytes(5_000_001)


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cutting(relay: str) -> Iterator[Proxy]:
    proxy = Proxy(relay)
    yield proxy
    proxy.close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("by", ["path", "pipe"])
def test_a_large_file_comes_back_through_a_line_that_is_cut(
    run: Run, me: str, cutting: Proxy, fresh: Fresh, here: Path, by: str
) -> None:
    key = fresh("large")
    (here / "large").write_bytes(LARGE)
    chosen = random.Random(5)
    cutting.limit_up = lambda: chosen.randint(300_000, 900_000) if cutting.cuts < 5 else None
    # An identity of one address is another at the proxy's: only the line differs.
    home = os.environ["HOME"]
    for path in Path(home, ".clawlink", "identities").iterdir():
        path.write_text(path.read_text().replace(os.environ["CLAWLINK_RELAY"], cutting.url))
    env = {"CLAWLINK_RELAY": cutting.url}
    if by == "path":
        done = run("file-put", key, "--file", "large", env=env).ok()
    else:
        done = run("file-put", key, "--file", "-", stdin=LARGE, env=env).ok()
    assert "4.768 MiB" in done.out
    assert done.err == ""
    assert cutting.cuts == 5
    cutting.limit_up = None
    cutting.limit = lambda: chosen.randint(300_000, 900_000) if cutting.cuts < 10 else None
    if by == "path":
        run("file-get", key, "--output", "back", env=env).ok()
        assert (here / "back").read_bytes() == LARGE
    else:
        assert run("file-get", key, env=env).ok().raw == LARGE
    assert cutting.cuts == 10
    assert sorted(os.listdir(here)) in (["back", "large"], ["large"])


def test_the_key_stands_alone_or_behind_its_flag(call: Run, me: str, fresh: Fresh) -> None:
    key = fresh("key")
    call("file-put", key, "--file", "-", stdin=b"one").ok()
    assert call("file-get", "--key", key).ok().raw == b"one"
    assert call("file-get", key, "--key", key).ok().raw == b"one"
    assert "are different" in call("file-get", key, "--key", "other").failed(2).err
    assert "KEY or --key" in call("file-get").failed(2).err
    call("file-rm", key).ok()
    assert "file list" in call("file-get", key).failed(5).err


def test_a_former_version_is_had_by_its_number(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("key")
    for content in (b"one", b"two"):
        call("file-put", key, "--file", "-", stdin=content).ok()
    assert call("file-get", key, "--version", "1").ok().raw == b"one"
    assert call("file-get", key).ok().raw == b"two"
    assert "version 1" in call("file-get", key, "--version", "1", "--output", "x").ok().out
    assert "version 7" in call("file-get", key, "--version", "7").failed(5).err


def test_what_a_file_is_can_be_said_or_follows(call: Run, me: str, peer: Client, fresh: Fresh, here: Path) -> None:
    (here / "a.json").write_bytes(b"{}")
    key = fresh("dir/a.json")
    call("file-put", key, "--file", "a.json").ok()
    assert peer.stat_blob(key).content_type == "application/json"
    call("file-put", key, "--file", "a.json", "--content-type", "application/x-mine", "--type", "mine").ok()
    assert (peer.stat_blob(key).content_type, peer.stat_blob(key).file_type) == ("application/x-mine", "mine")
    assert "Content-Type" in call("file-put", key, "--file", "a.json", "--content-type", "a\nb").failed(1).err


def test_a_file_that_ends_by_itself(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("ends")
    call("file-put", key, "--file", "-", "--ttl", "10m", stdin=b"x").ok()
    [line] = [line for line in call("file-list").ok().out.splitlines() if line.startswith(key)]
    assert "expires in" in line


def test_a_file_that_one_may_read_is_read_once(call: Run, me: str, peer: Client, fresh: Fresh, here: Path) -> None:
    key = fresh("once")
    call("file-put", key, "--file", "-", "--burn", stdin=LARGE).ok()
    [line] = [line for line in call("file-list").ok().out.splitlines() if line.startswith(key)]
    assert "gone once it is read" in line
    call("file-get", key, "--output", "mine").ok()
    assert (here / "mine").read_bytes() == LARGE
    call("file-get", key, "--output", "mine").failed(5)
    assert (here / "mine").read_bytes() == LARGE


def test_nothing_is_left_of_what_fails(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    call("file-get", fresh("nothing"), "--output", "x").failed(5)
    call("file-put", fresh("nothing"), "--file", "nowhere").failed(1)
    call("file-get", fresh("nothing"), "--output", "no/folder/x").failed(5)
    assert os.listdir(here) == []


def test_who_reads_only_the_beginning_is_no_failure_of_ours(run: Run, me: str, fresh: Fresh) -> None:
    key = fresh("large")
    run("file-put", key, "--file", "-", stdin=LARGE).ok()
    process = Popen([*COMMAND, "file-get", key], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(10) == LARGE[:10]
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_who_interrupts_it_finds_nothing_half_written(
    run: Run, me: str, cutting: Proxy, fresh: Fresh, here: Path
) -> None:
    key = fresh("interrupted")
    run("file-put", key, "--file", "-", stdin=LARGE).ok()

    def began() -> bool:
        return any(name.endswith(".part") for name in os.listdir(here))

    cutting.limit = lambda: 0 if began() else 200_000  # so that it cannot end before it is interrupted
    process = Popen([*COMMAND, "--relay", cutting.url, "file-get", key, "--output", "mine"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    wait_until(began)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert os.listdir(here) == []


@pytest.mark.skipif(sys.platform == "win32", reason="parts are gone on with where files have locks")
def test_a_killed_get_is_gone_on_with_by_the_next(run: Run, me: str, cutting: Proxy, fresh: Fresh, here: Path) -> None:
    key = fresh("killed")
    run("file-put", key, "--file", "-", stdin=LARGE).ok()

    def came() -> int:
        return sum(path.stat().st_size for path in here.glob(".mine.*.part"))

    cutting.limit = lambda: 0 if came() else 200_000  # so that it cannot end before it is killed
    process = Popen([*COMMAND, "--relay", cutting.url, "file-get", key, "--output", "mine"], stderr=subprocess.DEVNULL)
    wait_until(came)
    process.kill()
    process.wait(PATIENCE)
    assert not (here / "mine").exists()
    (part,) = here.glob(".mine.*.part")
    number = part.stat().st_ino
    run("file-get", key, "--output", "mine").ok()
    assert (here / "mine").stat().st_ino == number
    assert (here / "mine").read_bytes() == LARGE
    assert os.listdir(here) == ["mine"]


@pytest.mark.parametrize("size", [5, len(LARGE)])
def test_without_a_relay_a_transfer_fails_at_once(call: Run, own_relay: Relays, here: Path, size: int) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    (here / "mine").write_bytes(LARGE[:size])
    for args in (("file-put", "mine"), ("file-get", "mine", "--output", "there")):
        told = call(*args).failed(3).err
        assert told.startswith(f"clawlink: no relay answers at {url}; is it running?"), "nothing is tried again"
    assert os.listdir(here) == ["mine"]


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_upload_that_is_interrupted_before_an_answer_says_so(run: Run, own_relay: Relays, here: Path) -> None:
    url = own_relay()
    run("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    (here / "mine").write_bytes(b"hello")
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))) as silent:
        silent.settimeout(PATIENCE)
        process = Popen([*COMMAND, "file-put", "mine"], stderr=subprocess.PIPE)
        assert process.stderr is not None
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1), "the request is under way"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
    assert process.stderr.read().startswith(b"clawlink: interrupted before a relay answered; begin again\n")
    process.stderr.close()


def test_json_tells_what_was_written(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("key")
    saved = call("file-put", key, "--file", "-", "--json", stdin=LARGE).ok().json
    assert saved["sha256"] == hashlib.sha256(LARGE).hexdigest()
    got = call("file-get", key, "--json", "--output", "x").ok().json
    assert (got["output"], got["size"], got["sha256"]) == ("x", len(LARGE), saved["sha256"])


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(here: Path) -> Path:
    folder = here / "site"
    (folder / "img").mkdir(parents=True)
    (folder / "index.html").write_bytes(b"<h1>hi</h1>")
    (folder / "img" / "large.bin").write_bytes(LARGE)
    return folder


def test_a_folder_goes_as_a_tar_and_is_extracted_into_a_new_folder(
    run: Run, call: Run, me: str, peer: Client, fresh: Fresh, site: Path
) -> None:
    key = fresh("site")
    run("file-put", "--key", key, "--file", "./site/").ok()
    assert peer.stat_blob(key).content_type == "application/x-tar"
    done = call("file-get", key, "--output", "copy/").ok()
    assert "Extracted 2 files" in done.out
    assert files(site.parent / "copy") == files(site)
    told = call("file-get", key, "--output", "again/", "--json").ok().json
    assert (told["files"], told["output"]) == (2, "again/")
    assert sorted(os.listdir(site.parent)) == ["again", "copy", "site"]


def test_a_tar_is_only_a_file_where_a_file_was_asked_for(call: Run, me: str, fresh: Fresh, site: Path) -> None:
    key = fresh("site")
    call("file-put", key, "--file", "site").ok()
    call("file-get", key, "--output", "site.tar").ok()
    assert tarfile.is_tarfile(site.parent / "site.tar")


def test_a_tar_is_not_mixed_with_other_files_unless_told(call: Run, me: str, fresh: Fresh, site: Path) -> None:
    key = fresh("site")
    call("file-put", key, "--file", "site").ok()
    mine = site.parent / "mine"
    mine.mkdir()
    (mine / "index.html").write_bytes(b"mine")
    for output in ("mine", "mine/"):
        assert "--extract" in call("file-get", key, "--output", output).failed(2).err
    assert "--force" in call("file-get", key, "--output", "mine", "--extract").failed(1).err
    assert files(mine) == {"index.html": b"mine"}
    call("file-get", key, "--output", "mine", "--extract", "--force").ok()
    assert files(mine) == files(site)
    assert "--extract" in call("file-get", key, "--output", "x", "--force").failed(2).err
    assert "folder" in call("file-get", key, "--output", "-", "--extract").failed(2).err


def test_extracted_without_a_place_it_goes_into_a_folder_named_as_its_key(
    call: Run, me: str, fresh: Fresh, site: Path
) -> None:
    key = fresh("deep/down/page")
    call("file-put", key, "--file", "site").ok()
    call("file-get", key, "--extract").ok()
    assert files(site.parent / key.rpartition("/")[2]) == files(site)


def test_what_is_no_tar_is_not_extracted(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("text")
    call("file-put", key, "--file", "-", stdin=b"no tar").ok()
    assert "no tar" in call("file-get", key, "--extract", "--output", "x").failed(1).err
    assert os.listdir(here) == []


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_what_is_left_out_of_a_folder_is_told(call: Run, me: str, fresh: Fresh, site: Path) -> None:
    (site / "out").symlink_to("/etc/passwd")
    done = call("file-put", fresh("site"), "--file", "site").ok()
    assert "1 entry left out" in done.err
    assert "out" in done.err


# -- what others have chosen -------------------------------------------------------------------------------------------


def test_a_file_put_into_a_folder_is_named_by_the_last_part_of_its_key(
    call: Run, me: str, fresh: Fresh, here: Path
) -> None:
    key = fresh("some/dir/report.pdf")
    call("file-put", key, "--file", "-", stdin=b"x").ok()
    (here / "there").mkdir()
    for output in ("there", "there/", "new/", "new/deeper/"):
        call("file-get", key, "--output", output).ok()
    name = key.rpartition("/")[2]
    assert set(files(here)) == {f"there/{name}", f"new/{name}", f"new/deeper/{name}"}


KEYS = [key for key in NAMES if key and len(key) <= 1000 and key.isprintable()]


def test_no_key_is_written_outside_of_the_folder_that_was_asked_for(
    call: Run, me: str, peer: Client, here: Path
) -> None:
    from clawlink.errors import BadRequest

    taken = 0
    for key in KEYS:
        try:
            peer.put_file(key, "evil")
        except BadRequest:  # the relay does not even take it
            continue
        taken += 1
        call("file-get", f"--key={key}", "--output", "inside/").ok()
    assert taken > 20
    assert [path.name for path in here.iterdir()] == ["inside"]
    assert all(path.is_file() for path in (here / "inside").iterdir())


def test_a_tar_of_somebody_else_that_would_leave_the_folder_is_refused(
    call: Run, me: str, peer: Client, fresh: Fresh, here: Path
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("good", "../evil\x1b[2J"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    key = fresh("evil")
    peer.put_blob(key, made.getvalue(), content_type="application/x-tar")
    refused = call("file-get", key, "--output", "inside/").failed(1).err
    assert "leads out of the folder" in refused
    assert "\x1b" not in refused
    assert os.listdir(here) == []
    assert "leads out" in call("file-get", key, "--output", "x", "--extract", "--json").failed(1).err


@pytest.mark.skipif(os.name != "posix", reason="needs names that not every system takes")
@pytest.mark.parametrize("how", ["file-put", "send"])
def test_a_name_that_nobody_could_extract_is_left_out_and_named(
    call: Run, me: str, fresh: Fresh, site: Path, how: str
) -> None:
    key = fresh("site")
    (site / "\x1b[31mred").write_bytes(b"x")
    with open(os.fsencode(site) + b"/\xff\x01", "wb"):
        pass
    share = ["file-put", key, "--file", "site"] if how == "file-put" else ["send", "--to", me, "--content", "c"]
    done = call(*share, *(["--attach", "site/"] if how == "send" else [])).ok()
    assert "2 entries left out" in done.err
    assert "\u241b[31mred" in done.err
    if how == "file-put":
        call("file-get", key, "--output", "copy/").ok()
        assert set(files(site.parent / "copy")) == {"index.html", "img/large.bin"}
    else:
        assert '"site.tar"' in call("poll").ok().out


def test_a_content_that_is_not_the_one_named_is_not_written(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("named")
    saved = call("file-put", key, "--file", "-", "--json", stdin=b"this").ok().json
    call("file-get", key, "--sha256", saved["sha256"].upper(), "--output", "x").ok()
    for more in (["--output", "y"], ["--output", "-"], ["--output", "z", "--extract"], ["--json"]):
        refused = call("file-get", key, "--sha256", "a" * 64, *more).failed(1)
        assert "not what was asked for" in refused.err
        assert refused.raw == b""
    assert os.listdir(here) == ["x"]
    assert "64 hexadecimal" in call("file-get", key, "--sha256", "abc").failed(2).err


def test_a_failure_of_this_machine_names_the_path_and_what_helps(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    key = fresh("local")
    call("file-put", key, "--file", "-", stdin=b"x").ok()
    for command in (["file-put", key, "--file", "no/where"], ["file-get", key, "--output", "no/where"]):
        told = call(*command).failed(1).err
        assert "(no/where); see whether the path is right" in told
        failure = json.loads(call(*command, "--json").failed(1).err)
        assert failure["code"] == "local_failure"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit for the size of a file")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_only_one_may_read_and_could_not_be_written_can_be_got_again(
    run: Run, call: Run, me: str, fresh: Fresh, site: Path, what: str
) -> None:
    key = fresh("once")
    sent = site if what == "folder" else site / "img" / "large.bin"
    run("file-put", key, "--file", str(sent), "--burn").ok()
    output = "copy/" if what == "folder" else "copy"
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000));"
        "from clawlink.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "file-get", key, "--output", output], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "get it again within 60 s as the same agent" in done.stderr
    assert ".part" not in done.stderr
    assert sorted(os.listdir(site.parent)) == ["site"]
    call("file-get", key, "--output", output).ok()
    if what == "folder":
        assert files(site.parent / "copy") == files(site)
    else:
        assert (site.parent / "copy").read_bytes() == LARGE
    call("file-get", key).failed(5)


def blocked(process: subprocess.Popen[bytes]) -> bool:
    """Return True if the process has taken no time for a while: it waits for more of its input.

    Python notices a signal that comes right before it blocks only when it is woken.
    """

    def taken() -> str:
        command = ["ps", "-o", "time=,stat=", "-p", str(process.pid)]
        if not Path("/proc/self/stat").exists():
            return subprocess.check_output(command, text=True)
        return " ".join(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13])

    before = taken()
    time.sleep(0.3)
    return taken() == before


def under_way(relay: str) -> int:
    with Client(relay) as client:
        return client.info().uploads_under_way


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_ends_an_upload_leaves_no_parts_and_says_how_to_go_on(
    run: Run, me: str, relay: str, fresh: Fresh, here: Path, number: int, code: int
) -> None:
    process = Popen(
        [*COMMAND, "file-put", fresh("ended"), "--file", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(LARGE)
    process.stdin.flush()
    wait_until(lambda: under_way(relay) == 1 and blocked(process))
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    told = process.stderr.read().decode()
    assert "begin again, with --idempotency-key" in told
    assert "Traceback" not in told
    process.stdin.close()
    process.stderr.close()
    assert under_way(relay) == 0


@pytest.mark.skipif(os.name != "posix", reason="needs files that are none")
def test_what_has_no_end_is_refused_at_once(run: Run, me: str, fresh: Fresh, here: Path) -> None:
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    for path, why in (("/dev/zero", "is a device"), ("pipe", "is a pipe"), ("loop", "symbolic link")):
        assert why in run("file-put", fresh("endless"), "--file", path).failed(1).err, path
        run("send", "--to", me, "--content", "c", "--attach", path).failed(1)


def test_a_loop_of_folders_goes_as_the_links_that_it_is(call: Run, me: str, fresh: Fresh, here: Path) -> None:
    os.makedirs("folder/deep/deeper")
    Path("folder/deep/file").write_text("x")
    links = {
        "deep/up": "..",
        "deep/deeper/top": "../..",
        "self": "self",
        "one": "two",
        "two": "one",
        "deep/here": ".",
    }
    for name, target in links.items():
        os.symlink(target, f"folder/{name}")
    os.symlink("../..", "folder/deep/out")
    key = fresh("round")
    put = call("file-put", key, "--file", "folder").ok()
    assert "deep/out" in put.err
    call("file-get", key, "--output", "copy/").ok()
    found = sorted(path.relative_to("copy").as_posix() for path in Path("copy").rglob("*"))
    assert found == sorted([*links, "deep", "deep/deeper", "deep/file"])
    assert {name: os.readlink(f"copy/{name}") for name in links} == links


@pytest.mark.parametrize("kept", [False, True])
def test_an_upload_goes_on_by_itself_after_a_real_restart(
    call: Run, own_relay: Relays, here: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    flags = ("--data", str(here / "data")) if kept else ()
    url = own_relay(*flags)
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    call("register", "--name", "me").ok()
    offsets: list[int] = []

    def moved(done: int, total: int | None) -> None:
        offsets.append(done)
        if 0 < done < len(LARGE) and len(offsets) == 2:
            own_relay.stop(url)
            own_relay.restart(url, *flags)

    monkeypatch.setattr("clawlink.cli.files.bar", lambda ctx, key: contextlib.nullcontext(moved))
    Path("large").write_bytes(LARGE)
    done = call("file-put", "key", "--file", "large", "--json").ok()
    assert (done.json["version"], done.json["sha256"]) == (1, hashlib.sha256(LARGE).hexdigest())
    assert 0 < offsets[1] < len(LARGE)
    # With a folder the relay has the parts and the agent. Without one it has neither: both begin again.
    assert (0 in offsets[2:]) is not kept, offsets
    assert ("registered" in done.err) is not kept, done.err
    assert call("file-get", "key").ok().raw == LARGE
    assert call("info", "--json").ok().json["uploads_under_way"] == 0


def test_what_is_too_large_is_refused_before_it_is_read(
    call: Run, me: str, fresh: Fresh, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    with open("large", "wb") as file:
        file.truncate(65 * 1024 * 1024)
    monkeypatch.setattr("clawlink.client.files.atomic_files.Source.measure", fail)
    told = call("file-put", fresh("large"), "--file", "large").failed(8).err
    assert "may have 67108864 bytes" in told
    assert "--max-file-bytes" in told
