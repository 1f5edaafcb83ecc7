"""``clawlink portal chat``, ``say`` and ``reply``: the owner and the agent, live in a terminal or through pipes."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawlink import private
from clawlink.cli.exits import Exit, LocalFailure, UsageError
from clawlink.client.files.safe_paths import safe_name
from clawlink.domain.terminal import cell
from clawlink.doors.portal.cli.output import done, local
from clawlink.doors.portal.client.files import placed
from clawlink.doors.portal.client.portal import Portal
from clawlink.doors.portal.rules.file_parts import MAX_ATTACHMENT_BYTES
from clawlink.doors.portal.rules.texts import as_number
from clawlink.errors import ClawLinkError, NotAllowed, NotFound, RelayUnreachable, TooLarge

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_LAST, _AT_ONCE = 50, 500
_WAIT_SECONDS = 20
_EARLY_SECONDS, _PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 1.0, 1.0, 10.0
_PROMPT = "> "
_PIECE_BYTES = 256 * 1024
_ATTACHED = re.compile(r"\[文件\] ([^\n]*)\n(/static/owner_files/[\w.-]+)")
"""An attachment as Agent P2P writes it into the chat."""
_HISTORY = "/api/chat/owner/history"
_HELP = (
    "Enter sends a line, /file PATH a file. /save LINE [FOLDER] keeps an attachment. /help shows this. "
    "/quit or Ctrl-C ends the chat. A line that begins with / begins with // here."
)


def _say(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    way = "send" if args.action == "say" else "reply"
    if not args.words and not args.attach:
        raise UsageError(f"give it as: clawlink portal {args.action} TEXT, or with --attach FILE")
    texts = [attach(portal, Path(path)) for path in args.attach or ()] + args.words
    for text in texts:
        told = portal.ask("POST", f"/api/chat/owner/{way}", {"content": text})
    return done(ctx, told, f"Stored as line {told['message_id']} of the chat.")


def attach(portal: Portal, path: Path) -> str:
    """Bring a file to the portal, and return the line of the chat that names it. Raises ClawLinkError, OSError."""
    size = path.stat().st_size
    if size > MAX_ATTACHMENT_BYTES:
        raise TooLarge(
            f"an attachment has at most {MAX_ATTACHMENT_BYTES} bytes, and {path} has {size}; send-file takes larger "
            "ones",
            limit=MAX_ATTACHMENT_BYTES,
            actual=size,
        )
    kept = portal.upload("/api/chat/owner/upload", "file", path.name, path.read_bytes())
    name = " ".join(str(kept["filename"]).split())
    return f"[文件] {name}\n{kept['url']}"


def save(portal: Portal, line: str, folder: Path) -> Path:
    """Write the attachment of a line into a folder, and return its path; no file there is overwritten.

    Raises ClawLinkError, OSError.
    """
    number = as_number(line)
    if number is None:
        raise UsageError(f"the number of a line is needed, not {line[:40]!r}; the chat shows it")
    found = portal.ask("GET", _HISTORY, after=max(number - 1, 0), limit=1)["messages"]
    named = _ATTACHED.fullmatch(found[0]["content"]) if found and found[0]["id"] == number else None
    if named is None:
        raise NotFound(f"line {number} of the chat has no attachment")
    private.make_folder(folder, 0o755)
    name = safe_name(named[1])
    part = folder / f".{safe_name(named[2].rpartition('/')[2])}.part"
    try:
        with portal.stream(named[2], 0) as answer, part.open("wb") as file:
            for piece in answer.iter_content(_PIECE_BYTES):
                file.write(piece)
        return placed(part, folder, name)
    finally:
        part.unlink(missing_ok=True)


def _save(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    path = save(portal, args.words[0], Path(args.words[1] if len(args.words) > 1 else "."))
    return done(ctx, {"path": str(path)}, f"Wrote {cell(str(path))}.")


def _chat(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    typing = ctx.may_ask
    patience = _WAIT_SECONDS + 10.0
    with Portal(portal.url, portal.key, ca=portal.ca, timeout=patience, source=portal.source) as ear:
        return _Talk(ctx, portal, ear, typing=typing).run(args.after, 0.0 if args.timeout is None else args.timeout)


class _Talk:
    """A chat under way: this thread reads what is typed or piped, and another one shows what comes.

    ``ear`` is a client of its own for what comes.
    """

    def __init__(self, ctx: Context, portal: Portal, ear: Portal, *, typing: bool) -> None:
        self._ctx = ctx
        self._portal = portal
        self._ear = ear
        self._typing = typing
        self._last = 0
        self._own: set[int] = set()
        """The lines that this terminal shows already, because they were typed here."""
        self._showing = threading.Lock()
        self._over = threading.Event()
        self._failure: ClawLinkError | None = None

    def run(self, after: int | None, patience: float) -> Exit:
        """Show the last lines, or those after a line; then send and show until the input ends.

        From a pipe it goes on for ``patience`` seconds after that.
        """
        way = self._way()
        if after is None:
            self._show(self._portal.ask("GET", _HISTORY, limit=_LAST)["messages"])
        else:
            self._last = after
            while found := self._portal.ask("GET", _HISTORY, after=self._last, limit=_AT_ONCE)["messages"]:
                if not self._show(found):
                    break
        if self._typing:
            self._ctx.err.line(_HELP, "dim")
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        try:
            for text in self._typed() if self._typing else self._piped():
                if self._typing and text.strip() == "/quit":
                    break
                self._say(way, text)
                if self._failure is not None:
                    break
            if not self._typing and self._failure is None:
                self._over.wait(patience)
        except KeyboardInterrupt as interrupt:
            if not self._typing or type(interrupt) is not KeyboardInterrupt:
                raise
            self._ctx.out.line()
        finally:
            self._over.set()
        if self._failure is not None:
            raise self._failure
        return Exit.DONE

    def _way(self) -> str:
        """Return the route for lines from here: an agent key answers, and the owner's writes."""
        try:
            self._portal.ask("GET", "/api/portal/info")
        except NotAllowed:
            return "reply"
        return "send"

    # -- from here ---------------------------------------------------------------------------------------------------

    def _typed(self) -> Iterator[str]:
        with contextlib.suppress(ImportError):  # lines can be edited where the system has it
            import readline  # noqa: F401
        while True:
            try:
                text = input(_PROMPT)
            except EOFError:
                self._ctx.out.line()
                return
            if self._over.is_set():
                return
            if text.strip():
                yield text

    def _piped(self) -> Iterator[str]:
        with contextlib.suppress(OSError):  # nobody can read there: nothing is said
            for line in iter(self._ctx.stdin.readline, b""):
                try:
                    text = line.decode("utf-8-sig").strip()
                except UnicodeDecodeError:
                    raise UsageError("standard input is not UTF-8 text") from None
                if text:
                    yield text

    def _say(self, way: str, text: str) -> None:
        """Send a line. What a person typed may be a command; what comes from a pipe never is."""
        if not self._typing:
            self._portal.ask("POST", f"/api/chat/owner/{way}", {"content": text})
            return
        try:
            line = self._line_of(text)
            if line is None:
                return
            with self._showing:
                told = self._portal.ask("POST", f"/api/chat/owner/{way}", {"content": line})
                self._own.add(told["message_id"])
            self._ctx.err.line(f"line {told['message_id']}", "dim")  # /save takes the number
        except (ClawLinkError, OSError) as error:
            self._ctx.err.line(f"clawlink: {cell(_words(error))}")

    def _line_of(self, typed: str) -> str | None:
        """Do what a typed command says. Return the line of the chat that is to be sent; None for none."""
        word, _, rest = typed.strip().partition(" ")
        rest = rest.strip()
        if not word.startswith("/"):
            return typed
        if word.startswith("//"):
            return typed.strip()[1:]
        if word == "/file" and rest:
            return attach(self._portal, Path(rest).expanduser())
        if word == "/save" and rest:
            line, _, folder = rest.partition(" ")
            path = save(self._portal, line, Path(folder.strip() or ".").expanduser())
            self._ctx.err.line(f"Wrote {cell(str(path))}.", "dim")
            return None
        if word != "/help":
            missing = {"/file": "/file takes a PATH", "/save": "/save takes a LINE"}
            told = missing.get(word, f"there is no command {cell(word[:40])}")
            self._ctx.err.line(f"clawlink: {told}, and nothing is sent")
        self._ctx.err.line(_HELP, "dim")
        return None

    # -- from there --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            self._hear()
        except Exception as error:
            if not self._over.is_set():  # at the end the client is closed under its last wait
                self._end(LocalFailure(f"the chat broke off: {error}"))

    def _hear(self) -> None:
        """Show what comes until the chat is over. While the portal is away, try again: no line is lost by that."""
        failed = 0
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                found = self._ear.ask("GET", _HISTORY, after=self._last, wait=_WAIT_SECONDS, limit=_AT_ONCE)
            except ClawLinkError as error:
                if not (isinstance(error, RelayUnreachable) or error.retryable):
                    self._end(error)
                    return
                failed += 1
                if failed == 1:
                    self._note(f"clawlink: {cell(error.message)}; the chat goes on when it is back")
                self._over.wait(min(failed * _PAUSE_SECONDS, _MOST_PAUSE_SECONDS))
                continue
            if failed:
                self._note("clawlink: the portal is back")
            failed = 0
            with self._showing:
                new = [line for line in found["messages"] if line["id"] > self._last]
                if not self._over.is_set():
                    self._show([line for line in new if line["id"] not in self._own], again=True)
                self._last = max((line["id"] for line in new), default=self._last)
            if not new and time.monotonic() - begun < _EARLY_SECONDS:
                self._over.wait(2 * _PAUSE_SECONDS)  # a portal that does not wait, as those of Agent P2P

    def _end(self, error: ClawLinkError) -> None:
        self._failure = error
        self._over.set()
        if self._typing:
            self._note(f"clawlink: {cell(error.message)}; Enter ends the chat")

    def _note(self, text: str) -> None:
        with self._showing, self._over_the_prompt():
            self._ctx.err.line(text, "dim")

    def _show(self, lines: list[Any], *, again: bool = False) -> bool:
        """Show lines, and return True if there were any. ``again`` draws the prompt behind them."""
        with self._over_the_prompt() if again and lines else contextlib.nullcontext():
            for line in lines:
                self._show_one(line)
                self._last = max(self._last, line["id"])
            self._ctx.out.flush()
        return bool(lines)

    def _show_one(self, line: Any) -> None:
        out = self._ctx.out
        if self._ctx.json:
            out.json(line, one_line=True)
            return
        out.line(f"{line['id']:>5}  {line['role']}  {local(line['created_at'])}", style="bold")
        attached = _ATTACHED.fullmatch(line["content"])
        if attached is not None:
            how = f"/save {line['id']}" if self._typing else f"clawlink portal get-attachment {line['id']}"
            out.line(f"       the file {cell(attached[1])}; keep it with: {how}")
            return
        for text in line["content"].splitlines():
            out.line(f"       {cell(text)}")

    @contextlib.contextmanager
    def _over_the_prompt(self) -> Iterator[None]:
        """Write in place of the prompt, and draw it again with what was typed so far."""
        drawn = self._typing and os.name != "nt" and not self._over.is_set()
        if drawn:
            self._ctx.out.raw(b"\r\x1b[K")
        yield
        if drawn:
            typed = ""
            with contextlib.suppress(ImportError):
                import readline

                typed = readline.get_line_buffer()
            self._ctx.out.raw((_PROMPT + typed).encode("utf-8", "replace"))
            self._ctx.out.flush()


def _words(error: ClawLinkError | OSError) -> str:
    return error.message if isinstance(error, ClawLinkError) else f"{error.filename}: {error.strerror or error}"


VERBS: Mapping[str, Callable[[Namespace, Any, Portal], Exit]] = {
    "chat": _chat,
    "say": _say,
    "reply": _say,
    "get-attachment": _save,
}
