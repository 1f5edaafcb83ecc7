"""The person's own editor, and the edited text in a file that is never lost."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from clawlink.cli.exits import UsageError
from clawlink.errors import ClawLinkError

_WINDOWS = os.name == "nt"


class Editing:
    """An edited text, in a file of its own with the suffix of its source."""

    def __init__(self, name: str, content: bytes, environ: Mapping[str, str]) -> None:
        self._command = _editor(environ)
        self._folder = tempfile.mkdtemp(prefix="clawlink-edit-")  # for its owner alone
        self.path = Path(self._folder, name)
        self.content = content

    @property
    def content(self) -> bytes:
        """The content of the file."""
        return self.path.read_bytes()

    @content.setter
    def content(self, content: bytes) -> None:
        self.path.write_bytes(content)

    def run(self, *, quiet: bool) -> bytes:
        """Run the editor, and return the edited text.

        With ``quiet`` the editor's output does not go to standard output.

        Raises ClawLinkError if the editor fails, as it does when a person gives up.
        """
        command = [*self._command, str(self.path)]
        try:
            with _interrupts_are_the_editors():
                code = subprocess.call(command, stdout=sys.stderr if quiet else None)  # noqa: S603 - their own editor
        except OSError as error:
            raise UsageError(
                f"the editor {command[0]!r} cannot be started: {error.strerror or error}; set $VISUAL or $EDITOR"
            ) from None
        if code != 0:
            raise ClawLinkError(f"the editor ended with code {code}, so nothing was written")
        return self.content

    def drop(self) -> None:
        """Remove the file, because its text is saved."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _editor(environ: Mapping[str, str]) -> list[str]:
    """Return the command that edits. Raises UsageError if none is chosen."""
    for variable in ("VISUAL", "EDITOR"):
        chosen = environ.get(variable, "").strip()
        if chosen:
            try:
                words = shlex.split(chosen, posix=not _WINDOWS)
            except ValueError as error:
                raise UsageError(f"${variable} is no command: {error}; it is {chosen!r}") from None
            return [word.strip('"') for word in words] if _WINDOWS else words
    raise UsageError("no editor is chosen; set $VISUAL or $EDITOR, as in: EDITOR=nano clawlink file edit KEY")


@contextlib.contextmanager
def _interrupts_are_the_editors() -> Iterator[None]:
    """Leave Ctrl-C to the editor, where it has a meaning.

    A handler is set, because the editor would inherit an ignored signal.
    """
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
    except ValueError:  # not in the main thread, which gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
