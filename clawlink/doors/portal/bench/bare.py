"""A bare portal to measure beside: it decodes parts in JSON, hashes parts in bytes, and writes both to the disk.

Run as ``python -m clawlink.doors.portal.bench.bare PORT FILE``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from typing import IO, Any

from aiohttp import web


class Bare:
    """The routes that a sender of files uses. ``/raw`` takes parts as bytes, all else as base64 in JSON."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._received: list[int] = []
        self._total = 0
        self._sha256 = hashlib.sha256()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=1 << 30)
        for prefix in ("", "/raw"):
            app.router.add_post(prefix + "/api/file/initiate", self._initiate)
            app.router.add_post(prefix + "/api/file/chunk/{id}/{index}", self._chunk)
            app.router.add_put(prefix + "/api/portal/files/{id}/{index}", self._part)
            app.router.add_get(prefix + "/api/file/status/{id}", self._status)
        return app

    async def _initiate(self, request: web.Request) -> web.Response:
        self._total = (await request.json())["chunks_total"]
        self._received = []
        self._file.seek(0)
        self._file.truncate()
        raw = request.path.startswith("/raw")
        return web.json_response({"status": "ready", "file_id": "bare", "message": "", "raw_parts": raw})

    async def _chunk(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self._file.write(base64.b64decode(body["data"]))
        return self._took(request)

    async def _part(self, request: web.Request) -> web.Response:
        async for piece in request.content.iter_any():
            self._sha256.update(piece)
            self._file.write(piece)
        return self._took(request)

    def _took(self, request: web.Request) -> web.Response:
        self._received.append(int(request.match_info["index"]))
        return web.json_response({"status": "received"})

    async def _status(self, request: web.Request) -> web.Response:
        status = "completed" if len(self._received) >= self._total else "transferring"
        told: dict[str, Any] = {"status": status, "received_chunks": self._received}
        return web.json_response(told)


def main(port: int, path: str) -> None:
    """Serve until the process is ended."""
    with open(path, "wb") as file:
        web.run_app(Bare(file).app(), host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
