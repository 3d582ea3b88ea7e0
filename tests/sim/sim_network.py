"""The simulated network: messages are lost, doubled and late, and hosts are cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh_model import SimMesh

MASTER = "master"
"""The master's name here; all else are names of nodes."""


class SimNetwork:
    """What lies between the master and the nodes, and between the nodes."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        #: directions in which nothing arrives: (from, to)
        self.cut: set[tuple[str, str]] = set()
        #: when the last cut was mended
        self.mended_s = 0.0

    def carry(self, source: str, dest: str, deliver: Callable[[], None]) -> None:
        """Bring a message: not at all, once or twice, after a while."""
        mesh = self._mesh
        if (source, dest) in self.cut or mesh.random.random() < mesh.weather.loss:
            return
        copies = 2 if mesh.random.random() < mesh.weather.doubling else 1
        for _ in range(copies):
            mesh.after(mesh.random.uniform(0.001, mesh.weather.delay_max_s), deliver)

    def joins(self, name: str, other: str) -> bool:
        """Whether two hosts can talk, so that one may fetch from the other."""
        return (name, other) not in self.cut and (other, name) not in self.cut

    def cut_off(self, directions: Sequence[tuple[str, str]], duration_s: float) -> None:
        """Nothing arrives in these directions for a while."""
        self.cut.update(directions)

        def mend() -> None:
            self.cut.difference_update(directions)
            self.mended_s = self._mesh.now_s

        self._mesh.after(duration_s, mend)

    def heal(self) -> None:
        """Mend all cuts."""
        self.cut.clear()
        self.mended_s = self._mesh.now_s
