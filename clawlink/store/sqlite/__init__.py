"""Records in SQLite and contents in files, below one folder: what ``--data`` keeps over a restart.

``folder.py`` opens the folder, ``database.py`` the database in it. ``store.py`` is the ``Store``: it reads on the event
loop, and ``writer.py`` commits on a thread of its own. ``rows.py`` turns records into rows, ``counts.py`` counts them.
``contents.py`` is the ``Blobs``. ``backup.py`` copies a folder while a relay runs, and ``check.py`` looks for damage.
"""

from clawlink.errors import ClawLinkError

try:
    import sqlite3 as sqlite3
except ImportError as _error:  # a Python that was built without the library
    raise ClawLinkError(
        f"data folders and portals need SQLite, which this Python lacks ({_error}); use another Python, or build "
        "this one again where the development files of SQLite are installed"
    ) from None
