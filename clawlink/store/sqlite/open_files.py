"""Whether a database is still where it was opened: what is written to files that were moved or deleted is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class OpenFiles:
    """The files of an open database: itself, and its log."""

    def __init__(self, path: Path) -> None:
        self._paths = (str(path), f"{path}-wal")
        self._files: dict[str, int] = {}
        """The numbers of the files that were there when they were looked for first."""

    def moved(self) -> str | None:
        """Return the reason if a file is not at its place any more; None if all are there.

        Windows lets nobody move or delete an open file.
        """
        if sys.platform == "win32":
            return None
        for path in self._paths:
            try:
                there = os.stat(path).st_ino
            except (FileNotFoundError, NotADirectoryError):
                if path in self._files:
                    return f"{path} was moved or deleted while the relay had it open"
            except OSError:  # nothing shows that it is gone
                continue
            else:
                if self._files.setdefault(path, there) != there:
                    return f"{path} is another file than the one that the relay has open"
        return None
