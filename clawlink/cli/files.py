"""The parts that the verbs about files share: key, bar, the words for a version, and attachments."""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from clawlink.cli.arguments import add_slot
from clawlink.cli.shared import tell_away

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.sync import Client
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.file_replies import FileLock

Progress = Callable[[int, int | None], object]

# A smaller transfer is over before a bar would be seen.
_WORTH_A_BAR_BYTES = 1024 * 1024
# From here on there is room for a long bar.
_WIDE = 100
_MOST_NAMED = 5
# Room for a counter in a name that others have made as long as a name may be.
_MOST_STEM_BYTES = 150


def add_file_key(parser: ArgumentParser) -> None:
    """Add the key of a file."""
    add_slot(parser, "KEY", "--key", kind="keys", help="the file's key; may contain /")


def reader(ctx: Context) -> Client:
    """Return a client that reads as the identity, if only one fits.

    The identity is then the reader of a file for one reader, and sees the files for it.
    """
    from clawlink.client.identity import IdentityUnreadable, NoIdentity, SeveralIdentities

    try:
        return ctx.client
    except (NoIdentity, SeveralIdentities, IdentityUnreadable):
        return ctx.visitor


@contextlib.contextmanager
def bar(ctx: Context, what: str) -> Iterator[Progress | None]:
    """Show progress, speed and remaining time of a transfer, on a terminal only."""
    if not ctx.err.terminal or ctx.json:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    from clawlink.cli.render import quoted, size

    class Speed(ProgressColumn):
        """How fast it goes, in the units of how far it is: rich's own column has others."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("? /s" if speed is None else f"{size(round(speed))}/s", style="progress.data.speed")

    console = ctx.err.console()
    wide = console.width >= _WIDE
    # Bar and figures have their width on any terminal. The name gets the rest, and is cut where that is not enough.
    bars = Bars(
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(30 if wide else 10),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(compact=not wide),
        console=console,
        expand=True,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task: Any = None

    def moved(done: int, total: int | None) -> None:
        nonlocal task
        if task is None and (total is None or total > _WORTH_A_BAR_BYTES):
            task = bars.add_task(quoted(what, 40), total=total)
            bars.start()
        if task is not None:
            bars.update(task, completed=done, total=total)

    try:
        yield moved
    finally:
        if task is not None:
            bars.stop()


def tell_broken_off(ctx: Context, error: ClawLinkError | None) -> None:
    """Say that a transfer stands still, and why; None: that it goes on.

    Raises the error if nothing has answered yet, and nothing listens: then the address may be wrong.
    """
    from clawlink.client.files.transfer import PATIENCE_SECONDS
    from clawlink.errors import RelayUnreachable

    if isinstance(error, RelayUnreachable) and error.unsent and not ctx.answered:
        raise error
    tell_away(ctx, error, back="it goes on", meanwhile=f"trying to go on for up to {PATIENCE_SECONDS:.0f} s")


def source(path: str) -> Any:
    """Return the source for a path: the path itself, or a folder as a tar, which knows its left-out members."""
    if not os.path.isdir(path):
        return path
    from clawlink.client.files.folders import Packed

    return Packed(path)


def tell_left_out(ctx: Context, sent: Any) -> None:
    """Name the members of a folder that were not sent."""
    from clawlink.cli.render import plural

    skipped: list[str] = getattr(sent, "skipped", [])
    if skipped:
        ctx.warn(
            f"{plural(len(skipped), 'entry', 'entries')} left out, being no file, a link out of the folder, or of a "
            f"name that does not travel: {_some(skipped)}"
        )


def tell_not_extracted(ctx: Context, names: Sequence[str]) -> None:
    """Name the members of a tar that were not extracted."""
    from clawlink.cli.render import plural

    if names:
        ctx.warn(
            f"{plural(len(names), 'entry', 'entries')} not extracted, of a repository (.git, .hg, .svn), whose hooks "
            f"and settings are programs: {_some(names)}; get the tar as a file to have them"
        )


def _some(names: Sequence[str]) -> str:
    # A name that is not UTF-8 cannot be shown unchanged.
    named = [os.fsencode(name).decode(errors="replace") for name in names[:_MOST_NAMED]]
    more = len(names) - len(named)
    return f"{', '.join(named)}{f' and {more} more' if more else ''}"


def lock_line(ctx: Context, lock: FileLock) -> str:
    """Return the holder, the remaining time and the note of a lock as a text."""
    from clawlink.cli.render import duration, epoch, quoted

    until = epoch(lock.until)
    left = "" if until is None else f" for {duration(until - ctx.now)}"
    return f"locked by {ctx.agents.named(lock.holder)}{left}" + (f": {quoted(lock.note, 80)}" if lock.note else "")


def ends_line(expires_at: str | None, burn: bool, now: float) -> str | None:
    """Say when a file is gone by itself."""
    from clawlink.cli.render import duration, epoch

    ends = epoch(expires_at or "")
    said = ["gone once it is read"] if burn else []
    said += [] if ends is None else [f"expires in {duration(ends - now)}" if ends > now else "expired"]
    return ", ".join(said) or None


def readers_line(ctx: Context, owner: str | None, readers: Sequence[str] | None, tasks: int = 0) -> str | None:
    """Name the agents that may read a file; None if everyone may."""
    from clawlink.cli.render import plural

    if readers is None:
        return None
    named = [ctx.agents.named(one) for one in readers]
    shown = [*named[:_MOST_NAMED], *([f"{len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else [])]
    by = None if owner is None else ctx.agents.named(owner)
    if tasks:
        shown.append(f"the agent with {'its task' if tasks == 1 else plural(tasks, 'task')}")
    if not shown:
        return f"for {by or 'its owner'} alone"
    return f"for {', '.join(shown)}{f', owned by {by}' if by else ''}"


# -- attachments -------------------------------------------------------------------------------------------------------


def add_attach(parser: ArgumentParser) -> None:
    """Add --attach."""
    parser.add_argument(
        "--attach",
        action="append",
        metavar="FILE",
        help="attach this file or folder; only the agents of the message can read it; repeat the flag for more",
    )


def attached(args: Namespace, ctx: Context) -> list[Any] | None:
    """Share the files for a message, and return its attachments."""
    if not args.attach:
        return None
    from clawlink.cli.exits import LocalFailure

    for path in args.attach:
        if not os.path.exists(path):
            raise LocalFailure(f"there is no file {path} to attach; nothing was sent")
    found = []
    for path in args.attach:
        what = source(path)
        name = None if what is path else f"{os.path.basename(os.path.abspath(path))}.tar"
        with bar(ctx, os.path.basename(path)) as moved:
            found.append(
                ctx.client.attach(what, name, on_progress=moved, on_away=lambda error: tell_broken_off(ctx, error))
            )
        tell_left_out(ctx, what)
    return found


def show_attachments(ctx: Context, attachments: Iterable[Any], *, indent: int = 2) -> None:
    """Print a message's attachments, each with the command that gets exactly its content."""
    from clawlink.cli.render import quoted, size

    for one in attachments:
        ctx.out.line(f"{'':{indent}}attached: {quoted(one.name, 80)}, {size(one.size)}")
        fault = _fault(one)
        if fault is not None:
            ctx.out.facts(("cannot be got", fault), indent=indent + 2)
            continue
        place = _free(one.name, ctx.places)
        get = ctx.command(
            "file-get", key=one.file_key, version=str(one.version), sha256=one.sha256.lower(), output=place
        )
        ctx.out.facts(("get it", get), indent=indent + 2)


