"""``clawlink file edit``: change a shared file in an editor, while others may change it too."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.file.editor import Editing
    from clawlink.client.files.file_facts import Blob
    from clawlink.client.sync import Client
    from clawlink.protocol.file_replies import FileSaved

_MOST_BYTES = 16 * 1024 * 1024
# Others may write again while their last change is merged. The command gives up after this many times.
_MOST_MERGES = 20


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument("--force", action="store_true", help="write although another agent holds the lock")


def run(args: Namespace, ctx: Context) -> Exit:
    """Open the file in $VISUAL or $EDITOR, and write the changes back as the version after the one that was read.

    If another agent has written it since, the command merges both changes by lines. It opens the editor again for lines
    that both have changed. It overwrites no change of others, and keeps the edited text if it cannot write it.
    """
    from clawlink.cli.file.editor import Editing
    from clawlink.client.files.safe_paths import safe_name
    from clawlink.domain.terminal import cell
    from clawlink.errors import ClawLinkError

    key = args.key
    client = ctx.client
    if not args.force:
        _require_unlocked(ctx, client, key)
    read = _read(client, key)
    editing = Editing(safe_name(key), b"" if read is None else read.content, ctx.environ)
    session = _Session(args, ctx, client, key, editing)
    try:
        done = session.edit(read)
    except (ClawLinkError, OSError, KeyboardInterrupt):
        if _is_ours(read, editing):
            path = str(editing.path)
            write = ctx.command("file-put", key=key, file=path, if_version=str(session.fits))
            ctx.warn(f"your text is kept in {path}; once it is right: {write}")
        else:
            editing.drop()
        raise
    editing.drop()
    if ctx.json:
        ctx.out.json({"status": "unchanged", "file_key": key} if done is None else done)
    elif done is None and read is None:
        ctx.out.line(f"Nothing was written: the relay has no file {cell(key)} yet.")
        ctx.out.line(f"  share one of yours: {ctx.command('file-put', key=key, file='FILE')}")
    elif done is None:
        ctx.out.line(f"Nothing was changed in {cell(key)}.")
    else:
        _show(ctx, done)
    return Exit.DONE


def _require_unlocked(ctx: Context, client: Client, key: str) -> None:
    """Raise FileLocked before the person edits a file whose write would be refused."""
    from clawlink.cli.files import lock_line
    from clawlink.errors import FileLocked, UnknownFile

    try:
        lock = client.file_history(key).lock
    except UnknownFile:
        return
    if lock is not None and lock.holder != client.agent_id:
        raise FileLocked(
            f"file {key!r} is {lock_line(ctx, lock)}; wait until it ends, ask its holder, or use --force",
            field="force",
            current=lock,
        )


def _read(client: Client, key: str) -> Blob | None:
    """Return the file, or None if there is none. Raises UsageError if it cannot be edited."""
    from clawlink.cli.exits import UsageError
    from clawlink.cli.render import size
    from clawlink.errors import UnknownFile

    try:
        facts = client.stat_blob(key)
        if facts.burn_after_read:
            raise UsageError("the file is gone once it is read, so it cannot be edited; get it with clawlink file get")
        if facts.size > _MOST_BYTES:
            raise UsageError(
                f"the file has {size(facts.size)}, and {size(_MOST_BYTES)} are edited at most; get it with clawlink "
                f"file get, and write it back with clawlink file put --if-version {facts.version}"
            )
        return client.get_blob(key, version=facts.version)
    except UnknownFile:
        return None


def _is_ours(read: Blob | None, editing: Editing) -> bool:
    """Return True if the file under the editor holds anything that would be lost with it."""
    try:
        return editing.content != (b"" if read is None else read.content)
    except OSError:
        return False


def _show(ctx: Context, done: FileSaved) -> None:
    from clawlink.cli.render import size
    from clawlink.domain.terminal import cell

    ctx.out.line(f"Saved {cell(done.file_key)}, version {done.version}, {size(done.size)}.", style="bold")
    if done.version > 1:
        ctx.out.facts(("changes", ctx.command("file-diff", key=done.file_key)))


class _Session:
    """An edit: from the version that was read until a version with the person's changes is written.

    ``fits`` is the version that the text in the editor's file can follow, 0 if that is none.
    """

    def __init__(self, args: Namespace, ctx: Context, client: Client, key: str, editing: Editing) -> None:
        self.fits = 0
        self._ctx = ctx
        self._client = client
        self._key = key
        self._editing = editing
        self._force = args.force

    def edit(self, base: Blob | None) -> FileSaved | None:
        """Have it edited and write it; None if nothing was changed."""
        from clawlink.errors import VersionConflict

        self.fits = _version(base)
        mine = self._editing.run(quiet=self._ctx.json)
        if mine == _content(base):
            return None
        for _ in range(_MOST_MERGES):
            try:
                return self._write(mine, base)
            except VersionConflict as conflict:
                theirs = self._newest(conflict)
            mine = self._merged(base, mine, theirs)
            if mine == theirs.content:
                return None
            base = theirs
        raise VersionConflict(
            f"{self._key!r} was written by others {_MOST_MERGES} times while this was merged; try again later",
            field="if_version",
        )

    def _write(self, mine: bytes, base: Blob | None) -> FileSaved:
        from clawlink.client.files.file_facts import OCTETS, TEXT, is_text

        if base is None:
            text = is_text(mine)
            kinds, ttl = (TEXT, "text") if text else (OCTETS, "binary"), None
        else:
            facts = base.facts
            kinds = facts.content_type, facts.file_type
            ttl = None if facts.expires_at is None else self._left(facts.expires_at)
        return self._client.put_blob(
            self._key,
            mine,
            content_type=kinds[0],
            file_type=kinds[1],
            if_version=_version(base),
            ttl=ttl,
            force=self._force,
        )

    def _left(self, expires_at: str) -> float:
        """Return how long the file is to be kept still: writing it does not make it last longer."""
        from clawlink.cli.render import epoch

        return max(1.0, (epoch(expires_at) or 0.0) - self._ctx.now)

    def _newest(self, conflict: Exception) -> Blob:
        """Return the version that another agent has written. Raises the conflict if it was a deletion."""
        from clawlink.errors import VersionConflict

        theirs = _read(self._client, self._key)
        if theirs is None:
            self.fits = 0
            raise VersionConflict(
                f"{self._key!r} was deleted by another agent since; nothing was written", field="if_version"
            ) from conflict
        return theirs

    def _merged(self, base: Blob | None, mine: bytes, theirs: Blob) -> bytes:
        """Return both changes together. Raises VersionConflict if that cannot be, and leaves our text in the file."""
        from clawlink.client.files.merge import merge
        from clawlink.errors import VersionConflict

        version = theirs.facts.version
        texts = _texts(_content(base), mine, theirs.content)
        if texts is None:
            raise VersionConflict(
                f"{self._key!r} was written by another agent since, as version {version}, and is not text that "
                "could be merged; nothing was overwritten",
                field="if_version",
                current=version,
            )
        from clawlink.cli.render import plural

        names = ("yours", f"version {version} by {self._ctx.agents.named(theirs.facts.last_editor)}")
        merged = merge(*texts, names=names)
        if not merged.conflicts:
            self._ctx.warn(f"merged with version {version}, which another agent has written since")
            return merged.text.encode()
        self._ctx.warn(
            f"version {version}, which another agent has written since, changes the same lines in "
            f"{plural(merged.conflicts, 'place')}; both are between <<<<<<< and >>>>>>>: leave the right lines there"
        )
        self._ctx.err.flush()
        return self._decided(merged.text, version, names)

    def _decided(self, text: str, version: int, names: tuple[str, str]) -> bytes:
        """Let the person decide about lines that both have changed. Raises VersionConflict if markers are left."""
        from clawlink.client.files.merge import has_markers
        from clawlink.errors import VersionConflict

        self._editing.content = text.encode()
        self.fits = version
        decided = self._editing.run(quiet=self._ctx.json)
        if has_markers(decided.decode(errors="replace"), names) or decided == text.encode():
            raise VersionConflict(
                f"there are still conflict markers in what you edited, so version {version} of {self._key!r} stays "
                "as it is; nothing was overwritten",
                field="if_version",
                current=version,
            )
        return decided


def _version(blob: Blob | None) -> int:
    return 0 if blob is None else blob.facts.version


def _content(blob: Blob | None) -> bytes:
    return b"" if blob is None else blob.content


def _texts(*contents: bytes) -> tuple[str, str, str] | None:
    """Return three contents as text; None if any of them is not text."""
    if any(b"\x00" in content for content in contents):
        return None
    try:
        base, mine, theirs = (content.decode() for content in contents)
    except UnicodeDecodeError:
        return None
    return base, mine, theirs
