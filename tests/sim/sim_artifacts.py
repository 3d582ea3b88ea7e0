"""What lies on the disks of the simulated hosts: it is fetched, kept and removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactSource, AssignAttempt
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.ids import digest

if TYPE_CHECKING:
    from mesh_model import SimMesh
    from sim_host import Host

OUTPUT_BYTES = 100
CHECKPOINT_BYTES = 50
CHECKPOINT_WORK_S_MIN = 0.5
"""Work that is worth a checkpoint of its own."""


class SimArtifacts:
    """What each artifact is, and what the daemons do with them when they are asked to."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        #: artifact → its size in bytes
        self.sizes: dict[str, int] = {}
        #: whose outputs are the same bytes, and so one artifact: those of one name
        self.alike: Callable[[AssignAttempt], str] = lambda assignment: assignment.attempt_id
        #: attempt → what it made
        self.outputs: dict[str, str] = {}
        #: checkpoint → whose it is, and the seconds of work that it holds
        self.checkpoints: dict[str, tuple[str, float]] = {}

    def reachable(self, dest: str, artifact_id: str, sources: tuple[ArtifactSource, ...]) -> bool:
        """Whether a host gets an artifact from one of these."""
        mesh = self._mesh
        for source in sources:
            name = source.node_id
            if not mesh.network.joins(name, dest):
                continue
            if name == MASTER_NODE_ID:
                if mesh.master.is_up and artifact_id in mesh.master.holds:
                    return True
                continue
            host = mesh.hosts[name]
            if host.agent is not None and artifact_id in host.holds:
                return True
        return False

    def fetch(self, host: Host, effect: io.FetchArtifact) -> io.AgentEvent:
        """Get an artifact from whoever has it; the event that comes of it."""
        artifact_id = effect.artifact_id
        if host.is_full:
            return io.FetchGaveUp(artifact_id, Failure(FailureClass.DISK, "no room"))
        if self.reachable(host.name, artifact_id, effect.sources):
            host.holds.add(artifact_id)
            size_bytes = self.sizes.get(artifact_id, 0)
            return io.ArtifactFetched(artifact_id, {"node-0": size_bytes << 20}, 1.0, size_bytes)
        return io.FetchGaveUp(artifact_id, Failure(FailureClass.NETWORK, "no source answered"))

    def remove(self, host: Host, effect: io.RemoveArtifact) -> io.AgentEvent:
        """Move an artifact out of the store; the event that comes of it."""
        artifact_id = effect.artifact_id
        if self._mesh.random.random() < self._mesh.weather.rename_failure:
            return io.ArtifactRemoved(artifact_id, "the disk refused")
        self._mesh.promises.check_removable(host, artifact_id)
        host.holds.discard(artifact_id)
        self._mesh.promises.check_removed(host, artifact_id)
        return io.ArtifactRemoved(artifact_id)

    def store_output(self, host: Host, effect: io.StoreOutput) -> io.AgentEvent:
        """Make an artifact of what an attempt left; the event that comes of it."""
        attempt_id = effect.assignment.attempt_id
        process = host.attempts[attempt_id]
        if process.output is None:
            if host.is_full:
                return io.OutputFailed(attempt_id, Failure(FailureClass.DISK, "no room"))
            process.output = digest(self.alike(effect.assignment).encode())
            self.sizes[process.output] = OUTPUT_BYTES
            self.outputs[attempt_id] = process.output
        host.holds.add(process.output)
        return io.OutputStored(attempt_id, process.output, OUTPUT_BYTES)

    def store_checkpoint(self, host: Host, effect: io.StoreCheckpoint) -> io.AgentEvent:
        """Make an artifact of the last checkpoint, if there is a new one; the event of it."""
        attempt_id = effect.assignment.attempt_id
        process = host.attempts.get(attempt_id)
        if process is None or host.is_full:
            return io.CheckpointFailed(attempt_id, Failure(FailureClass.DISK, "no room"))
        done_s = process.work_done_s(self._mesh.now_s)
        if done_s - process.kept_s < CHECKPOINT_WORK_S_MIN:
            return io.CheckpointStored(attempt_id, None)
        process.kept_s = done_s
        artifact_id = digest(f"{attempt_id} after {done_s}".encode())
        host.holds.add(artifact_id)
        self.sizes[artifact_id] = CHECKPOINT_BYTES
        self.checkpoints[artifact_id] = (effect.assignment.job_id, done_s)
        return io.CheckpointStored(attempt_id, artifact_id, CHECKPOINT_BYTES)
