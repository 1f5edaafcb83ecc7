"""The version, the distribution, and the check for an old distribution; no other place names them."""

from __future__ import annotations

VERSION = "1.2.0"
# The name for pip. The package, the command and the folder are called ``clawlink``.
DISTRIBUTION = "clawlink-relay"
# Up to 1.1 the distribution had this name, which belongs to somebody else on the package index.
_FORMER = "clawlink"


def former_distribution() -> str | None:
    """Return a sentence if a distribution under the old name is installed too, which owns the same files; else None."""
    from importlib.metadata import distributions

    for found in distributions(name=_FORMER):
        # Neither a folder that a build has left nor an editable installation owns files of the package.
        owned = (found.read_text("RECORD") or "").splitlines()
        if any(line.startswith("clawlink/") for line in owned):
            return (
                f"the distribution {_FORMER} {found.version} is installed too and owns the same files: "
                f"pip uninstall {_FORMER}, then install {DISTRIBUTION} again (pip install . in its checkout)"
            )
    return None


def extra_command(extra: str) -> str:
    """Return the command that adds an extra to ClawLink, for a checkout.

    It keeps an editable installation editable. Without ``-e`` pip would replace that by a copy.
    """
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    editable = origin.get("dir_info", {}).get("editable") is True
    return f"pip install {'-e ' if editable else ''}'.[{extra}]'"
