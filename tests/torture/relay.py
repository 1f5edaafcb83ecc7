"""Kills of whole relays, their agents, their server and their network: ``python -m tests.torture.relay --seed 1``.

Case by case, senders delegate tasks to workers over one relay with ``--data`` or several with ``--store``. All are
processes of their own. The dice of seed and case choose their kinds (``tests.torture.agent``), the event loop of the
relays, and what happens to them:

- relays, senders and workers are killed (SIGKILL) and stopped for a while (SIGSTOP), and relays are drained;
- the server of the store is killed, stopped or cut off, or fails over to its replica;
- the disk below ``--data`` is full;
- the network is cut, slow, or loses what comes back;
- the clock of a relay is moved.

Then all is left in peace, and there is an account (``tests.torture.account``):

- each task of which a sender was told is answered once. Dead letters of workers are put back for that;
- each answer is that of its task, and none comes again after its ack was answered;
- the relay knows the same tasks as the senders;
- no receipt came twice, no agent ended by itself, and nothing shows a traceback.

``--seed 1 --first 17 --cases 1`` does case 17 again, with the same dice: only the moments differ. ``--on`` names the
stores of the relays:

- ``data``: a folder;
- ``always``: a server with ``appendfsync always``;
- ``cluster-wait``: a cluster with ``appendfsync always``, whose replicas have each commit that is answered;
- ``everysec``: a server with ``appendfsync everysec`` that loses its power: its file is cut to what it was a second
  before;
- ``cluster``: a cluster with ``appendfsync everysec``, whose replicas may be behind.

The last two may lose what was answered in the moments before a server lost something. That is counted.

``--beside DIR`` names a checkout of another version of ClawLink. Then the relays of a server are of both versions:
every second one begins as one of the other version, and a killed one may come back as one of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from clawlink.cli.exits import Exit
from clawlink.client.identity import Identities, Saved
from tests import valkey
from tests.processes import Popen
from tests.torture import agent
from tests.torture.account import Account
from tests.torture.agent import Relay
from tests.torture.network import CUT, DEAF, OPEN, SLOW, Network
from tests.torture.nodes import Lost, Node
from tests.waiting import wait_until

SENDERS, WORKERS, EVENTS = 2, 2, 20
STORES = DATA, ALWAYS, EVERYSEC, CLUSTER_WAIT, CLUSTER = ("data", "always", "everysec", "cluster-wait", "cluster")
_LOSSY = (EVERYSEC, CLUSTER)
# A server with appendfsync everysec syncs its file each second. While the disk is slow, it holds back what it writes to
# the file for two seconds: a kill loses that, too.
_UNSYNCED_SECONDS, _UNWRITTEN_SECONDS = 1.0, 2.5
# An agent writes an answer down some time after it left.
_LATE_SECONDS = 1.0
_PEACE_SECONDS = 180.0
_FULL_BYTES = 16384
# Where answers may be lost, nobody waits for them as long.
_LOSSY_SECONDS = 30.0
_LEAST_PAUSE, _MOST_PAUSE = 0.02, 0.5
# A process that is stopped for longer than a lease, now and then.
_LONG_STOP_SECONDS = agent.LEASE_SECONDS + 1.0
_LONG_STOPS = 0.2
# The ends of a link that finds no relay, or no room, at its start. Its operator begins it again.
_AWAY = (Exit.UNREACHABLE, Exit.OVER_LIMIT)
_CLOCK_SECONDS = 7200.0
PREFIX = "torture"


class Case:
    """A case: its processes, its dice, and the count of what was done."""

    def __init__(self, seed: int, number: int, store: str, place: Path, beside: Path | None = None) -> None:
        self.dice = random.Random(f"{seed} {number}")
        self.store = store
        self.place = place
        self.beside = None if store == DATA else beside
        self.done: Counter[str] = Counter()
        self.losses: list[tuple[float, float]] = []  # from when to when answered commits may be lost
        self.nodes: list[Node] = []
        self.loop = self.dice.choice(("auto", "asyncio"))
        self.agents: dict[str, subprocess.Popen[Any]] = {}
        self.relays: dict[str, Relay] = {}
        self.urls: dict[str, str] = {}
        self.server: valkey.Server | None = None
        self.cluster: valkey.Cluster | None = None
        self.way = Network()  # between the relays and a single server
        self.senders = [f"sender{n}" for n in range(SENDERS)]
        self.workers = [f"worker{n}" for n in range(WORKERS)]
        self.kinds = {name: self.dice.choice(agent.SENDERS) for name in self.senders}
        self.kinds |= {name: self.dice.choice(agent.WORKERS) for name in self.workers}
        self.done.update(self.kinds.values())
        self._keeping: asyncio.Task[None] | None = None

    # -- what runs ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the store, the relays and the agents."""
        flags: tuple[str, ...] = ("--data", str(self.place / "data"))
        env: dict[str, str] = {}
        relays = 1
        if self.store in (ALWAYS, EVERYSEC):
            self.server = await asyncio.to_thread(valkey.Server, self.place, "--appendfsync", self.store)
            await self.way.start(self.server.port)
            env, relays = {"CLAWLINK_STORE": f"redis://127.0.0.1:{self.way.port}"}, 2
        elif self.store != DATA:
            sync = "always" if self.store == CLUSTER_WAIT else "everysec"
            self.cluster = await asyncio.to_thread(valkey.Cluster, self.place, "--appendfsync", sync)
            env, relays = {"CLAWLINK_STORE": self.cluster.url}, 3
        if self.store != DATA:
            flags = ("--store-prefix", PREFIX, *(("--store-replicas", "1") if self.store == CLUSTER_WAIT else ()))
        flags = (*flags, "--loop", self.loop)
        self.nodes = [Node(self.place, n, flags, env, self.beside if n % 2 else None) for n in range(relays)]
        for node in self.nodes:
            await node.start()
        for name in self.kinds:
            self.relays[name] = await asyncio.to_thread(self._registered, name)
        for name in self.kinds:
            self.run_agent(name)
        self._keeping = asyncio.create_task(self._keep_agents())

    def _registered(self, name: str) -> Relay:
        """Register an agent, and keep its identity."""
        url = self.nodes[0].url
        ask = {"agent_id": name, "name": name, "notices": False, "claim": True, "idempotency_key": name * 8}
        status, reply = Relay([url]).ask("POST", "/register", ask)
        if status != 200:
            raise Lost(f"{name} cannot register: {reply}")
        key = reply["agent_key"]
        Identities(self.place / "agents").save(Saved(name=name, agent_id=name, relay=url, agent_key=key))
        return Relay([url], key)

    def run_agent(self, name: str) -> None:
        """Start a sender or a worker, with what it has in its journal."""
        urls = [node.url for node in self.nodes]
        self.dice.shuffle(urls)
        self.urls[name] = ",".join(urls)
        self._start_agent(name)

    def _start_agent(self, name: str) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.torture.agent",
            self.kinds[name],
            name,
            str(self.journal(name)),
            self.urls[name],
        ]
        rest = [str(self.place / "peace"), ",".join(self.workers)] if name in self.senders else []
        env = {**os.environ, "CLAWLINK_HOME": str(self.place / "agents")}
        with self.said_by(name).open("ab") as said:
            self.agents[name] = Popen([*command, *rest], stdout=subprocess.DEVNULL, stderr=said, env=env)

    async def _keep_agents(self) -> None:
        """Start those again that found no relay at their start."""
        while True:
            for name, process in self.agents.items():
                if process.poll() in _AWAY:
                    self.done["agents that found no relay"] += 1
                    self._start_agent(name)
            await asyncio.sleep(_MOST_PAUSE)

    def said_by(self, name: str) -> Path:
        """Return the path of what an agent said."""
        return self.place / f"{name}.txt"

    def journal(self, name: str) -> Path:
        """Return the path of an agent's journal."""
        return self.place / f"{name}.journal"

    async def stop(self) -> None:
        """End all processes."""
        if self._keeping is not None:
            self._keeping.cancel()
        for process in self.agents.values():
            process.kill()
            process.wait()
        for node in self.nodes:
            await node.network.stop()
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.end()
        await self.way.stop()
        for each in (self.server, self.cluster):
            if each is not None:
                each.stop()

    # -- what happens to them ----------------------------------------------------------------------------------------

    async def pause(self) -> None:
        """Let a moment pass."""
        await asyncio.sleep(self.dice.uniform(_LEAST_PAUSE, _MOST_PAUSE))

    async def storm(self, events: int) -> None:
        """Do one thing after the other, as the dice have it."""
        things: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("relays killed", 9, self._kill_relay),
            ("senders killed", 2, self._kill_sender),
            ("workers killed", 3, self._kill_worker),
            ("relays stopped", 1, self._stop_relay),
            ("agents stopped", 2, self._stop_agent),
            ("relays drained", 1, self._drain_relay),
            ("networks cut", 1, lambda: self._network(CUT)),
            ("networks slow", 1, lambda: self._network(SLOW)),
            ("networks deaf", 1, lambda: self._network(DEAF)),
            ("clocks moved", 1, self._move_clock),
        ]
        if self.store == DATA and sys.version_info >= (3, 11):  # before, a full disk of this kind ends the relay
            things += [("disks full", 2, self._fill_disk)]
        if self.server is not None:
            things += [("servers killed", 3, self._kill_server), ("servers stopped", 1, self._stop_server)]
            things += [("servers cut off", 1, self._cut_server)]
        if self.store == EVERYSEC:
            things += [("powers lost", 4, self._lose_power)]
        if self.cluster is not None:
            things += [("masters killed", 4, self._kill_master), ("masters stopped", 1, self._stop_master)]
            things += [("masters killed, replica behind", 2, self._kill_master_behind)]
        names, weights, doers = zip(*things, strict=True)
        for _ in range(events):
            (at,) = self.dice.choices(range(len(names)), weights)
            await doers[at]()
            self.done[names[at]] += 1
            await self.pause()

    def _lost_since(self, began: float) -> None:
        """Note that a server lost something between then and now."""
        self.losses.append((began - _UNWRITTEN_SECONDS, time.time() + _LATE_SECONDS))

    def _node(self) -> Node:
        return self.dice.choice(self.nodes)

    async def _kill_relay(self) -> None:
        node = self._node()
        node.end()
        if self.dice.random() < 0.3:
            await self.pause()
        if self.beside is not None and self.dice.random() < 0.3:
            node.checkout = None if node.checkout else self.beside
            self.done["relays back in the other version"] += 1
        await node.start()

    async def _drain_relay(self) -> None:
        node = self._node()
        await asyncio.to_thread(node.end, signal.SIGTERM)
        await node.start()

    async def _stop_relay(self) -> None:
        node = self._node()
        assert node.process is not None
        await self._stop_for_a_while(node.process)

    async def _stop_agent(self) -> None:
        await self._stop_for_a_while(self.agents[self.dice.choice((*self.senders, *self.workers))])

    async def _stop_for_a_while(self, process: subprocess.Popen[Any]) -> None:
        process.send_signal(signal.SIGSTOP)
        if self.dice.random() < _LONG_STOPS:
            await asyncio.sleep(_LONG_STOP_SECONDS)
        else:
            await self.pause()
        process.send_signal(signal.SIGCONT)

    async def _kill_sender(self) -> None:
        self._kill_agent(self.dice.choice(self.senders))

    async def _kill_worker(self) -> None:
        self._kill_agent(self.dice.choice(self.workers))

    def _kill_agent(self, name: str) -> None:
        self.agents[name].kill()
        self.agents[name].wait()
        self.run_agent(name)

    async def _network(self, state: str) -> None:
        network = self._node().network
        network.change(state)
        await self.pause()
        network.change(OPEN)

    async def _fill_disk(self) -> None:
        """Let the relay write the first bytes of its files alone for a moment, which it takes for a full disk."""
        import resource

        node = self._node()
        assert node.process is not None
        pid, kind = node.process.pid, resource.RLIMIT_FSIZE
        before = resource.prlimit(pid, kind, (_FULL_BYTES, resource.RLIM_INFINITY))
        await self.pause()
        resource.prlimit(pid, kind, before)

    async def _move_clock(self) -> None:
        self._node().clock.write_text(f"{self.dice.uniform(-_CLOCK_SECONDS, _CLOCK_SECONDS):.3f}")

    async def _kill_server(self) -> None:
        assert self.server is not None
        self._lost_since(time.time())
        self.server.stop()
        if self.dice.random() < 0.5:
            await self.pause()
        await asyncio.to_thread(self.server.start)

    async def _stop_server(self) -> None:
        assert self.server is not None
        self.server.process.send_signal(signal.SIGSTOP)
        await self.pause()
        self.server.process.send_signal(signal.SIGCONT)

    async def _lose_power(self) -> None:
        """Kill the server, and cut its file to what it was a second before, as a loss of power may do."""
        assert self.server is not None
        file = max(self.place.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)
        began, size = time.time(), file.stat().st_size
        await asyncio.sleep(_UNSYNCED_SECONDS)
        self.server.stop()
        os.truncate(file, size)
        self._lost_since(began)
        await asyncio.to_thread(self.server.start)

    async def _cut_server(self) -> None:
        self.way.change(self.dice.choice((CUT, SLOW, DEAF)))
        await self.pause()
        self.way.change(OPEN)

    async def _kill_master(self) -> None:
        """Kill the master, wait until its replica has taken over, and start it again, as a replica then."""
        assert self.cluster is not None
        cluster = self.cluster
        master = await asyncio.to_thread(cluster.master, PREFIX)
        replica = await asyncio.to_thread(cluster.replica_of, master)
        began = time.time()
        master.stop()
        await asyncio.to_thread(wait_until, lambda: replica.ask("ROLE")[0] == b"master")
        await self.pause()
        await asyncio.to_thread(master.start)
        await asyncio.to_thread(wait_until, cluster.whole)
        self._lost_since(began)  # on a busy machine the other one may take over again before it has what was committed

    async def _kill_master_behind(self) -> None:
        """Kill the master while its replica does not get what is committed, as if the network between them were cut."""
        assert self.cluster is not None
        cluster = self.cluster
        master = await asyncio.to_thread(cluster.master, PREFIX)
        replica = await asyncio.to_thread(cluster.replica_of, master)
        began = time.time()
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            await asyncio.to_thread(master.ask, "CLIENT", "KILL", "TYPE", "replica")
        master.stop()
        await asyncio.to_thread(wait_until, lambda: replica.ask("ROLE")[0] == b"master")
        await asyncio.to_thread(master.start)
        await asyncio.to_thread(wait_until, cluster.whole)
        self._lost_since(began)  # on a busy machine the other one may take over again before it has what was committed

    async def _stop_master(self) -> None:
        """Stop the master for longer than it takes its replica to take over: then there are two for a moment."""
        assert self.cluster is not None
        cluster = self.cluster
        master = await asyncio.to_thread(cluster.master, PREFIX)
        replica = await asyncio.to_thread(cluster.replica_of, master)
        began = time.time()
        master.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(wait_until, lambda: replica.ask("ROLE")[0] == b"master")
        master.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(wait_until, cluster.whole)
        self._lost_since(began)

    # -- the account -------------------------------------------------------------------------------------------------

    async def settle(self) -> Counter[str]:
        """Let all agents come to their end in peace, and count. Raises Lost."""
        (self.place / "peace").touch()
        began = time.monotonic()
        give_up_at = began + (_LOSSY_SECONDS if self.store in _LOSSY else _PEACE_SECONDS)
        while any(self.agents[name].poll() is None or self.agents[name].returncode in _AWAY for name in self.senders):
            if time.monotonic() > give_up_at:
                break
            for name in self.workers:  # a worker that was killed five times with a task leaves a dead letter
                status, told = await asyncio.to_thread(self.relays[name].ask, "POST", "/redrive", {"agent_id": name})
                if status == 200:
                    self.done["dead letters put back"] += told["count"]
            await asyncio.sleep(_MOST_PAUSE)
        print(f"it settled in {time.monotonic() - began:.1f} s", self.loop, self.kinds, file=sys.stderr)
        account = Account(self.relays, {name: self.journal(name) for name in self.kinds}, self.losses)
        await asyncio.to_thread(account.take, self.senders, self.workers)
        account.wrong += [
            f"{name} ended with {code}"
            for name, process in self.agents.items()
            if (code := process.poll()) is not None and (code or name in self.workers)
        ]
        account.wrong += self._tracebacks()
        faults = account.late if self.store in _LOSSY else account.wrong + account.lost
        if faults:
            raise Lost("; ".join(faults[:5]))
        return account.counts + Counter({"lost": len(account.lost), "wrong": len(account.wrong)})

    def _tracebacks(self) -> Iterator[str]:
        """Return where a process shows a fault of its own."""
        for path in (*(node.said for node in self.nodes), *map(self.said_by, self.kinds)):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Traceback") or "a defect of the link" in line:
                    yield f"{line} of {path}"


