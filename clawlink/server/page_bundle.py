"""The scripts of the first view as one script: a browser then asks once, and not once for each.

The scripts stay files that import each other. ``bundle`` joins them when a relay starts: it takes their imports and the
word ``export`` away, so their names at the top must differ. ``rebind`` lets other scripts import from the joined one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from clawlink.errors import ClawLinkError

BUNDLE = "app.js"
"""The name of the joined script, which is that of its last part."""
VENDORED = "htm-preact.js"
PARTS = (VENDORED, "en.js", "doors.js", "parts.js", "overview.js", "stop.js", BUNDLE)
"""The joined scripts. Each imports from those before it alone."""

_IMPORT = re.compile(r'^import [^;]*? from "\./([\w.-]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:(?:async )?function|const|let|class) (\w+))", re.MULTILINE)
_DEFAULT = re.compile(r"^export default ", re.MULTILINE)
_MINIFIED = re.compile(r"export\{([\w ,]+)\};?\s*$")
_FROM = re.compile(rf'(?<=from "\./)(?:{"|".join(map(re.escape, PARTS))})(?=")')


def bundle(sources: Mapping[str, str]) -> str:
    """Return the scripts of ``PARTS`` as one that exports all that they export. Raises ClawLinkError."""
    joined, names = [], list[str]()
    for at, part in enumerate(PARTS):
        source = sources[part]
        late = {found for found in _IMPORT.findall(source) if found not in PARTS[:at]}
        if late:
            raise ClawLinkError(f"{part} of the page imports {', '.join(sorted(late))}, which does not come before it")
        source = _IMPORT.sub("", source)
        if part == VENDORED:
            source, given = _minified(source)
            names += given
        else:
            names += _EXPORT.findall(source)
            source = _DEFAULT.sub(f"const {part.partition('.')[0]} = ", _EXPORT.sub("", source))
        joined.append(source)
    return "\n".join([*joined, f"export {{ {', '.join(names)} }};\n"])


def _minified(source: str) -> tuple[str, Iterable[str]]:
    """Return a minified script as a function, whose short names stay its own, and the names that it exports."""
    found = _MINIFIED.search(source)
    if found is None:
        raise ClawLinkError(f"{VENDORED} of the page does not end with its exports")
    pairs = [pair.split(" as ") for pair in found[1].split(",")]
    given = ", ".join(f"{name}: {short}" for short, name in pairs)
    names = [name for _, name in pairs]
    inside = f"{source[: found.start()]}\nreturn {{ {given} }};"
    return f"const {{ {', '.join(names)} }} = (() => {{\n{inside}\n}})();\n", names


def rebind(source: str) -> str:
    """Return a script that imports from the joined script what it imports from its parts."""
    return _FROM.sub(BUNDLE, source)
