"""Output: tables and colours for a terminal, plain text for a pipe, JSON with ``--json``."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Sequence
from typing import Any, TextIO

from clawlink.cli.render import columns, harmless_json, state_style, wrapped
from clawlink.client.files.whole import flush_all, write_all
from clawlink.domain.terminal import lines

_BAR, _PLAIN_BAR = "\u2502 ", "| "
_NARROWEST = 20


class Output:
    """A stream. It may be missing (a closed file descriptor); then nothing is shown."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.terminal = stream is not None and stream.isatty()
        # The stream's own text layer loses bytes that a full pipe does not take, so the bytes go past it.
        self._buffer: Any = getattr(stream, "buffer", None)
        # A character that the stream's encoding lacks must not be the end of the command.
        if self._buffer is not None:
            self._encoder = codecs.getincrementalencoder(self.encoding)("backslashreplace")
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self.bar = _BAR if self._can_show(_BAR) else _PLAIN_BAR

    @property
    def open(self) -> bool:
        """Return True if there is anyone to show something to."""
        return self._stream is not None

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line of the command line's own words; foreign text has been through ``render`` before."""
        self.pieces((text, style))

    def pieces(self, *pieces: tuple[str, str | None]) -> None:
        """Print a line of several pieces, each with its style."""
        if self._stream is None:
            return
        if self.terminal and any(style is not None for _, style in pieces):
            from rich.text import Text

            self.console().print(Text.assemble(*((text, style or "") for text, style in pieces)), soft_wrap=True)
        else:
            self.write("".join(text for text, _ in pieces) + "\n")

    def hanging(self, head: str, text: str, style: str | None = None) -> None:
        """Print a text behind its head. A terminal has it wrapped at words, all of it behind the head."""
        room = max(_NARROWEST, self._columns() - len(head))
        for piece in wrapped(text, room) if self.terminal else [text]:
            self.line(f"{head}{piece.rstrip()}", style)
            head = " " * len(head)

    def stands(self, what: str, state: str) -> None:
        """Print a subject and its state."""
        style = state_style(state)
        self.pieces((f"{what}: ", "bold"), (state, f"bold {style}" if style else "bold"))

    def facts(self, *pairs: tuple[str, str | None], indent: int = 2) -> None:
        """Print facts under each other; those that are None are left out."""
        known = [(label, text) for label, text in pairs if text is not None]
        room = max((len(label) for label, _ in known), default=0) + 1
        for label, text in known:
            self.line(f"{'':{indent}}{label + ':':<{room}}  {text}")

    def quote(self, text: str, indent: int = 4) -> None:
        """Print foreign text: each line of it harmless, and marked as foreign."""
        margin = " " * indent + self.bar
        for line in lines(text):
            for piece in wrapped(line, self._columns() - len(margin)) if self.terminal else [line]:
                self.line(margin + piece)

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        whole: str | None = None,
        least: Sequence[str] = (),
        begins: int | None = None,
    ) -> None:
        """Print a table. Its cells have been through ``terminal.cell``; nothing in them is read as markup.

        On a narrow terminal the columns ``least`` are left out, the first one first, and cells are wrapped at words;
        those of the column ``whole`` are not. ``begins`` cuts these, which are ids, before a column is left out. They
        keep that many characters, or as many as tell them apart.
        """
        if not self.terminal:
            for line in columns([[title.upper() for title in head], *rows]):
                self.line(line)
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        from clawlink.cli.tables import layout, shortened

        console = self.console()
        shown = layout(head, rows, console.width, whole=whole, least=least)
        if shown.left_out and whole is not None and begins is not None:
            rows = shortened(rows, head.index(whole), begins)
            shown = layout(head, rows, console.width, whole=whole, least=least, tight=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for at, width in shown.columns.items():
            table.add_column(head[at], overflow="fold", no_wrap=head[at] == whole, width=width)
        for row in rows:
            table.add_row(*(Text(row[at], style=_style(head[at], row[at])) for at in shown.columns))
        console.print(table)
        if shown.left_out:
            self.line(f"No room here for: {', '.join(shown.left_out)}. A wider terminal or --json shows all.", "dim")

    def json(self, value: Any, *, one_line: bool = False) -> None:
        """Print a value as JSON in UTF-8, whatever the stream's encoding: on one line, or indented on a terminal."""
        import msgspec

        encoded = msgspec.json.encode(value)
        if self.terminal and not one_line:
            encoded = msgspec.json.format(encoded, indent=2)
        self.raw(harmless_json(encoded) + b"\n")

    def raw(self, data: bytes) -> None:
        """Write bytes exactly, and all of them. Raises OSError where that fails."""
        if self._stream is None:
            return
        if self._buffer is None:  # a stream of characters only, as an interactive shell may put in place
            self._stream.write(data.decode(errors="backslashreplace"))
        else:
            write_all(self._buffer, data)

    def write(self, text: str) -> int:
        """Write text unchanged. Raises OSError if that fails."""
        if self._buffer is None:
            if self._stream is not None:
                self._stream.write(text)
            return len(text)
        self.raw(self._encoder.encode(text if os.linesep == "\n" else text.replace("\n", os.linesep)))
        if getattr(self._stream, "line_buffering", False):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Hand the printed text over to the system. Raises OSError if that fails."""
        if self._stream is not None:
            flush_all(self._stream)

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        return self.terminal

    def fileno(self) -> int:
        """Return the descriptor of the stream. Raises OSError if it has none."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def console(self) -> Any:
        """Return rich's console for this stream. It reads nothing as markup."""
        from rich.console import Console

        return Console(file=self, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]

    def _columns(self) -> int:
        import shutil

        return max(_NARROWEST, shutil.get_terminal_size().columns)

    def _can_show(self, text: str) -> bool:
        try:
            text.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return False
        return True


def _style(title: str, text: str) -> str:
    return (state_style(text) or "") if title in ("state", "status") else ""