def _fault(attachment: Any) -> str | None:
    """Return the reason why no command can get an attachment; None if one can. The sender may write any text there."""
    from argparse import ArgumentTypeError

    from clawlink.cli.values import sha256
    from clawlink.client.files.file_facts import require_key
    from clawlink.domain.terminal import cell
    from clawlink.errors import BadRequest

    key = attachment.file_key
    try:
        require_key(key)
        sha256(attachment.sha256)
    except BadRequest as error:
        return f"no file has the key {cell(key)[:80]!r}: {cell(error.message)}"
    except ArgumentTypeError:
        return "the sender's SHA-256 is not valid"
    if cell(key) != key:
        return "its key has characters that cannot be shown; --json shows it"
    return None


def _free(name: str, taken: set[str]) -> str:
    """Return a free name in this folder for a foreign name, so that no file is overwritten.

    Some systems take two names that differ in case alone for the same.
    """
    from clawlink.client.files.safe_paths import safe_name

    place = first = safe_name(name, "attachment")
    number = 1
    while place.casefold() in taken or os.path.lexists(place):
        number += 1
        stem, suffix = os.path.splitext(first)
        stem = stem.encode()[:_MOST_STEM_BYTES].decode(errors="ignore")
        place = safe_name(f"{stem}-{number}{suffix}", "attachment")
    taken.add(place.casefold())
    return place
