"""A folder as a tar and back. A tar comes from another agent: its members land in one folder or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from clawlink import private
from clawlink.client.files.atomic_files import naming, part_of, sweep
from clawlink.client.files.safe_paths import link_within, parts_within
from clawlink.errors import ClawLinkError

TAR = "application/x-tar"
_BLOCK = tarfile.BLOCKSIZE
_END = tarfile.RECORDSIZE
_CHUNK_BYTES = 256 * 1024
_MOST_MEMBERS = 1_000_000
_MOST_DEPTH = 100
_REPOSITORIES = {".git", ".hg", ".svn", "git~1"}  # the last is what Windows may call .git


class UnsafeArchive(ClawLinkError):
    """The tar has a member that would not stay in the folder, or is no tar; nothing of it was written."""

    code = "unsafe_archive"


class Packed:
    """A folder, read as the bytes of a tar, with only one piece in memory.

    Its members are named from the folder down, in order, and have no owner. ``skipped`` are the left-out entries:
    devices, sockets, links that lead out of the folder, and names for which ``unpack`` would refuse the whole tar, with
    all below them.
    """

    content_type = TAR

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.skipped: list[str] = []
        self._folder = os.fspath(folder)
        self._pieces = self._pack()
        self._left = memoryview(b"")
        os.scandir(self._folder).close()  # a missing right to read shows now

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = memoryview(piece)
        taken, self._left = (self._left, memoryview(b"")) if size < 0 else (self._left[:size], self._left[size:])
        return bytes(taken)

    def seekable(self) -> bool:
        """Tell that it can be read once only."""
        return False

    def close(self) -> None:
        """Stop reading."""
        self._pieces.close()

    def _pack(self) -> Any:
        written = 0
        for name in _entries(self._folder, "", self.skipped):
            for piece in self._member(name):
                written += len(piece)
                yield piece
        yield bytes(2 * _BLOCK + -(written + 2 * _BLOCK) % _END)

    def _member(self, name: str) -> Iterator[bytes]:
        path = os.path.join(self._folder, *name.split("/"))
        found = os.lstat(path)
        member = tarfile.TarInfo(name)
        member.mtime = max(0, int(found.st_mtime))
        member.mode = stat.S_IMODE(found.st_mode) & 0o755
        if stat.S_ISDIR(found.st_mode):
            member.type = tarfile.DIRTYPE
            yield _head(member)
        elif stat.S_ISLNK(found.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
            try:
                link_within(tuple(name.split("/")), member.linkname)
            except ValueError:
                self.skipped.append(name)
            else:
                yield _head(member)
        elif stat.S_ISREG(found.st_mode):
            yield from self._content(path, member)
        else:
            self.skipped.append(name)

    def _content(self, path: str, member: tarfile.TarInfo) -> Iterator[bytes]:
        with open(path, "rb") as file:
            member.size = left = os.fstat(file.fileno()).st_size
            yield _head(member)
            while left:
                piece = file.read(min(left, _CHUNK_BYTES))
                if not piece:
                    raise ClawLinkError(f"{path} became shorter while it was read; try again once nobody writes it")
                left -= len(piece)
                yield piece
        yield bytes(-member.size % _BLOCK)


def _head(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _entries(folder: str, before: str, skipped: list[str]) -> Iterator[str]:
    """Yield all entries below a folder, a folder before its members; links are not followed.

    An entry whose name ``unpack`` would refuse is ``skipped``.
    """
    with os.scandir(os.path.join(folder, before)) as found:
        entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    for name, is_folder in entries:
        path = f"{before}/{name}" if before else name
        try:
            _require_depth(parts_within(path))
        except ValueError:
            skipped.append(path)
            continue
        yield path
        if is_folder:
            yield from _entries(folder, path, skipped)


def _require_depth(parts: tuple[str, ...]) -> None:
    if len(parts) > _MOST_DEPTH:
        raise ValueError(f"is more than {_MOST_DEPTH} folders deep")


class Unpacked(NamedTuple):
    """The result of unpacking a tar: the number of files in the folder now, and their bytes."""

    files: int
    size: int


def unpack(
    archive: IO[bytes], folder: str | os.PathLike[str], *, replace: bool = False, skipped: list[str] | None = None
) -> Unpacked:
    """Write the members of a tar into a folder, which is made if there is none.

    All members are checked before anything is written, and all are written beside the folder before any is put into it.
    Raises UnsafeArchive if a member would leave the folder, or is neither file, folder nor link; and FileExistsError,
    unless told to ``replace``, if a file is there already. Members of a repository (``.git``, ``.hg``, ``.svn``) are
    left out, and their names are added to ``skipped``.
    """
    left_out = [] if skipped is None else skipped
    target = os.path.realpath(folder)
    if os.path.exists(target) and not os.path.isdir(target):
        raise FileExistsError(17, "that is no folder; name one to extract into", os.fspath(folder))
    sweep(*os.path.split(target))
    staged = part_of(target)
    try:
        # Only uncompressed, so that a small tar cannot become a large one.
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            members, of_repositories = _checked(tar, staged)
            with naming(os.fspath(folder)):
                os.mkdir(staged, 0o777)
                done = _write(tar, members, staged)
            left_out.extend(of_repositories)
        _publish(staged, target, members, replace)
    except tarfile.TarError as error:
        raise UnsafeArchive(f"this is no tar that can be read: {error}; get it as a file without --extract") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return done


class Unpacking:
    """A ``Sink`` for a tar: it holds the tar until it is whole, and then puts it into a folder as ``unpack`` does.

    ``unpacked`` is the result, and ``skipped`` the members that were left out.
    """

    def __init__(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        self.unpacked = Unpacked(0, 0)
        self.skipped: list[str] = []
        self._folder = folder
        self._replace = replace
        self._held: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - drop closes it

    def write(self, data: bytes) -> None:
        """Hold the next bytes."""
        with naming(tempfile.gettempdir()):
            self._held.write(data)

    def restart(self) -> bool:
        """Begin again."""
        self._held.seek(0)
        self._held.truncate()
        return True

    def keep(self) -> None:
        """Put all of it into the folder."""
        with naming(tempfile.gettempdir()):
            self._held.seek(0)
        self.unpacked = unpack(self._held, self._folder, replace=self._replace, skipped=self.skipped)

    def drop(self) -> None:
        """Hold nothing any more."""
        with contextlib.suppress(OSError):
            self._held.close()


_Members = list[tuple[tuple[str, ...], tarfile.TarInfo]]


def _checked(tar: tarfile.TarFile, staged: str) -> tuple[_Members, list[str]]:
    """Return the members with where they belong, and the names of those that are skipped.

    Raises UnsafeArchive before anything is written.
    """
    members: _Members = []
    links: set[tuple[str, ...]] = set()
    skipped: list[str] = []
    archive: Any = tar.fileobj
    here = archive.tell()
    size = archive.seek(0, os.SEEK_END)
    archive.seek(here)
    for member in _heads(tar):
        shown = ascii(member.name)[1:-1][:200]
        try:
            if member.size > size:  # tarfile fails at the next one
                raise ValueError(f"says to have {member.size} bytes, and the archive has {size}")
            parts = parts_within(member.name)
            if _is_of_repository(parts):
                skipped.append(member.name)
                continue
            _check(tar, member, parts, staged)
        except (ValueError, OverflowError) as error:
            raise UnsafeArchive(f"the archive's member {shown} {error}; nothing was extracted") from None
        if len(members) + len(skipped) >= _MOST_MEMBERS:
            raise UnsafeArchive(f"the archive has more than {_MOST_MEMBERS} members; nothing was extracted")
        if parts:
            members.append((parts, member))
            if member.issym():
                links.add(parts)
    archive.seek(tar.offset)
    if archive.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes a broken head for the end
        raise UnsafeArchive("the archive is not whole: it has no end; nothing was extracted")
    for parts, member in members:
        if any(parts[:depth] in links for depth in range(1, len(parts))):
            raise UnsafeArchive(
                f"the archive's member {ascii(member.name)[1:-1][:200]} is inside of a link; nothing was extracted"
            )
    return members, skipped


def _heads(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Give the members. Raises UnsafeArchive where one has a head that tarfile fails at."""
    last = None
    while True:
        try:
            member = tar.next()
        except tarfile.TarError:
            raise
        except Exception as error:  # as a size or a time of 10^20, a number that is none, a seek beyond all ends
            after = "the first member" if last is None else f"the member after {ascii(last)[1:-1][:200]}"
            raise UnsafeArchive(
                f"{after} of the archive has a head that makes no sense ({type(error).__name__}: {str(error)[:100]}); "
                "nothing was extracted"
            ) from None
        if member is None:
            return
        last = member.name
        yield member


