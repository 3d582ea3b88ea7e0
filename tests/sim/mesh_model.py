"""A mesh on a virtual clock: the production scheduler and agents in bad weather.

Messages between them are lost, doubled, reordered, and cut off in one direction
or both; daemons and the master crash between any two effects, are stopped for a
while, find their disks full, and come back with what they had on disk; hosts
lose all that runs; wall clocks jump. All of it is drawn from one seed, so that
a failure replays exactly.

| part | what it is |
|---|---|
| `sim_master`, `sim_host` | the two daemons: they carry out what the production code decides |
| `sim_network` | what lies between them |
| `sim_work`, `sim_artifacts` | the processes of the jobs, and what lies on the disks |
| `sim_people` | who submit, publish, pin and evict |
| `sim_weather` | what goes wrong |
| `sim_archive` | where bases go, and lost ones come from |
| `sim_promises` | what must hold all the while |
"""

from __future__ import annotations

import random

from sim_archive import SimArchive
from sim_artifacts import SimArtifacts
from sim_host import Host
from sim_master import SimMaster
from sim_network import SimNetwork
from sim_people import SimPeople
from sim_promises import Promises
from sim_time import VirtualTime
from sim_weather import Weather
from sim_work import SimWork

from meshtrain.core import events as ev
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.node import Gpu, NodeSpec

TICK_S = 0.5


class SimMesh(VirtualTime):
    """A master and its nodes, and all that surrounds them.

    Args:
        seed: what is drawn from it replays exactly.
        hosts: how many nodes there are.
        slots: jobs that each runs at a time on its CPUs.
        gpus: of each node, each a slot more.
    """

    def __init__(self, seed: int, *, hosts: int = 3, slots: int = 2, gpus: int = 0) -> None:
        super().__init__(now_s=1000.0)
        self.random = random.Random(seed)
        self.wall_ahead_s = 1e9
        self.weather = Weather()
        self.network = SimNetwork(self)
        self.artifacts = SimArtifacts(self)
        self.work = SimWork(self)
        self.people = SimPeople(self)
        self.promises = Promises(self)
        self.master = SimMaster(self)
        #: None where there is no archive
        self.archive: SimArchive | None = None
        self.hosts: dict[str, Host] = {}
        for number in range(hosts):
            spec = NodeSpec(
                node_id=f"node-{number}",
                http_url=f"http://node-{number}",
                cpu_slots=slots,
                gpus=tuple(Gpu(gpu, "sim", 1 << 34) for gpu in range(gpus)),
            )
            clock_ahead_s = self.random.uniform(-500, 500)
            self.hosts[spec.node_id] = Host(self, spec, slots + gpus, clock_ahead_s)
        self.master.start()
        for host in self.hosts.values():
            host.start_daemon()
        self.after(1.0, self._tick)

    @property
    def wall_s(self) -> float:
        """What the master's wall clock shows."""
        return self.now_s + self.wall_ahead_s

    def _tick(self) -> None:
        if self.master.is_up:
            self.master.tell(ev.Tick(wall_s=self.wall_s))
        self.weather.strike(self)
        self.after(TICK_S, self._tick)

    def crash_strikes(self) -> bool:
        """Whether a process crashes at this point."""
        crash_point = self.weather.crash_point
        return bool(crash_point) and self.random.random() < crash_point

    def heal(self) -> None:
        """Good weather from now on; whatever is down, cut, stopped or full comes back."""
        self.weather = Weather()
        self.network.heal()
        self.master.heal()
        for name, host in self.hosts.items():
            host.heal()
            self.master.tell(ev.DrainRequested(f"undrain-{name}", name, False))
            self.master.tell(ev.ReleaseRequested(f"release-{name}", name))

    def jobs(self, kind: JobKind = JobKind.EXPERIMENT) -> list[JobState]:
        """The states of the jobs that the master knows of."""
        if not self.master.is_up:
            return []
        return [job.state for job in self.master.state.jobs.values() if job.kind is kind]

    def all_ended(self) -> bool:
        """Whether there are jobs, and all of them have ended."""
        states = self.jobs() + self.jobs(JobKind.BASE)
        return bool(states) and all(state.is_terminal for state in states)
