"""``clawlink portal setup``: the files of a new portal on a server, printed or written.

It runs no command, opens no connection and asks for no rights: what needs root is a line to run.
"""

from __future__ import annotations

import re
import secrets
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clawlink.cli.exits import Exit
from clawlink.random_text import random_text

if TYPE_CHECKING:
    from clawlink.cli.context import Context

NAME = "clawlink-portal"
ENVIRONMENT = f"/etc/clawlink/{NAME}.env"
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})+")
_HOOKS = '--pre-hook "systemctl stop nginx" --post-hook "systemctl start nginx"'
_KEPT = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)
_BODIES = ("/?api/file", "/?api/portal/(files|import)", "/?api/chat/owner/upload", "/?api/photos/upload")
"""The addresses of files, attachments, photos and imports, which the portal limits itself."""
_HIDDEN = (("home",), ("root",))
"""The folders that ``ProtectHome`` of the unit hides."""


class Planned(NamedTuple):
    """A file of the portal, and whether only its owner may read it."""

    path: str
    text: str
    secret: bool = False


class Secrets(NamedTuple):
    """The first keys. An environment file that is there keeps its own."""

    owner_key: str
    password: str
    token: str


def run(args: Namespace, ctx: Context) -> Exit:
    """Show or write the files."""
    from clawlink.cli.exits import UsageError

    domain = (args.domain or "").strip().lower()
    if not domain:
        raise UsageError("setup needs --domain NAME, the name of this server on the internet, as me.example.org")
    if not _DOMAIN.fullmatch(domain):
        raise UsageError(f"--domain {args.domain[:80]!r} is no name of a server on the internet, as me.example.org")
    root = Path(args.into or "/")
    made = first_keys()
    planned = files(domain, args.proxy, made, port=args.port)
    steps = [*program_moves(Path(sys.executable)), *_steps(domain, args.proxy)]
    if args.apply:
        made = _write(root, planned, made)
    if ctx.json:
        ctx.out.json(_told(planned, made, steps, written=args.apply))
        return Exit.DONE
    for file in planned:
        if args.apply:
            ctx.out.line(f"Wrote {root / file.path.lstrip('/')}")
        else:
            ctx.out.line(f"# {file.path}", style="bold")
            ctx.out.line(file.text)
    if args.apply:
        ctx.out.line(f"The owner key of the portal: {made.owner_key}")
        ctx.out.line(f"The owner's password, for the page: {made.password}")
        ctx.out.line(f"{ENVIRONMENT} has both. The bridge beside OpenClaw needs in its gateway.env:")
    else:
        ctx.out.line("Nothing was written: --apply writes these files. The bridge beside OpenClaw needs:")
    ctx.out.line(f"  AGENTP2P_HUB_URL=https://{domain}")
    ctx.out.line(f"  AGENTP2P_API_KEY={made.owner_key}")
    ctx.out.line("Then, as root:")
    for step in steps:
        ctx.out.line(f"  {step}")
    return Exit.DONE


def first_keys() -> Secrets:
    """Make the first keys."""
    return Secrets(f"ap2p_{secrets.token_urlsafe(32)}", random_text(12), random_text(24))


def files(domain: str, proxy: str, made: Secrets, *, port: int) -> list[Planned]:
    """Return the files of a portal."""
    from clawlink.cli import server_files

    if proxy == server_files.CADDY:
        front = Planned(f"/etc/caddy/conf.d/{NAME}.caddy", server_files.caddy(domain, port=port))
    else:
        folder = f"/etc/letsencrypt/live/{domain}"
        text = server_files.nginx(
            domain,
            certificate=f"{folder}/fullchain.pem",
            key=f"{folder}/privkey.pem",
            port=port,
            name="clawlink_portal",
            files=_BODIES,
        )
        front = Planned(f"/etc/nginx/conf.d/{NAME}.conf", text)
    unit = server_files.unit(
        title=f"ClawLink portal {domain}",
        program=f"{sys.executable} -m clawlink",
        flags=f"--host 127.0.0.1 --port {port} --portal https://{domain} --trust-proxy 127.0.0.1 --log-json",
        environment=ENVIRONMENT,
        state=NAME,
    )
    environment = (
        f"CLAWLINK_TOKEN={made.token}\nAGENTP2P_API_KEY={made.owner_key}\nCLAWLINK_PORTAL_PASSWORD={made.password}\n"
    )
    return [front, Planned(f"/etc/systemd/system/{NAME}.service", unit), Planned(ENVIRONMENT, environment, secret=True)]


def program_moves(program: Path) -> list[str]:
    """Return the steps that bring a program out of a home folder, where the unit cannot start it."""
    hidden = [one for one in (program, program.resolve()) if one.parts[1:2] in _HIDDEN]
    if not hidden:
        return []
    return [
        f"# {hidden[0]} is in a home folder, where the unit cannot start it. In a checkout of ClawLink, with a Python",
        "# of the system, install it elsewhere, and run /opt/clawlink/bin/clawlink portal setup again:",
        "python3 -m venv /opt/clawlink && /opt/clawlink/bin/pip install .",
    ]


def _steps(domain: str, proxy: str) -> list[str]:
    own = [f"systemctl enable --now {NAME}"]
    if proxy == "caddy":
        return [*own, 'add "import conf.d/*.caddy" to /etc/caddy/Caddyfile', "systemctl reload caddy"]
    return [
        *own,
        f"certbot certonly --standalone {_HOOKS} -d {domain}",
        "nginx -t && systemctl reload nginx",
    ]


def _write(root: Path, planned: list[Planned], made: Secrets) -> Secrets:
    """Write all files or none. One that is there with another text stays; the first keys stay those that it has."""
    from clawlink import private
    from clawlink.cli.exits import LocalFailure

    todo: list[tuple[Path, Planned]] = []
    for file in planned:
        path = root / file.path.lstrip("/")
        try:
            there = path.read_text("utf-8") if path.exists() else None
        except OSError as error:
            raise LocalFailure(f"{path} cannot be read: {error.strerror or error}; run it as root") from None
        if there is not None and file.secret:
            kept = dict(_KEPT.findall(there))
            made = Secrets(kept.get("AGENTP2P_API_KEY", ""), kept.get("CLAWLINK_PORTAL_PASSWORD", ""), "")
        elif there is not None and there != file.text:
            raise LocalFailure(
                f"{path} is there with another text, and nothing was written; move it away, or leave out --apply and "
                "change it by hand"
            )
        elif there is None:
            todo.append((path, file))
    for path, file in todo:
        try:
            private.make_folder(path.parent, 0o755)
            private.write(path, file.text.encode())
            if not file.secret:
                path.chmod(0o644)
        except OSError as error:
            raise LocalFailure(
                f"{path} cannot be written: {error.strerror or error}; run it as root, or give --into DIR and copy "
                "the files yourself"
            ) from None
    return made


def _told(planned: list[Planned], made: Secrets, steps: list[str], *, written: bool) -> dict[str, object]:
    return {
        "written": written,
        "files": [{"path": file.path, "text": file.text} for file in planned],
        "owner_key": made.owner_key,
        "password": made.password,
        "steps": steps,
    }
