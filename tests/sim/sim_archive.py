"""An archive beside the simulated master: it gets the bases that the master holds, and gives them.

It draws from a source of its own, so that a seed's weather is the same with and without it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from meshtrain.core import events as ev
from meshtrain.core.job import BaseState
from meshtrain.core.node import MASTER_NODE_ID

if TYPE_CHECKING:
    from mesh_model import SimMesh

LOOK_S = 1.0


class SimArchive:
    """A share that is away now and then.

    Args:
        failure: the chance that it doesn't give back what it is asked for.
    """

    def __init__(self, mesh: SimMesh, seed: object, *, failure: float = 0.0) -> None:
        self._mesh = mesh
        self._draw = random.Random(f"archive {seed}")
        self._failure = failure
        self.holds: set[str] = set()
        self.asked: list[str] = []
        self.given: list[str] = []
        mesh.after(LOOK_S, self._look)

    def _look(self) -> None:
        """Take what the master holds of bases."""
        mesh = self._mesh
        if mesh.master.is_up:
            for base in mesh.master.state.bases.values():
                artifact_id = base.artifact_id
                if base.state is BaseState.COMMITTED and artifact_id in mesh.master.holds:
                    assert artifact_id is not None
                    if artifact_id not in self.holds:
                        self.holds.add(artifact_id)
                        mesh.master.tell(ev.BasesArchived((artifact_id,)))
        mesh.after(LOOK_S, self._look)

    def restore(self, artifact_id: str, life: int) -> None:
        """Give it back after a while, or don't."""
        assert artifact_id in self.holds, "only what was archived is asked for"
        self.asked.append(artifact_id)
        fails = self._draw.random() < self._failure
        mesh = self._mesh

        def answer() -> None:
            if not mesh.master.is_up or mesh.master.life != life:
                return
            if fails:
                mesh.master.tell(ev.RestoreFailed(artifact_id, "the share is away"))
                return
            self.given.append(artifact_id)
            mesh.master.holds.add(artifact_id)
            mesh.master.tell(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))

        mesh.after(self._draw.uniform(0.1, 5.0), answer)

    def lose_bases(self) -> None:
        """All daemons go down, and no disk but the archive's has any base when they come back."""
        mesh = self._mesh
        mesh.master.crash()
        lost = {artifact_id for known in mesh.promises.committed.values() for artifact_id in known}
        mesh.master.holds -= lost
        for host in mesh.hosts.values():
            host.crash_daemon()
            host.holds -= lost
            mesh.after(self._draw.uniform(0.1, 5.0), host.start_daemon)
        mesh.after(self._draw.uniform(0.1, 5.0), mesh.master.start)
