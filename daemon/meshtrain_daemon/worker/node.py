"""The node's daemon: its parts put together, and what comes in led to its agent."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import meshtrain
from meshtrain import failpoints
from meshtrain.artifacts.cached import cached
from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import agent_io as io
from meshtrain.core.agent import LEAVE_UNSAFE_S, Agent
from meshtrain.core.cache import CacheLimits
from meshtrain.core.member import Members
from meshtrain.core.node import NodeSpec
from meshtrain.errors import MeshtrainError
from meshtrain.hardware.gpu import find_gpus
from meshtrain.hardware.host import disk_free_bytes, memory_bytes
from meshtrain.ids import new_id
from meshtrain.net.address import split_address
from meshtrain.net.zmq_worker import WorkerSockets
from meshtrain.security.membership import MembersFile
from meshtrain.spec.settings import JobsOnStop, WorkerSettings
from meshtrain.store.lock import StoreLock
from meshtrain.wire import messages as msg
from meshtrain_daemon.worker.adoption import take_over
from meshtrain_daemon.worker.apply import Hands
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.attempt_folder import HostRules
from meshtrain_daemon.worker.attempt_processes import AttemptProcesses
from meshtrain_daemon.worker.cgroup import delegated_folder, remove_others
from meshtrain_daemon.worker.gpu_watch import GpuWatch, our_processes
from meshtrain_daemon.worker.janitor import Janitor
from meshtrain_daemon.worker.metrics import WorkerMetrics
from meshtrain_daemon.worker.place import find_place
from meshtrain_daemon.worker.preparation import Prepared
from meshtrain_daemon.worker.silence import Silence
from meshtrain_daemon.worker.stockroom import read_sources
from meshtrain_daemon.worker.streams import Streamer
from meshtrain_daemon.worker.use_meter import UseMeter

HELLO_EVERY_S = 1.0
"""Between hellos while no master answers."""
SHIP_EVERY_S = 0.1
DISK_EVERY_S = 5.0
DISK_FREE_MIN_BYTES = 64 << 20
"""Below this the node takes no more jobs."""
STREAMS_LAST_S = 5.0
"""How long a daemon that stops waits for its last log bytes to be stored."""


class WorkerNode:
    """One worker daemon over one home folder.

    Args:
        settings: who it is, where its master is, what it gives to the mesh.
        say: shows a line to people.
    """

    def __init__(self, settings: WorkerSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._place = find_place(settings)
        self._say = say
        home = settings.home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = StoreLock(home / "worker.lock", "the node's folder", "worker")
        self._attempts = home / "attempts"
        self._attempts.mkdir(exist_ok=True)
        self._artifacts = ArtifactStore(home / "artifacts")
        self._artifacts.recover()
        self._gpus = find_gpus(settings.gpus)
        self._gpu_watch = GpuWatch(gpu.index for gpu in self._gpus)
        self._life = new_id("life")
        self._heartbeat_s = HELLO_EVERY_S
        self._events: deque[io.AgentEvent] = deque()
        self._scheduled = False
        self._tasks: asyncio.TaskGroup | None = None
        self._left = asyncio.Event()
        self._stops = 0
        self._said_it_stays = False
        self._hands_back = settings.jobs_on_stop != JobsOnStop.LEAVE
        self._serving = False
        #: what runs beside the loops: fetches, and what is being stored
        self._beside: set[asyncio.Task[None]] = set()
        self._silence = Silence(self._place.master, lease_now_s())
        self._master_seen = False
        """Whether it stops, and handed back a job that can go on from what lies here."""

    async def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop` was called and all is finished or handed back.

        `ready` is called once it serves and has taken over what runs.
        """
        settings = self._settings
        place = self._place
        disk = DiskWork()
        found = await asyncio.to_thread(
            take_over, self._attempts, place.name, self._artifacts, self._say
        )
        cgroups = delegated_folder()
        if cgroups is not None:
            adopted = [one.folder.assignment.attempt_id for one in found.adopted]
            await asyncio.to_thread(remove_others, cgroups, adopted)
        server = ArtifactServer(
            self._artifacts,
            place.http_host,
            settings.http_port,
            security=place.http,
            sent_bytes_per_s_max=settings.upload_limit,
        )
        self._metrics = WorkerMetrics()
        self._metrics.add_to(server.app)
        fetcher = Fetcher(
            self._artifacts, chunks_at_once=settings.chunks_at_once, security=place.http
        )
        master_host, master_port = split_address(place.master)
        self._sockets = WorkerSockets(
            master_host,
            master_port,
            place.name,
            self._life,
            on_control=self._on_control,
            on_bulk=self._on_bulk,
            security=place.net,
        )
        janitor = Janitor()
        self._streamer = Streamer(
            lambda message: self._sockets.send_bulk([message]),
            remove=janitor.clear,
            node_id=place.name,
            spool_bytes=settings.log_spool_bytes,
            say=self._say,
        )
        processes = None
        hands = None
        handed_back = False
        try:
            http_url = await server.start()
            await fetcher.start()
            shims_found = [one.started.shim_pid for one in found.adopted if one.started]
            gpus_busy = await self._gpu_watch.glance(
                our_processes(f"{place.name}/", lambda: shims_found)
            )
            cached_there = await asyncio.to_thread(cached, self._artifacts, wall_now_s())
            self._agent = Agent(
                slots=settings.cpu_slots + len(self._gpus),
                gpus_busy=gpus_busy,
                holds=(),
                cached=cached_there,
                cache_limits=CacheLimits(settings.cache_bytes, settings.cache_reserve_bytes),
                known_sources=read_sources(settings.home, self._say),
                free_bytes=disk_free_bytes(settings.home),
                now_s=lease_now_s(),
                life=self._life,
                adopted=[
                    io.AdoptedAttempt(one.folder.assignment, one.output_id) for one in found.adopted
                ],
            )
            self._metrics.open(
                attempts=lambda: self._agent.active,
                cache=lambda: self._agent.stock.use_told(),
                readings=lambda: self._gpu_watch.readings,
                sent_bytes=lambda: server.sent_bytes,
            )
            processes = AttemptProcesses(
                node_id=place.name,
                attempts=self._attempts,
                store=self._artifacts,
                streamer=self._streamer,
                spare=janitor.spare,
                prepared=Prepared(settings.home / "prepared", settings.prepared_bytes),
                gpu_watch=self._gpu_watch,
                gpu_free_wait_s=settings.gpu_free_wait_s,
                rules=HostRules(
                    kill_grace_s=settings.kill_grace_s,
                    gpu_locks=str(settings.gpu_locks),
                    job_users=settings.job_users,
                    cgroup=cgroups,
                ),
                warm_training=settings.warm_training,
                disk=disk,
                say=self._say,
                post=self._post,
                spawn=self._spawn,
            )
            hands = self._hands = Hands(
                spec=self._spec(place.reached_at(http_url)),
                home=settings.home,
                store=self._artifacts,
                fetcher=fetcher,
                processes=processes,
                use=UseMeter(self._gpu_watch.use).news,
                disk=disk,
                say=self._say,
                sockets=self._sockets,
                post=self._post,
                spawn=self._spawn,
                on_leave=self._left.set,
                members_version=lambda: place.members_version,
                master_host=master_host,
            )
            await processes.start()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._hands.apply(self._agent.start(lease_now_s()))
                processes.adopt(found)
                self._spawn(processes.trim_prepared())
                if found.adopted:
                    number = len(found.adopted)
                    jobs = "1 job" if number == 1 else f"{number} jobs"
                    self._say(f"took over {jobs} of the daemon before")
                self._say(
                    f"worker {place.name} ready: {settings.cpu_slots} CPU slots, "
                    f"{len(self._gpus)} GPUs, master {place.master}"
                )
                ready()
                self._serving = True
                if self._stops:
                    self._obey_stop()
                running = [
                    tasks.create_task(loop)
                    for loop in (
                        self._beat(),
                        self._ship(),
                        self._watch_disk(),
                        self._gpu_watch.follow(
                            our_processes(f"{place.name}/", processes.shim_pids),
                            processes.gpus_held,
                            settings.gpu_glance_s,
                            self._on_gpus,
                            gpus_busy,
                        ),
                    )
                ]
                await self._left.wait()
                if not self._leaves_jobs:
                    await self._ship_the_last()
                    handed_back = True
                # From here on nothing is decided: what comes is for the next daemon. What is
                # stored or fetched at this moment can be gone on with later.
                self._tasks = None
                for task in (*running, *(self._beside if self._leaves_jobs else ())):
                    task.cancel()
        finally:
            self._tasks = None
            if hands is not None:
                hands.flush()
            if processes is not None:
                # Whatever ends a daemon but a wish to hand back, its jobs go on.
                await (processes.close() if handed_back else processes.leave())
            self._sockets.close()
            await fetcher.close()
            await server.stop()
            await asyncio.to_thread(janitor.close)
            if not disk.at_work:
                # Else the end of the process releases it: until then the next daemon waits.
                self._lock.release()

    def status(self) -> str:
        """How it goes, in a line."""
        heard = "welcomed by" if self._agent.welcomed else "waiting for"
        told = f"{self._agent.active} attempts, {heard} the master at {self._place.master}"
        return f"{told}; {self._sockets.trouble}" if self._sockets.trouble else told

    def stop(self, *, hand_back: bool = False) -> None:
        """Stop as the setting `jobs_on_stop` says; with `hand_back`, as if it said that.

        To hand back: finish what runs within the grace, then hand back; asked twice,
        hand back at once. To leave: end at once, however often asked.
        """
        if self._left.is_set():
            return  # It ends already: nothing is changed by a stop that comes now.
        self._stops += 1
        self._hands_back |= hand_back
        # One that comes before all is up is obeyed then.
        if self._serving:
            self._obey_stop()

    @property
    def _leaves_jobs(self) -> bool:
        return not self._hands_back

    def _obey_stop(self) -> None:
        if self._leaves_jobs:
            if self._agent.active:
                self._say("stopping: running jobs go on, and the next daemon takes them over")
            self._left.set()
            return
        grace_s = self._settings.stop_grace_s if self._stops == 1 else 0.0
        if self._agent.active and grace_s:
            self._say(f"stopping: running jobs have {grace_s:g} s, then they are handed back")
        self._post(io.StopAsked(finish_s=grace_s))

    def _spec(self, http_url: str) -> NodeSpec:
        settings = self._settings
        return NodeSpec(
            node_id=self._place.name,
            http_url=http_url,
            cpu_slots=settings.cpu_slots,
            memory_bytes=memory_bytes(),
            gpus=self._gpus,
            labels=settings.labels,
            version=meshtrain.__version__,
            trains=importlib.util.find_spec("torch") is not None,
            price_per_gpu_hour=settings.price_per_gpu_hour,
        )

    # --- the agent's loop --------------------------------------------------------------------

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        if self._tasks is None:
            # It leaves: what comes in this moment is for the next daemon.
            coroutine.close()
            return None
        task = self._tasks.create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def _post(self, event: io.AgentEvent) -> None:
        self._events.append(event)
        self._metrics.take(event)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        """Handle all that came since the last turn, then carry it out together."""
        self._scheduled = False
        if self._tasks is None:
            return
        now_s = lease_now_s()
        effects: list[io.AgentEffect] = []
        while self._events:
            effects.extend(self._agent.handle(self._events.popleft(), now_s))
        if self._agent.stays_for and not self._said_it_stays:
            self._said_it_stays = True
            self._say(
                f"stays for the master to fetch what {self._agent.stays_for} jobs go on from, "
                f"{LEAVE_UNSAFE_S:.0f} s at most"
            )
        if effects:
            self._hands.apply(effects)

    # --- what the master says ------------------------------------------------------------------

    def _on_control(self, batch: list[msg.ToNode]) -> None:
        self._say_if(self._silence.heard(lease_now_s()))
        for message in batch:
            match message:
                case msg.Numbered():
                    self._post(io.CommandCame(message.session, message.seq, message.command))
                case msg.BeatAnswer():
                    self._post(
                        io.BeatAnswered(
                            message.session, message.beat, message.now_s, message.inventory
                        )
                    )
                case msg.Welcome():
                    self._heartbeat_s = message.heartbeat_s
                    self._streamer.rewind()
                    if not self._master_seen:
                        self._master_seen = True
                        self._say(f"welcomed by the master at {self._place.master}")
                    self._post(
                        io.Welcomed(message.asked, message.session, message.lease_s, message.now_s)
                    )
                case msg.MembersChanged():
                    known = self._place.members
                    if known is not None and self._tasks is not None:
                        self._spawn(self._take_members(known, message.members))
                case msg.SayHello():
                    self._post(io.HelloAsked())
                case msg.Refused():
                    self._say(f"the master refused a message: {message.error}")

    async def _take_members(self, known: MembersFile, members: Members) -> None:
        """Keep the list: it is what others are known by while the master is away."""
        try:
            await asyncio.to_thread(known.replace, members)
        except (MeshtrainError, OSError) as error:
            # The heartbeat tells the version that is kept: the master sends it again.
            self._say(f"the list of members is not taken: {error}")

    def _on_bulk(self, batch: list[msg.BulkToNode]) -> None:
        for message in batch:
            match message:
                case msg.StreamStored():
                    failpoints.reach("log.stored")
                    self._streamer.stored(message)
                case msg.Refused():
                    self._say(f"the master refused log bytes: {message.error}")
        self._streamer.ship(lease_now_s())

    # --- loops -----------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self._post(io.BeatDue())
            self._say_if(self._silence.look(lease_now_s(), self._heartbeat_s))
            await asyncio.sleep(
                self._heartbeat_s if self._agent.welcomed else min(HELLO_EVERY_S, self._heartbeat_s)
            )

    def _say_if(self, told: str | None) -> None:
        if told is not None:
            self._say(told)

    def _on_gpus(self, busy: tuple[int, ...]) -> None:
        for gpu in busy:
            self._say(f"GPU {gpu} is left alone: {self._gpu_watch.why(gpu)}")
        self._post(io.GpusChanged(busy))

    async def _ship(self) -> None:
        while True:
            self._streamer.ship(lease_now_s())
            await asyncio.sleep(SHIP_EVERY_S)

    async def _watch_disk(self) -> None:
        had_room = True
        while True:
            free = disk_free_bytes(self._settings.home)
            has_room = free >= DISK_FREE_MIN_BYTES
            if has_room != had_room:
                had_room = has_room
                note = "" if has_room else f"its disk is full: {free / 1e6:.0f} MB free"
                self._say(note or "its disk has room again")
                self._post(io.RoomChanged(has_room, note))
            self._post(io.DiskSeen(free))
            await asyncio.sleep(DISK_EVERY_S)

    async def _ship_the_last(self) -> None:
        until_s = lease_now_s() + STREAMS_LAST_S
        # What is waited for is a file system and a peer: neither tells.
        while self._streamer.waiting and lease_now_s() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(SHIP_EVERY_S)
