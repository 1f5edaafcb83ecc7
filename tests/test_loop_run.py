"""A signal ends what ``loop_run.run`` runs, wherever the event loop is just then."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from clawlink.loop_run import run
from tests import processes
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to a process")

# A signal comes at each seventh line of asyncio, and of what runs it, that a small program passes.
_EACH_LINE = """
import asyncio, itertools, os, signal, sys
from clawlink import loop_run
from clawlink.loop_run import run

class End(KeyboardInterrupt):
    pass

def end(number, frame):
    raise End

number = int(sys.argv[1])
ours = (os.path.dirname(asyncio.__file__), loop_run.__file__)

async def main():
    try:
        await asyncio.to_thread(int)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
    finally:
        cleaned.append(await asyncio.to_thread(int))

def trace(frame, event, argument):
    # Python ignores what is raised in __del__, which asks is_closed. The first and last lines of run raise at once.
    code = frame.f_code
    if code.co_filename.startswith(ours) and code.co_name not in ("__del__", "is_closed", "run"):
        lines[0] -= 1
        if lines[0] == 0:
            sys.settrace(None)
            signal.raise_signal(number)
        return trace

ended = 0
for line in itertools.count(1, 7):
    lines, cleaned = [line], []
    signal.signal(number, end)
    sys.settrace(trace)
    try:
        run(main())
    except End:
        ended += 1
        assert lines[0] <= 0
    finally:
        sys.settrace(None)
    if lines[0] > 0:
        break
assert ended > 20 and ended == line // 7, (ended, line)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_line_of_the_event_loop_ends_it(number: int) -> None:
    done = processes.run([sys.executable, "-c", _EACH_LINE, str(int(number))], timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import asyncio, signal
from clawlink.loop_run import run

async def main():
    try:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
    finally:
        print("cleans up", flush=True)
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

run(main())
"""
    done = processes.run([sys.executable, "-c", program], timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, b"cleans up\n")


def test_a_handler_that_raises_nothing_ends_nothing() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    async def main() -> str:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        return "done"

    try:
        handler = signal.getsignal(signal.SIGTERM)
        assert run(main()) == "done"
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_is_told_to_another_loop_too() -> None:
    async def raise_it() -> None:
        signal.raise_signal(signal.SIGTERM)

    heard = asyncio.Event()
    loop = asyncio.new_event_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, heard.set)
        run(raise_it())  # the other loop does not run, and hears of it later
        loop.run_until_complete(asyncio.wait_for(heard.wait(), 30))
        heard.clear()
        signal.raise_signal(signal.SIGTERM)
        loop.run_until_complete(asyncio.wait_for(heard.wait(), 30))
    finally:
        loop.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_ends_a_loop_that_waits(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    program = f"""
import asyncio, os, signal, threading
import {loop}
from clawlink.loop_run import run

if hasattr({loop}, "install"):
    {loop}.install()
# Another thread gets the signal, which interrupts no system call of the main thread.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

def send():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.kill(os.getpid(), signal.SIGINT)

async def main():
    asyncio.get_running_loop().call_later(0.1, threading.Thread(target=send).start)
    await asyncio.Event().wait()

try:
    run(main())
except KeyboardInterrupt:
    print("ended")
"""
    done = processes.run([sys.executable, "-c", program], timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (b"ended\n", b"")
