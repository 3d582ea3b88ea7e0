"""Of how many holders a node is told, and of which."""

from __future__ import annotations

from collections import Counter

from test_core_scheduler_cases import MODEL, Mesh

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.changes import Note
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.told_sources import SOURCES_MAX, told_sources
from meshtrain.ids import short

NODES = 150


def test_of_many_holders_each_node_is_told_of_others() -> None:
    mesh = Mesh()
    names = [f"n{n}" for n in range(NODES)]
    for name in names:
        mesh.hello(name, holds=(MODEL,))
    told: Counter[str] = Counter()
    for n in range(NODES):
        mesh.hello(f"new-{n}")
        sources = [s.node_id for s in told_sources(mesh.state, MODEL, f"new-{n}")]
        assert len(sources) == len(set(sources)) == SOURCES_MAX
        told.update(sources)
    assert set(told) == set(names), "none is left out"
    assert max(told.values()) < 2 * SOURCES_MAX


def test_of_few_holders_it_is_told_of_all() -> None:
    mesh = Mesh()
    for n in range(5):
        mesh.hello(f"n{n}", holds=(MODEL,))
    mesh.hello("new")
    assert [s.node_id for s in told_sources(mesh.state, MODEL, "new")] == [
        f"n{n}" for n in range(5)
    ]


def test_p12_who_sent_corrupt_bytes_is_asked_by_nobody_while_there_is_another() -> None:
    mesh = Mesh()
    for name in ("bad", "good"):
        mesh.hello(name, holds=(MODEL,))
    mesh.hello("first")
    mesh.hello("next")
    node = mesh.state.nodes["first"]
    came = (InventoryChange(MODEL, Holding.HELD, 1000),)
    told = ("bad", "never heard of")
    effects = mesh.do(
        ev.InventoryTold("first", node.session, node.inventory + 1, came, banned=told)
    )
    assert {s.node_id for s in told_sources(mesh.state, MODEL, "next")} == {"first", "good"}
    told_people = [effect for effect in effects if isinstance(effect, fx.Publish)]
    changes = [*mesh.state.notes, *(change for one in told_people for change in one.changes)]
    notes = [change.text for change in changes if isinstance(change, Note)]
    assert [text for text in notes if "corrupt" in text] == [
        f"bad sent first corrupt bytes of artifact {short(MODEL)}: "
        "see to the disk and the memory of bad"
    ]
    # Where nobody else has it, it is better than nothing.
    for name in ("good", "first"):
        mesh.do(ev.NodeLeft(name, mesh.state.nodes[name].session))
    assert [s.node_id for s in told_sources(mesh.state, MODEL, "next")] == ["bad"]
    # A new daemon gets a new chance.
    mesh.hello("good", "life/1", holds=(MODEL,))
    mesh.hello("bad", "life/1", holds=(MODEL,))
    assert {s.node_id for s in told_sources(mesh.state, MODEL, "next")} == {"bad", "good"}
