"""Of how many holders a node is told, and of which."""

from __future__ import annotations

from collections import Counter

from test_core_scheduler_cases import MODEL, Mesh

from meshtrain.core.state import SOURCES_MAX

NODES = 150


def test_of_many_holders_each_node_is_told_of_others() -> None:
    mesh = Mesh()
    names = [f"n{n}" for n in range(NODES)]
    for name in names:
        mesh.hello(name, holds=(MODEL,))
    told: Counter[str] = Counter()
    for n in range(NODES):
        mesh.hello(f"new-{n}")
        sources = [s.node_id for s in mesh.state.sources(MODEL, f"new-{n}")]
        assert len(sources) == len(set(sources)) == SOURCES_MAX
        told.update(sources)
    assert set(told) == set(names), "none is left out"
    assert max(told.values()) < 2 * SOURCES_MAX


def test_of_few_holders_it_is_told_of_all() -> None:
    mesh = Mesh()
    for n in range(5):
        mesh.hello(f"n{n}", holds=(MODEL,))
    mesh.hello("new")
    assert [s.node_id for s in mesh.state.sources(MODEL, "new")] == [f"n{n}" for n in range(5)]