def _is_of_repository(parts: tuple[str, ...]) -> bool:
    """Return True if a version control system would run or believe the member: foreign hooks and settings."""
    return any(_name_of(part) in _REPOSITORIES for part in parts)


def _name_of(part: str) -> str:
    """Return a name as the most forgiving file system takes it: ``.GIT``, ``.git `` and ``.git:x`` are ``.git``."""
    seen = "".join(sign for sign in part if unicodedata.category(sign) != "Cf")
    return seen.partition(":")[0].rstrip(" .").casefold()


def _check(tar: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...], staged: str) -> None:
    """Raise ValueError that says why a member is not taken."""
    _require_depth(parts)
    if member.issym():
        if not parts:
            raise ValueError("is a link in place of the folder")
        link_within(parts, member.linkname)
    elif member.issparse():
        raise ValueError("is sparse: it says to be larger than what is there of it")
    elif member.size < 0:
        raise ValueError("has a size below 0")
    elif not (member.isreg() or member.isdir()):
        raise ValueError("is neither a file, a folder nor a symbolic link")
    elif member.isreg() and not parts:
        raise ValueError("has no name")
    # A second opinion. Python 3.10.0 to 3.10.11 and 3.11.0 to 3.11.3 have none: the checks above stand alone there.
    judge = getattr(tarfile, "data_filter", None)
    if judge is not None:
        try:
            judge(member, staged)
        except tarfile.TarError as error:
            raise ValueError(f"is refused: {error}") from None


