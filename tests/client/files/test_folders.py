"""A folder goes into a tar and comes out as it was; of a tar that somebody else has made, nothing lands elsewhere."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink.client.files.folders import Packed, UnsafeArchive, unpack
from clawlink.errors import ClawLinkError
from tests.client.attacks import NAMES
from tests.tables import each

Facts = dict[str, object]
Member = tuple[str, Facts]


def read_all(packed: Packed, size: int = 1000) -> bytes:
    return b"".join(iter(lambda: packed.read(size), b""))


def listed(folder: Path) -> dict[str, bytes | str | None]:
    """The contents of a folder: files with their content, links with their targets, folders with None."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with what a folder may have."""
    folder = tmp_path / "site"
    (folder / "img" / "empty").mkdir(parents=True)
    (folder / "index.html").write_bytes(b"<h1>hi</h1>\n")
    (folder / "img" / "a.png").write_bytes(bytes(range(256)) * 5)
    (folder / "img" / "nothing").write_bytes(b"")
    (folder / ("long" * 40)).write_bytes(b"long")
    (folder / "\u2603 \u00fc.txt").write_bytes(b"snow")
    return folder


@pytest.mark.parametrize("size", [1, 511, 1 << 20, -1])
def test_a_folder_comes_back_as_it_was(site: Path, tmp_path: Path, size: int) -> None:
    tar = read_all(Packed(site), size)
    assert len(tar) % tarfile.RECORDSIZE == 0
    done = unpack(io.BytesIO(tar), tmp_path / "copy")
    assert listed(tmp_path / "copy") == listed(site)
    assert done.files == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "site"]


def test_the_same_folder_is_the_same_tar_wherever_it_is(site: Path) -> None:
    assert read_all(Packed(site)) == read_all(Packed(str(site) + os.sep), 7)


@pytest.mark.skipif(os.name != "posix", reason="needs links, modes and pipes")
def test_links_inside_and_modes_are_kept_and_what_leads_out_is_left_out(site: Path, tmp_path: Path) -> None:
    (site / "img" / "up").symlink_to("../index.html")
    (site / "run").write_bytes(b"#!/bin/sh\n")
    (site / "run").chmod(0o6755)
    (site / "out").symlink_to("/etc/passwd")
    (site / "beside").symlink_to("../other")
    os.mkfifo(site / "pipe")
    packed = Packed(site)
    unpack(io.BytesIO(read_all(packed)), tmp_path / "copy")
    assert packed.skipped == ["beside", "out", "pipe"]
    assert os.readlink(tmp_path / "copy" / "img" / "up") == "../index.html"
    assert (tmp_path / "copy" / "run").stat().st_mode & 0o7777 in (0o755, 0o700)
    assert not (tmp_path / "copy" / "index.html").stat().st_mode & 0o111


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(site: Path) -> None:
    (site / "z").write_bytes(b"x" * 1_000_000)
    packed = Packed(site)
    head = b""
    while b"\0z" not in head and not head.endswith(b"x"):
        head += packed.read(512)
    (site / "z").write_bytes(b"short")
    with pytest.raises(ClawLinkError, match="became shorter"):
        read_all(packed)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Packed(tmp_path / "nowhere")


# -- what somebody else has made ---------------------------------------------------------------------------------------


