"""The people of the simulated mesh: they submit, cancel, publish, pin and evict, and ask again."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from sim_sweeps import make_sweep

from meshtrain.core import events as ev
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.spec.jobs import InputData, SweepSpec
from meshtrain.spec.lineage import Parent

if TYPE_CHECKING:
    from mesh_model import SimMesh

AGAIN_S = 1.0
"""After which a client asks again."""


class SimPeople:
    """Who use the mesh."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        self.go_on = True
        """Whether they submit what they have waited with."""

    def submit(self, sweep: SweepSpec) -> None:
        """Submit until it is acknowledged, as a client does."""
        self._mesh.promises.note_submitted(sweep)
        request_id = f"submit-{sweep.sweep_id}"
        self._ask(request_id, ev.SweepSubmitted(request_id, sweep))

    def cancel(self, sweep_id: str) -> None:
        """Cancel a sweep, once; the request is empty where the master doesn't know of it."""
        master = self._mesh.master
        known = (sweep_id,) if master.is_up and sweep_id in master.state.sweeps else ()
        if known:
            self._mesh.promises.note_cancel(sweep_id)
        master.tell(ev.CancelRequested(f"cancel-{sweep_id}", sweep_ids=known))

    def publish(self, data: InputData) -> None:
        """Give a data set that the master holds a name, until it is acknowledged."""
        self._mesh.master.holds.add(data.digest)
        name = data.source.partition("@")[0]
        request_id = f"publish-{data.source}"
        self._ask(
            request_id,
            ev.ArtifactHeld(MASTER_NODE_ID, (data.digest,)),
            ev.InputPublished(request_id, name, data.digest, data.size_bytes, 1),
        )

    def _ask(self, request_id: str, *events: ev.Event) -> None:
        """Tell the master, and again until it has answered."""
        master = self._mesh.master

        def attempt() -> None:
            if request_id not in master.replies:
                for event in events:
                    master.tell(event)
                self._mesh.after(AGAIN_S, attempt)

        attempt()

    def continue_a_base(self, name: str, draw: random.Random) -> None:
        """Submit a sweep whose base continues from a model that is there, once there is one."""
        if not self.go_on:
            return
        mesh = self._mesh
        models = []
        if mesh.master.is_up:
            state = mesh.master.state
            models = [b for b in state.bases.values() if state.is_held(b.artifact_id)]
        if not models:
            mesh.after(5.0, partial(self.continue_a_base, name, draw))
            return
        base = draw.choice(models)
        assert base.artifact_id is not None
        parent = Parent(base.recipe_hash, base.artifact_id)
        sweep = make_sweep(name, jobs=2, recipes=("child",), parent=parent, groups=2)
        mesh.promises.parents[sweep.bases[0].recipe_hash] = base.artifact_id
        self.submit(sweep)
        if draw.random() < 0.5:
            # From then on its recipe has another model.
            mesh.master.tell(ev.RebuildRequested("rebuild", base.recipe_hash))

    def meddle_with_bases(self) -> None:
        """Somebody pins, unpins, evicts or warms a base, and again after a while."""
        mesh = self._mesh
        draw = mesh.random
        if mesh.master.is_up and mesh.master.state.bases:
            recipe_hash = draw.choice(sorted(mesh.master.state.bases))
            name = draw.choice(["", *mesh.hosts])
            events: list[ev.Event] = [
                ev.PinRequested("pin", recipe_hash, name),
                ev.PinRequested("unpin", recipe_hash, name, pinned=False),
                ev.EvictRequested("evict", recipe_hash, name),
                ev.EvictRequested("evict", recipe_hash, draw.choice(sorted(mesh.hosts))),
                ev.WarmRequested("warm", recipe_hash, draw.randint(1, len(mesh.hosts))),
            ]
            mesh.master.tell(draw.choice(events))
        mesh.after(draw.uniform(0.5, 10), self.meddle_with_bases)