def _write(tar: tarfile.TarFile, members: _Members, staged: str) -> Unpacked:
    """Write the members into a folder of our own. Links come last, so that nothing is written through one."""
    files = size = 0
    for parts, member in sorted(members, key=lambda one: one[1].issym()):
        path = os.path.join(staged, *parts)
        try:
            if member.isdir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if member.issym():
                os.symlink(member.linkname, path)
            else:
                size += _copy(tar, member, path)
        except FileExistsError:
            raise UnsafeArchive(
                f"the archive has {ascii(member.name)[1:-1][:200]} twice, or as a file and a folder, "
                "or this system takes two of its names for one; nothing was extracted"
            ) from None
        files += 1
    root = os.path.realpath(staged) + os.sep
    for parts, member in members:
        # Each step of each link was looked at; this is where they lead together.
        if member.issym() and not (os.path.realpath(os.path.join(staged, *parts)) + os.sep).startswith(root):
            raise UnsafeArchive(
                f"the archive's link {ascii(member.name)[1:-1][:200]} leads out of the folder; nothing was extracted"
            )
    return Unpacked(files, size)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    source = tar.extractfile(member) or io.BytesIO()
    with source, open(path, "xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)
        written = file.tell()
    if written != member.size:
        raise UnsafeArchive(f"the archive ends within {ascii(member.name)[1:-1][:200]}; nothing was extracted")
    with contextlib.suppress(OSError, OverflowError, ValueError):  # a time that no file can have
        if member.mode & 0o100:
            mode = os.stat(path).st_mode
            os.chmod(path, mode | (mode & 0o444) >> 2)  # a reader of the file may run it
        os.utime(path, (member.mtime, member.mtime))
    return written


def _publish(staged: str, target: str, members: _Members, replace: bool) -> None:
    """Move the written files to their place: the folder as a whole, or member by member into an existing folder."""
    try:
        os.rmdir(target)  # an empty one has nothing to lose
    except FileNotFoundError:
        pass
    except OSError:
        _require_room(target, members, replace)
        for parts, member in members:
            place = os.path.join(target, *parts)
            if member.isdir():
                os.makedirs(place, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with naming(place):
                    private.replace(os.path.join(staged, *parts), place)
        return
    with naming(target):
        private.replace(staged, target)


def _require_room(target: str, members: _Members, replace: bool) -> None:
    """Refuse to overwrite existing files, unless told to. Always refuse to write through an existing link."""
    for parts, member in members:
        for depth in range(1, len(parts) + member.isdir()):
            way = os.path.join(target, *parts[:depth])
            if os.path.islink(way) or (os.path.lexists(way) and not os.path.isdir(way)):
                raise FileExistsError(17, "this is in the way, and no folder", way)
        path = os.path.join(target, *parts)
        taken = not member.isdir() and os.path.lexists(path)
        if taken and (not replace or (os.path.isdir(path) and not os.path.islink(path))):
            raise FileExistsError(17, "this is there already; extract into a new folder, or add --force", path)