async def do(seed: int, number: int, store: str, place: Path, events: int, beside: Path | None = None) -> Counter[str]:
    """Do a case; return what was done and counted. Raises Lost."""
    case = Case(seed, number, store, place, beside)
    try:
        await case.start()
        await case.storm(events)
        counts = await case.settle()
    finally:
        await case.stop()
    return case.done + counts


def run(
    seed: int, first: int, cases: int, until: float, stores: list[str], events: int, beside: Path | None = None
) -> Counter[str]:
    """Do the cases, from the first one, until the last or that moment; return the sums. Raises Lost."""
    done: Counter[str] = Counter()
    for number in range(first, first + cases):
        if time.monotonic() > until:
            break
        store = stores[number % len(stores)]
        with tempfile.TemporaryDirectory(prefix="clawlink-torture-") as place:
            try:
                done += asyncio.run(do(seed, number, store, Path(place), events, beside))
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"clawlink-torture-relay-{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                with contextlib.suppress(shutil.Error):
                    shutil.copytree(place, kept)
                raise Lost(f"seed {seed}, case {number}, on {store}: {error!r}; the folder is {kept}") from error
        print(f"case {number} on {store} is done", file=sys.stderr, flush=True)
        done["cases"] += 1
        done[f"cases on {store}"] += 1
    return done


def main() -> None:
    """Run from the command line, and print the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--events", type=int, default=EVENTS, help="things that happen in a case")
    parser.add_argument("--on", default=f"{DATA},{ALWAYS}", help="stores, by turns, separated by commas")
    parser.add_argument(
        "--beside", type=Path, metavar="DIR", help="a checkout of another version, for half of the relays"
    )
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    started = time.monotonic()
    until = started + 60 * args.minutes
    beside = args.beside and args.beside.resolve(strict=True)
    done = run(args.seed, args.first, args.cases, until, args.on.split(","), args.events, beside)
    account = {"seed": args.seed, "first": args.first, "next": args.first + done["cases"], "lost": 0}
    print(json.dumps({**account, **dict(sorted(done.items())), "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
