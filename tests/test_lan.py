"""A relay that announces itself is found, with what a client needs to know; by real announcements on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

from clawlink.lan import Found, announce, scan
from clawlink.version import VERSION

LOOPBACK = "127.0.0.1"
# An mDNS responder may wait a second before it repeats itself.
SCAN_SECONDS = 2.5
_ANNOUNCER = """
import asyncio, sys
from clawlink.lan import announce
async def main():
    announcement = await announce(int(sys.argv[1]), auth=True, tls=True, address="127.0.0.1")
    print("announced", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await announcement.close()
asyncio.run(main())
"""


def test_a_relay_of_another_process_is_found_and_gone_when_it_leaves() -> None:
    announcer = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCER, "49077"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with announcer:
        assert announcer.stdout is not None
        assert announcer.stdout.readline() == "announced\n"
        found = scan(SCAN_SECONDS, interfaces=[LOOPBACK])
        hostname = socket.gethostname()
        expected = Found(f"{hostname}-49077", "https://127.0.0.1:49077", VERSION, hostname, auth=True)
        assert expected in found
        announcer.communicate("")
    assert not [relay for relay in scan(SCAN_SECONDS, interfaces=[LOOPBACK]) if relay.url.endswith(":49077")]


async def test_two_relays_of_one_machine_are_told_apart() -> None:
    first = await announce(49078, auth=False, tls=False, address=LOOPBACK)
    second = await announce(49079, auth=True, tls=False, address=LOOPBACK)
    try:
        found = await asyncio.to_thread(scan, SCAN_SECONDS, interfaces=[LOOPBACK])
    finally:
        await first.close()
        await second.close()
    told = {relay.url: relay.auth for relay in found}
    assert told["http://127.0.0.1:49078"] is False
    assert told["http://127.0.0.1:49079"] is True
