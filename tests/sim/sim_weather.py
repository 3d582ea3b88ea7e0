"""How badly the network, the hosts and their disks behave."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim_network import MASTER

from meshtrain.core import events as ev
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import Failure, FailureClass

if TYPE_CHECKING:
    from mesh_model import SimMesh

SOME_CLASSES = (
    FailureClass.OUT_OF_MEMORY,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.BAD_GPU,
    FailureClass.DISK,
    FailureClass.NETWORK,
    FailureClass.HOST_LOST,
    FailureClass.TIMEOUT,
)


@dataclass
class Weather:
    """Chances and mean times; nothing happens by default."""

    loss: float = 0.0
    doubling: float = 0.0
    delay_max_s: float = 0.05
    strike_every_s: float | None = None
    """Mean time between strikes: crashes, cuts, pauses, full disks, jumps of the clock."""
    strikes: tuple[str, ...] = (
        "daemon",
        "daemon",
        "host",
        "master",
        "cut",
        "one way",
        "between",
        "pause daemon",
        "pause master",
        "suspend master",
        "full disk",
        "full master",
        "clock",
        "gpu",
        "drain",
    )
    crash_point: float = 0.0
    """Chance of a crash between any two effects of the master or a daemon."""
    job_failure: float = 0.0
    rename_failure: float = 0.0
    """Chance that the disk refuses to let go of an artifact."""
    failures: tuple[FailureClass, ...] = field(default=SOME_CLASSES)

    def failure_of(self, assignment: AssignAttempt, draw: random.Random) -> Failure | None:
        if draw.random() >= self.job_failure:
            return None
        failure_class = draw.choice(self.failures)
        if failure_class is FailureClass.BAD_GPU and not assignment.gpus:
            failure_class = FailureClass.OUT_OF_MEMORY
        return Failure(failure_class, "simulated")

    def strike(self, mesh: SimMesh) -> None:
        """Called each half second: perhaps something happens."""
        draw = mesh.random
        if self.strike_every_s is None or draw.random() >= 0.5 / self.strike_every_s:
            return
        host = mesh.hosts[draw.choice(list(mesh.hosts))]
        match draw.choice(self.strikes):
            case "daemon":
                host.crash_daemon()
                mesh.after(draw.uniform(0.1, 25), host.start_daemon)
            case "host":
                host.crash()
                mesh.after(draw.uniform(5, 30), host.start_daemon)
            case "master":
                mesh.master.crash()
                mesh.after(draw.uniform(0.1, 15), mesh.master.start)
            case "cut":
                mesh.network.cut_off(
                    [(host.name, MASTER), (MASTER, host.name)], draw.uniform(1, 30)
                )
            case "one way":
                direction = draw.choice([(host.name, MASTER), (MASTER, host.name)])
                mesh.network.cut_off([direction], draw.uniform(1, 30))
            case "between":
                other = draw.choice(list(mesh.hosts))
                mesh.network.cut_off([(host.name, other), (other, host.name)], draw.uniform(1, 30))
            case "pause daemon":
                host.pause_daemon(draw.uniform(0.5, 30))
            case "pause master":
                mesh.master.pause(draw.uniform(0.5, 30))
            case "suspend master":
                mesh.master.pause(draw.uniform(0.5, 30), deaf=True)
            case "full disk":
                host.fill_disk(full=True)
                mesh.after(draw.uniform(1, 20), lambda: host.fill_disk(full=False))
            case "full master":
                mesh.master.fill_disk(draw.uniform(1, 20))
            case "clock":
                mesh.wall_ahead_s += draw.uniform(-1e5, 1e5)
            case "gpu":
                count = len(host.spec.gpus)
                in_use = {g for p in host.running for g in p.assignment.gpus}
                gpus = tuple(g for g in range(count) if g not in in_use and draw.random() < 0.5)
                host.use_gpus(gpus)
                mesh.after(draw.uniform(1, 20), lambda: host.use_gpus(()))
            case "drain":
                within_s = draw.choice([None, 0.0, 3.0])
                mesh.master.tell(ev.DrainRequested("drain", host.name, True, within_s))
                mesh.after(
                    draw.uniform(5, 20),
                    lambda: mesh.master.tell(ev.DrainRequested("undrain", host.name, False)),
                )
