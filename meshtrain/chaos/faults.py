"""What is done to the mesh: drawn from a seed, one thing at a time for each target."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from typing import Any

from meshtrain.chaos.link import Link, Way
from meshtrain.chaos.mesh import MASTER, SHIM_NAME, SPAWNER_NAME, Mesh, send_signal

SHORT_S = (0.1, 3.0)
LONG_SHARE = 0.12
"""This share of faults outlasts a lease."""
DOWN_S = (0.0, 2.0)


class Victim(StrEnum):
    """What is hurt."""

    MASTER = "master"
    WORKER = "worker"
    SHIM = "shim"
    SPAWNER = "spawner"
    LINK = "link"


WEIGHTS: dict[Victim, float] = {
    Victim.MASTER: 2,
    Victim.WORKER: 4,
    Victim.SHIM: 2,
    Victim.SPAWNER: 1,
    Victim.LINK: 5,
}
PROCESS_DEEDS = ("killed", "stopped", "restarted")
SMALL_PROCESS_DEEDS = ("killed", "stopped")
LINK_DEEDS: dict[str, Callable[[Link, random.Random], object]] = {
    "cut": lambda link, draw: link.cut(),
    "cut to the master": lambda link, draw: link.cut(Way.OUT),
    "cut from the master": lambda link, draw: link.cut(Way.BACK),
    "reset": lambda link, draw: link.reset(),
    "delayed": lambda link, draw: link.delay(draw.uniform(0.01, 0.3), draw.uniform(0.0, 0.3)),
    "lossy": lambda link, draw: link.lose(draw.uniform(0.05, 0.4), 0.2),
    "slow": lambda link, draw: link.limit(draw.uniform(5_000, 500_000)),
}


class Faults:
    """Hurts a mesh until it is told to end, then makes it whole.

    Args:
        seed: what is drawn; which process of several is hit also depends on what runs.
        victims: what may be hurt.
        every_s: mean time between two faults.
        mild: whether none may outlast a lease.
        say: told what is done, for the log of the run.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        seed: int,
        victims: Sequence[Victim],
        every_s: float,
        mild: bool,
        say: Callable[[str], None],
    ) -> None:
        self._mesh = mesh
        self._random = random.Random(f"faults {seed}")
        self._victims = tuple(victims)
        self._every_s = every_s
        self._long_share = 0.0 if mild else LONG_SHARE
        self._say = say
        self._busy: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        #: those of them that only wait until they pass
        self._passing: set[asyncio.Task[None]] = set()
        self._stopped_pids: set[int] = set()
        #: (victim, deed) → how often
        self.done: Counter[tuple[str, str]] = Counter()
        self.last = ""
        #: daemons that didn't end well when they were asked to
        self.bad_ends: list[str] = []

    @property
    def count(self) -> int:
        return self.done.total()

    async def run(self) -> None:
        """Hurt for ever."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._every_s))
            self.strike()

    def strike(self) -> None:
        """Begin one fault; it passes by itself."""
        weights = [WEIGHTS[victim] for victim in self._victims]
        victim = self._random.choices(self._victims, weights)[0]
        match victim:
            case Victim.MASTER:
                self._begin_daemon(victim, MASTER)
            case Victim.WORKER:
                self._begin_daemon(victim, self._random.choice(self._mesh.nodes))
            case Victim.SHIM:
                self._begin_small(victim, SHIM_NAME)
            case Victim.SPAWNER:
                self._begin_small(victim, SPAWNER_NAME)
            case Victim.LINK:
                self._begin_link(self._random.choice(self._mesh.nodes))

    async def heal(self) -> None:
        """Let what is stopped go on, and wait until all that was taken down is up again."""
        for links in self._mesh.links.values():
            for link in links:
                link.heal()
        self._continue_all()
        # What is stopped or spoilt is whole now; who is down is to come up again.
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._continue_all()
        for name, daemon in self._mesh.daemons.items():
            if daemon.process is not None and not daemon.runs:
                self._mesh.launch(name)
            daemon.down = False

    def _continue_all(self) -> None:
        for pid in self._stopped_pids:
            send_signal(pid, signal.SIGCONT)
        self._stopped_pids.clear()

    # --- one fault ---------------------------------------------------------------------

    def _begin_daemon(self, victim: Victim, name: str) -> None:
        deed = self._random.choice(PROCESS_DEEDS)
        down_s = self._random.uniform(*DOWN_S)
        stop_s = self._duration_s()
        if name in self._busy or not self._mesh.daemons[name].runs:
            return
        if deed == "stopped":
            self._begin(victim, name, deed, self._stop(self._mesh.daemons[name].pid, stop_s))
        elif deed == "killed":
            self._begin(victim, name, deed, self._kill(name, down_s))
        else:
            self._begin(victim, name, deed, self._restart(name, down_s))

    def _begin_small(self, victim: Victim, process_name: str) -> None:
        deed = self._random.choice(SMALL_PROCESS_DEEDS)
        stop_s = self._duration_s()
        place = self._random.random()
        found = sorted(p.pid for p in self._mesh.processes() if p.name == process_name)
        found = [pid for pid in found if f"process {pid}" not in self._busy]
        if not found:
            return
        pid = found[int(place * len(found))]
        if deed == "stopped":
            self._begin(victim, f"process {pid}", deed, self._stop(pid, stop_s))
        else:
            self._count(victim, f"process {pid}", deed)
            send_signal(pid, signal.SIGKILL)

    def _begin_link(self, node: str) -> None:
        deed = self._random.choice(list(LINK_DEEDS))
        lasts_s = self._duration_s()
        if f"link of {node}" not in self._busy:
            self._begin(Victim.LINK, f"link of {node}", deed, self._spoil(node, deed, lasts_s))

    def _duration_s(self) -> float:
        if self._random.random() < self._long_share:
            return self._mesh.lease_s * self._random.uniform(1.2, 2.0)
        return self._random.uniform(*SHORT_S)

    def _begin(
        self, victim: Victim, name: str, deed: str, fault: Coroutine[Any, Any, None]
    ) -> None:
        self._count(victim, name, deed)
        self._busy.add(name)
        task = asyncio.ensure_future(fault)
        self._running.add(task)
        if deed not in ("killed", "restarted"):
            self._passing.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, name))

    def _ended(self, task: asyncio.Task[None], name: str) -> None:
        self._running.discard(task)
        self._passing.discard(task)
        self._busy.discard(name)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bad_ends.append(f"a fault of {name} went wrong itself: {error!r}")

    def _count(self, victim: Victim, name: str, deed: str) -> None:
        self.done[victim, deed] += 1
        self.last = f"{name} {deed}"
        self._say(self.last)

    async def _stop(self, pid: int, lasts_s: float) -> None:
        self._stopped_pids.add(pid)
        send_signal(pid, signal.SIGSTOP)
        await asyncio.sleep(lasts_s)
        send_signal(pid, signal.SIGCONT)
        self._stopped_pids.discard(pid)

    async def _kill(self, name: str, down_s: float) -> None:
        self._mesh.kill(name)
        await asyncio.sleep(down_s)
        self._mesh.launch(name)

    async def _restart(self, name: str, down_s: float) -> None:
        ended_well = await self._mesh.terminate(name)
        if not ended_well:
            daemon = self._mesh.daemons[name]
            code = daemon.process.returncode if daemon.process is not None else None
            self.bad_ends.append(
                f"{name} was asked to end and ended with {code}; its log {daemon.log}:\n"
                f"{daemon.tail()}"
            )
        await asyncio.sleep(down_s)
        self._mesh.launch(name)

    async def _spoil(self, node: str, deed: str, lasts_s: float) -> None:
        links = self._mesh.links[node]
        try:
            for link in links:
                LINK_DEEDS[deed](link, self._random)
            await asyncio.sleep(lasts_s)
        finally:
            for link in links:
                link.heal()
