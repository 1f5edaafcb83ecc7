"""The relay: all its parts, wired. It knows nothing of HTTP; doors and routes call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from clawlink.domain.agent import Agent
from clawlink.domain.audit import Act
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import PRESENT, SharedFile
from clawlink.domain.limits import LIMIT_FIELDS, Limits
from clawlink.domain.standstill import STANDSTILL
from clawlink.protocol import proof
from clawlink.protocol.replies import Challenged, Health, Info
from clawlink.protocol.requests import Challenge
from clawlink.relay.admin.audit import Audit, forget
from clawlink.relay.admin.library import LibraryViews
from clawlink.relay.admin.lists import AdminLists
from clawlink.relay.admin.load import LoadViews
from clawlink.relay.admin.operator import Operator
from clawlink.relay.admin.overview import Overviews
from clawlink.relay.admin.search import SearchViews
from clawlink.relay.admin.stops import Stops
from clawlink.relay.admin.talk import TalkViews
from clawlink.relay.agents.agents import Agents
from clawlink.relay.agents.deregistration import Deregistration
from clawlink.relay.broadcasts.broadcasts import Broadcasts
from clawlink.relay.core import Core, Readiness
from clawlink.relay.files.json_files import JsonFiles
from clawlink.relay.files.quota import FileQuota
from clawlink.relay.files.read import FileReads
from clawlink.relay.files.uploads import Uploads
from clawlink.relay.files.write import Files
from clawlink.relay.janitor import Janitor
from clawlink.relay.kinds import Kind
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.claims import Claims, HandedOut
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.messages import Messages
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.mailbox.receipts import Acks, Receipts
from clawlink.relay.mailbox.unread import UnreadMail
from clawlink.relay.sockets import Sockets
from clawlink.relay.tasks.lifecycle import TaskLifecycle
from clawlink.relay.tasks.report import TaskReports
from clawlink.relay.tasks.responses import Responses
from clawlink.relay.tasks.submit import TaskSubmission
from clawlink.relay.tasks.views import TaskViews
from clawlink.relay.telemetry.activity_log import ActivityLog
from clawlink.relay.telemetry.refusal_log import RefusalLog
from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.timestamps import iso
from clawlink.store.base import Store
from clawlink.store.blobs import LocalBlobs
from clawlink.store.contents import Blobs
from clawlink.store.events import Event, Peers, Signals
from clawlink.version import VERSION


class Relay:
    """A relay over a store."""

    def __init__(
        self,
        store: Store,
        signals: Signals,
        limits: Limits,
        *,
        blobs: Blobs | None = None,
        clock: Callable[[], float],
        require_agent_keys: bool = False,
        token_required: bool = False,
        secret: bytes | None = None,
        on_disk: bool = False,
        peers: Peers | None = None,
        contents: bool = True,
    ) -> None:
        """``on_disk`` says that store and blobs keep what they have there: ``--max-data`` then limits both.

        ``peers`` are other relays over the same store. ``contents`` is False to withhold the texts of messages from
        the operator's view.
        """
        self.core = core = Core(store, signals, limits, clock, secret=secret, on_disk=on_disk, peers=peers)
        self.id = proof.relay_id(core.secret)
        self.admission = admission = Admission(core)
        self._pools = pools = Pools(core)
        self.mailbox = Mailbox(core)
        self.acks = Acks(core, pools)
        self.receipts = Receipts(self.acks, core.time)
        self.agents = Agents(core, self.mailbox, admission, require_keys=require_agent_keys)
        lifecycle = TaskLifecycle(core, self.agents, self.mailbox, pools)
        self.claims = Claims(core, self.mailbox, pools, self.acks, lifecycle)
        self.refusal_log = RefusalLog(clock)
        self.file_quota = FileQuota(core, blobs or LocalBlobs(), self.refusal_log)
        self.files = Files(core, self.agents, self.mailbox, self.file_quota, admission)
        self.deregistration = Deregistration(core, self.agents, self.mailbox, lifecycle, self.files)
        self.submission = TaskSubmission(core, self.agents, self.mailbox, pools, admission)
        self.tasks = TaskReports(core, self.agents, self.mailbox, lifecycle)
        self.task_views = TaskViews(core, self.agents, pools)
        self.unread_mail = UnreadMail(core, self.mailbox, lifecycle.tell)
        self.messages = Messages(core, self.agents, self.mailbox, admission)
        self.responses = Responses(core, self.agents, self.mailbox, admission, self.tasks, self.messages)
        self.broadcasts = Broadcasts(core, self.mailbox, admission)
        self.file_reads = FileReads(core, self.files, self.file_quota)
        self.json_files = JsonFiles(self.files)
        self.uploads = Uploads(core, self.files, self.file_quota)
        self.janitor = Janitor(
            core, self.mailbox, lifecycle, self.deregistration, pools, self.files, self.file_reads, self.uploads
        )
        self.readiness = Readiness(core)
        self.limits = limits
        self.steady = clock
        self.time = core.time
        self.doors: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {}
        """The doors that are open, by name, with what ``info`` tells of each."""
        self.limits_of_doors: dict[str, float] = {}
        self._hearers: list[Callable[[Event | None], None]] = []
        self._token_required = token_required
        self._started_at = clock()
        self.audit = Audit(core, self.agents)
        self.stops = Stops(core)
        self.keep(Kind(Act, forget))
        self.overviews = Overviews(
            core,
            self.agents,
            pools,
            admission,
            contents=contents,
            started_at=self._started_at,
            stuck=lambda: self.janitor.stuck,
        )
        self.operator = Operator(
            core,
            self.agents,
            self.mailbox,
            self.files,
            self.submission,
            self.tasks,
            self.responses,
            self.messages,
            self.broadcasts,
            contents=contents,
        )
        self.admin_lists = AdminLists(core, self.agents, self.task_views, contents=contents)
        self.talk_views = TalkViews(core, self.agents, self.mailbox, self.admin_lists, contents=contents)
        self.library_views = LibraryViews(core, self.agents, self.file_reads, contents=contents)
        self.search_views = SearchViews(core, self.agents, self.mailbox, contents=contents)
        self.load_views = LoadViews(
            core, self.file_quota, stuck=lambda: self.janitor.stuck, uploads=lambda: self.uploads.count
        )

    def keep(self, kind: Kind) -> None:
        """Keep records of a door's own kind: the janitor ends them, and history among them makes room."""
        self.janitor.keep(kind)
        if kind.history is not None:
            self.core.memory.history.append((kind.record, kind.history))

    @property
    def clock(self) -> Callable[[], float]:
        """Relay time, which stands still while the operator has stopped all work."""
        return self.core.clock

    @property
    def stats(self) -> Stats:
        """Counters since start."""
        return self.core.stats

    @property
    def activity_log(self) -> ActivityLog:
        """The log of the agents' work."""
        return self.core.activity_log

    @property
    def sockets(self) -> Sockets:
        """The websockets that are open."""
        return self.core.sockets

    @property
    def memory_limit(self) -> int:
        """The bytes that all records and contents may take, of memory or of the disk."""
        return self.core.memory.limit

    @property
    def leads(self) -> bool:
        """Return True if this relay does the work that one relay of a mesh does for all. A relay alone always does."""
        return self.core.leads

    @property
    def draining(self) -> bool:
        """Return True if the relay is shutting down."""
        return self.core.draining

    def prove(self, ask: Challenge, *, address: str, name: str) -> Challenged:
        """Prove to the holder of an agent key that this is the relay which gave its relay key, at this place."""
        key = proof.relay_key(self.core.secret, ask.key_id)
        return Challenged(self.id, address, name, proof.prove(key, ask.nonce, address, name))

    async def health(self) -> Health:
        """Tell whether the relay takes work. Raises Draining while it shuts down, so that load balancers turn away."""
        self.core.require_working()
        return Health("ok", self.id, self.core.stopped)

    async def ready(self) -> Health:
        """Tell whether the relay takes work, and its store a commit. Raises Draining, StoreUnavailable."""
        await self.readiness.require()
        return Health("ok", self.id, self.core.stopped)

    def require_working(self) -> None:
        """Refuse while the relay is shutting down."""
        self.core.require_working()

    @property
    def waiting(self) -> int:
        """How many consumers wait for messages at this moment."""
        return self.core.signals.listeners()

    def consumer(self, agent: Agent, *, lease: float, credit: int) -> Consumer:
        """Return a consumer for an agent over one connection, with at most ``credit`` unsettled messages."""
        return Consumer(self.core, self.claims, self.acks, agent, lease=lease, credit=credit)

    @property
    def stopped(self) -> bool:
        """Return True while the operator has stopped all work."""
        return self.core.stopped

    async def came_back(self, away: float) -> None:
        """Go on after this many seconds in which no relay was there for what the store has."""
        await self.stood_still(away)
        await self.uploads.come_back()

    async def stood_still(self, seconds: float) -> None:
        """Leave out of every agent's silence these seconds, in which no relay heard it."""
        if seconds and not self.core.stopped:
            await self.agents.came_back(seconds)

    def hear(self, event: Event) -> None:
        """Take note of what another relay over the same store did."""
        if event.pool:
            self.core.begin(self._pools.heard(event.partition_key))
            return
        if event.partition_key == STANDSTILL:
            self.core.begin(self.stops.load())
        if event.left:
            self.agents.directory.remove(event.partition_key)
        self.core.hear(event)
        self._pass_on(event)

    def missed(self) -> None:
        """Look at everything again: what other relays told may have been lost."""
        self.core.missed()
        self._pass_on(None)

    def hear_also(self, hear: Callable[[Event | None], None]) -> None:
        """Have a door hear of the commits of other relays, too; None says that some may have been lost."""
        self._hearers.append(hear)

    def _pass_on(self, event: Event | None) -> None:
        for hear in self._hearers:
            hear(event)

    def look_again(self) -> None:
        """Have every consumer read the store again: time has passed while their timers stood still."""
        self.core.signals.publish_all()

    def handed_out(self, agent: Agent, taken: Sequence[Delivery], *, lease: float, until_read: bool) -> HandedOut:
        """Return the messages that a poll hands out with its reply. Without ``until_read`` its client settles them."""
        return HandedOut(self.core, self.acks, agent.id, taken, lease=lease, until_read=until_read)

    async def drain(self) -> None:
        """Take no new work, answer every waiting poll with nothing, and finish what has begun."""
        self.core.draining = True
        self.core.signals.publish_all()
        await self.core.finished()

    async def finished(self) -> None:
        """Wait for all work that goes on in the background."""
        await self.core.finished()

    def close(self) -> None:
        """Forget all contents of files, also on the disk."""
        self.uploads.close()
        self.file_quota.close()

    async def info(self, *, endpoints: dict[str, str]) -> Info:
        """Show this relay, its contents and its limits."""
        store = self.core.store
        online, stale = await self.agents.directory.presence()
        read = await store.admission((), ((SharedFile, PRESENT),))
        held, (files,) = read.total, read.indexes
        uploads, upload_bytes = self.uploads.under_way()
        return Info(
            service="ClawLink Relay",
            version=VERSION,
            auth_required=self._token_required,
            agents_online=online,
            total_broadcasts=self.stats.broadcasts,
            shared_files=files.count,
            note="Agents register, discover, delegate and poll here; /openapi.json has all endpoints in full.",
            endpoints=endpoints,
            server_time=self.time.stamp(),
            agents_stale=stale,
            messages_held=held.count,
            bytes_held=held.bytes,
            agent_keys_required=self.agents.keys_required,
            draining=self.draining,
            stopped_at=self.stops.since,
            started_at=iso(self._started_at),
            takeovers=self.stats.takeovers,
            rate_limited=self.stats.rate_limited,
            loops_stopped=self.stats.loops_stopped,
            recent_stops=list(self.admission.stops),
            limits={f.name: getattr(self.limits, f.name) for f in LIMIT_FIELDS} | self.limits_of_doors,
            uploads_under_way=uploads,
            upload_bytes=upload_bytes,
            memory_bytes=await self.core.memory.used(),
            memory_limit=self.memory_limit,
            on_disk=self.core.memory.on_disk,
            doors={name: await tell() for name, tell in self.doors.items()},
        )
