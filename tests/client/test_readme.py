"""The examples of README.md run as they stand, and a second time."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from clawlink.client.sync import Client
from tests.processes import Popen, run
from tests.waiting import PATIENCE, wait_until

README = Path(__file__).parents[2] / "README.md"
ADDRESS = re.compile(r'"http://192\.168\.1\.5:9077", token="\.\.\."')


def test_the_agent_and_the_client_run_twice_in_a_row(relay: str, tmp_path: Path) -> None:
    agent, client = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[:2]
    environ = {**os.environ, "CLAWLINK_RELAY": relay, "CLAWLINK_HOME": str(tmp_path)}
    script = ADDRESS.sub(repr(relay), client)
    assert relay in script
    with Popen([sys.executable, "-c", agent], env=environ) as working:
        try:
            with Client(relay) as visitor:
                wait_until(lambda: bool(visitor.discover(name="counter").agents))
            for _ in range(2):
                done = run([sys.executable, "-c", script], env=environ, text=True, timeout=PATIENCE)
                assert done.returncode == 0, done.stderr
                assert "{'words': 3}" in done.stdout, done
        finally:
            working.terminate()


def test_a_link_whose_name_is_taken_ends_with_a_sentence(relay: str, tmp_path: Path) -> None:
    program = "from clawlink import Link, errors\nlink = Link('the holder')\nlink.on_task(print)\n"
    caught = "try:\n    link.run()\nexcept errors.NameTaken:\n    print('caught')"
    hooked = (
        "import sys\nsys.excepthook = lambda kind, *_: print('clawlink: the holder', kind.__name__, file=sys.stderr)\n"
    )
    environ = {**os.environ, "CLAWLINK_RELAY": relay, "CLAWLINK_HOME": str(tmp_path)}
    with Client(relay) as holder:
        holder.register("the holder")
        for ending, code, out in ("link.run()", 1, ""), (caught, 0, "caught\n"), (hooked + "link.run()", 1, ""):
            done = run([sys.executable, "-c", program + ending], env=environ, text=True, timeout=PATIENCE)
            assert (done.returncode, done.stdout) == (code, out), done
            if code:
                (sentence,) = done.stderr.splitlines()
                assert sentence.startswith("clawlink: "), done
                assert "the holder" in sentence, done
                assert ("NameTaken" in sentence) == (hooked in ending), "a hook of the program's own comes first"
