"""The configurations of nginx, Caddy and systemd in front of a relay, from ``templates/``.

``references/operations.md`` shows the same texts, and a test holds both together.
"""

from __future__ import annotations

from pathlib import Path

NGINX, CADDY = "nginx", "caddy"
_FOLDER = Path(__file__).parent / "templates"
_FILES_OF_RELAY = "location ~ ^/(blobs|uploads)(/|$) {"


def nginx(
    domain: str, *, certificate: str, key: str, port: int, name: str = "clawlink", files: tuple[str, ...] = ()
) -> str:
    """Return the configuration of nginx for one relay.

    ``name`` is that of the upstream, and is a word. ``files`` are more addresses whose bodies pass as they come.
    """
    text = _filled("nginx.conf", DOMAIN=domain, CERTIFICATE=certificate, KEY=key, PORT=str(port), NAME=name)
    if files:
        text = text.replace(_FILES_OF_RELAY, f"location ~ ^/(blobs|uploads|{'|'.join(files)})(/|$) {{")
    return text


def caddy(domain: str, *, port: int, certificate: str = "", key: str = "") -> str:
    """Return the configuration of Caddy for one relay. Without a certificate Caddy gets itself one."""
    text = _filled("caddyfile", DOMAIN=domain, CERTIFICATE=certificate, KEY=key, PORT=str(port))
    if certificate:
        return text
    return "\n".join(line for line in text.split("\n") if "public CA" not in line and "    tls " not in line)


def unit(*, title: str, program: str, flags: str, environment: str, state: str) -> str:
    """Return the unit of systemd for one relay. ``state`` is the name of its folder below /var/lib."""
    return _filled("relay.service", TITLE=title, PROGRAM=program, FLAGS=flags, ENVIRONMENT=environment, STATE=state)


def _filled(name: str, **values: str) -> str:
    text = (_FOLDER / name).read_text("utf-8")
    for field, value in values.items():
        text = text.replace(f"@{field}@", value)
    return text