def tar_of(*members: Member, format: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    """Make a tar; a member is its name and what it is, with its content as ``data``."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as tar:
        for name, facts in members:
            data = facts.get("data", b"content")
            assert isinstance(data, bytes)
            member = tarfile.TarInfo(name)
            for fact, value in facts.items():
                if fact != "data":
                    setattr(member, fact, value)
            if member.isreg():
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    made.seek(0)
    return made


@pytest.fixture(params=["with Python's filter", "without"])
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where a tar is extracted into; nothing may ever be beside it but what was there before."""
    if request.param == "without":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    outside = tmp_path / "world"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc" / "passwd").write_text("root")
    yield outside / "inside"
    require_nothing_beside(outside / "inside")


def require_nothing_beside(inside: Path) -> None:
    """Fail if there is more around the folder than there was before."""
    outside = inside.parent
    assert listed(outside / "etc") == {"passwd": b"root"}
    assert {path.name for path in outside.iterdir()} <= {"etc", "inside"}
    assert [path.name for path in outside.parent.iterdir() if path.name != "home"] == ["world"]


SYMLINK: Facts = {"type": tarfile.SYMTYPE}
HARDLINK: Facts = {"type": tarfile.LNKTYPE}
DEVICE: Facts = {"type": tarfile.CHRTYPE}
FIFO: Facts = {"type": tarfile.FIFOTYPE}
DIR: Facts = {"type": tarfile.DIRTYPE}
SETS: dict[str, tuple[Member, ...]] = {
    "link to an absolute path": (("l", {**SYMLINK, "linkname": "/etc/passwd"}),),
    "link out": (("l", {**SYMLINK, "linkname": "../etc/passwd"}),),
    "link out from below": (("d/l", {**SYMLINK, "linkname": "../../etc"}),),
    "write through a link": (("l", {**SYMLINK, "linkname": "../etc"}), ("l/passwd", {})),
    "write through a link inside": (("d", DIR), ("l", {**SYMLINK, "linkname": "d"}), ("l/x", {})),
    "links that lead out together": (
        ("a", DIR),
        ("a/x", {**SYMLINK, "linkname": ".."}),
        ("b", {**SYMLINK, "linkname": "a/x/.."}),
    ),
    "links that lead out together, the other way round": (
        ("b", {**SYMLINK, "linkname": "a/x/../etc"}),
        ("a/x", {**SYMLINK, "linkname": "../a/.."}),
        ("a/y", {}),
    ),
    "a link in place of the folder": ((".", {**SYMLINK, "linkname": "x"}),),
    "a file over a link": (("l", {**SYMLINK, "linkname": "x"}), ("l", {})),
    "a link over a file": (("l", {}), ("l", {**SYMLINK, "linkname": "x"})),
    "a folder over a link": (("l", {**SYMLINK, "linkname": "x"}), ("l", DIR), ("l/y", {})),
    "hard link out": (("h", {**HARDLINK, "linkname": "../etc/passwd"}),),
    "hard link to an absolute path": (("h", {**HARDLINK, "linkname": "/etc/passwd"}),),
    "hard link inside": (("a", {}), ("h", {**HARDLINK, "linkname": "a"})),
    "device": (("d", {**DEVICE, "devmajor": 1, "devminor": 3}),),
    "pipe": (("p", FIFO),),
    "twice": (("a", {}), ("a", {"data": b"other"})),
    "twice by another way": (("a", {}), ("./a", {})),
    "a file and below it": (("a", {}), ("a/b", {})),
    "a folder and a file": (("a/b", {}), ("a", {})),
    "a good one first": (("good", {}), ("../bad", {})),
    "a file in place of the folder": (("./", {}),),
}


@each("members", SETS.values(), ids=SETS)
def test_a_dangerous_tar_is_refused_whole(members: tuple[Member, ...], inside: Path) -> None:
    with pytest.raises(UnsafeArchive, match="nothing was extracted"):
        unpack(tar_of(*members), inside)
    assert not inside.exists()


@each("name", [name for name in NAMES if "\ud800" not in name], ids=ascii)
@each("kind", [{}, DIR, {**SYMLINK, "linkname": "x"}], ids=["file", "folder", "link"])
def test_no_name_of_a_member_escapes(name: str, kind: Facts, inside: Path) -> None:
    try:
        unpack(tar_of((name, kind)), inside)
    except (UnsafeArchive, OSError):
        assert not inside.exists()
    require_nothing_beside(inside)
    if inside.exists():
        shutil.rmtree(inside)


@each("target", [name for name in NAMES if "\ud800" not in name], ids=ascii)
def test_no_target_of_a_link_escapes(target: str, inside: Path) -> None:
    try:
        unpack(tar_of(("d/link", {**SYMLINK, "linkname": target})), inside)
    except (UnsafeArchive, OSError):
        assert not inside.exists()
        return
    led = os.path.realpath(inside / "d" / "link")
    assert led == str(inside) or led.startswith(str(inside) + os.sep)
    require_nothing_beside(inside)
    shutil.rmtree(inside)


def test_what_the_filter_of_python_refuses_is_refused(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(member: tarfile.TarInfo, folder: str) -> None:
        if member.name == "b":
            raise tarfile.TarError("it knows better")

    monkeypatch.setattr(tarfile, "data_filter", refuse, raising=False)
    with pytest.raises(UnsafeArchive, match="member b is refused: it knows better; nothing was extracted"):
        unpack(tar_of(("a", {}), ("b", {})), inside)
    assert not inside.exists()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_is_read(format: int, inside: Path) -> None:
    unpack(tar_of(("a/b.txt", {}), ("a", DIR), format=format), inside)
    assert listed(inside) == {"a": None, "a/b.txt": b"content"}


BROKEN: dict[str, Callable[[], bytes]] = {
    "no tar": lambda: b"this is no tar at all, however long it is" * 100,
    "cut within a file": lambda: tar_of(("a", {"data": b"x" * 5000})).getvalue()[:2000],
    "cut within a head": lambda: tar_of(("a", {}), ("b", {})).getvalue()[:1200],
    "compressed": lambda: __import__("gzip").compress(tar_of(("a", {})).getvalue()),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_tar_is_told(make: Callable[[], bytes], inside: Path) -> None:
    with pytest.raises(UnsafeArchive):
        unpack(io.BytesIO(make()), inside)
    assert not inside.exists()


def test_a_sparse_file_that_says_to_be_huge_is_refused(inside: Path) -> None:
    head = tarfile.TarInfo("huge")
    head.type = tarfile.GNUTYPE_SPARSE
    made = bytearray(head.tobuf(tarfile.GNU_FORMAT))
    made[386:410] = b"%011o\0%011o\0" % (0, 0)
    made[483:495] = b"%011o\0" % (1 << 32)
    made[148:156] = b"        "
    made[148:156] = b"%06o\0 " % sum(made[:512])
    with pytest.raises(UnsafeArchive):
        unpack(io.BytesIO(bytes(made) + bytes(1024)), inside)


# -- into a folder that is there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", ["size", "mtime", "uid"])
@pytest.mark.parametrize("value", ["100000000000000000000", "1e400", "-1", "99999999999999999999999.5", "nan", "x"])
def test_a_head_that_makes_no_sense_is_refused_by_name_or_does_no_harm(fact: str, value: str, inside: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("first", "odd", "last"):
            member = tarfile.TarInfo(name)
            member.size = 4
            if name == "odd":
                member.pax_headers = {fact: value}
            tar.addfile(member, io.BytesIO(b"text"))
    made.seek(0)
    refused: ClawLinkError | None = None
    try:
        unpack(made, inside)
    except UnsafeArchive as error:
        refused = error
    if refused is None:
        assert (inside / "first").read_text() == "text"
    else:
        assert "nothing was extracted" in refused.message
        assert fact == "size"
        assert not value.isdigit() or f"member odd says to have {value} bytes" in refused.message
        assert not inside.exists()


def test_what_is_of_a_repository_is_skipped_and_named(inside: Path) -> None:
    repository = [".git/hooks/pre-commit", "sub/.GIT/config", ".hg/hgrc", ".svn/x", ".git ./config", "git~1/config"]
    repository += [".gi\u200ct/config", "worktree/.git", ".git::$INDEX_ALLOCATION/config"]
    honest = ["a", ".gitignore", ".github/workflows/x.yml", "git/x"]
    refused = []
    for name in repository:
        try:
            skipped: list[str] = []
            done = unpack(tar_of((name, {})), inside, skipped=skipped)
        except UnsafeArchive:
            refused.append(name)  # a name that is taken nowhere
            continue
        assert (done.files, skipped) == (0, [name]), name
    assert not set(refused) & set(repository[:4])
    skipped = []
    members: list[Member] = [(name, {}) for name in [*repository[:4], *honest]]
    done = unpack(tar_of((".git", DIR), *members), inside, skipped=skipped)
    assert (done.files, skipped) == (len(honest), [".git", *repository[:4]])
    assert sorted(str(path.relative_to(inside)) for path in inside.rglob("*") if path.is_file()) == sorted(honest)


def test_an_empty_folder_is_filled(inside: Path) -> None:
    inside.mkdir()
    unpack(tar_of(("a", {})), inside)
    assert listed(inside) == {"a": b"content"}


def test_files_that_are_there_are_kept_unless_told_otherwise(inside: Path) -> None:
    (inside / "d").mkdir(parents=True)
    (inside / "d" / "mine").write_bytes(b"mine")
    (inside / "other").write_bytes(b"other")
    before = listed(inside)
    tar = tar_of(("new", {}), ("d/mine", {}))
    with pytest.raises(FileExistsError, match="--force"):
        unpack(tar, inside)
    assert listed(inside) == before
    tar.seek(0)
    assert unpack(tar, inside, replace=True).files == 2
    assert listed(inside) == {**before, "new": b"content", "d/mine": b"content"}


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("members", [(("d/x", {}),), (("d", DIR),), (("d/e", DIR),)], ids=["file", "folder", "below"])
def test_nothing_is_written_through_a_link_that_is_there(members: tuple[Member, ...], inside: Path) -> None:
    inside.mkdir()
    (inside / "d").symlink_to("../etc")
    with pytest.raises(FileExistsError, match="in the way"):
        unpack(tar_of(*members), inside, replace=True)


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_that_is_there_is_replaced_and_not_followed(inside: Path) -> None:
    inside.mkdir()
    (inside / "l").symlink_to("../etc/passwd")
    unpack(tar_of(("l", {})), inside, replace=True)
    assert listed(inside) == {"l": b"content"}


def test_a_folder_is_never_replaced_by_a_file_nor_a_file_by_a_folder(inside: Path) -> None:
    (inside / "d").mkdir(parents=True)
    (inside / "f").write_bytes(b"f")
    with pytest.raises(FileExistsError):
        unpack(tar_of(("d", {})), inside, replace=True)
    with pytest.raises(FileExistsError):
        unpack(tar_of(("f/x", {})), inside, replace=True)
    with pytest.raises(FileExistsError):
        unpack(tar_of(("a", {})), inside / "f")


@pytest.mark.skipif(os.name != "posix", reason="needs names that not every system takes")
def test_a_name_that_would_be_refused_is_left_out_with_what_is_below_it(site: Path, tmp_path: Path) -> None:
    names = ["\x1b[31mred", "C:drive", "img/right\u202eleft", "\\\\share"]
    for name in names:
        (site / name).write_bytes(b"x")
    (site / "new\nline").mkdir()
    (site / "new\nline" / "below").write_bytes(b"x")
    before = {
        name: what for name, what in listed(site).items() if name not in names and not name.startswith("new\nline")
    }
    packed = Packed(site)
    unpack(io.BytesIO(read_all(packed)), tmp_path / "copy")
    assert sorted(packed.skipped) == sorted([*names, "new\nline"])
    assert listed(tmp_path / "copy") == before


def test_what_is_too_deep_to_be_extracted_is_left_out(site: Path, tmp_path: Path) -> None:
    deep = site.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x")
    packed = Packed(site)
    unpack(io.BytesIO(read_all(packed)), tmp_path / "copy")
    assert packed.skipped == ["/".join(["d"] * 100 + ["file"])]


def test_a_folder_that_cannot_be_written_is_named_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="space") as refused:
        unpack(tar_of(("a", {})), "copy")
    assert refused.value.filename == "copy"
    assert os.listdir(tmp_path) == ["home"] or os.listdir(tmp_path) == []


def test_what_was_left_behind_by_who_was_killed_is_removed_a_day_later(tmp_path: Path) -> None:
    for name in ("copy.0123456789ab.part", "copy.aaaaaaaaaaaa.part", "copy.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")
    for name in ("copy.0123456789ab.part", "copy.part"):
        os.utime(tmp_path / name, (1, 1))
    unpack(tar_of(("a", {})), tmp_path / "copy")
    found = {path.name for path in tmp_path.iterdir()} - {"home"}
    assert found == {"copy", "copy.aaaaaaaaaaaa.part", "copy.part"}
