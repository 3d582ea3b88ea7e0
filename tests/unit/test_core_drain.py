"""A drain with a time is kept by the store: a master that starts meanwhile goes on with it."""

from __future__ import annotations

import pytest
from scheduler_mesh import Mesh

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev

WITHIN_S = 10.0


@pytest.fixture
def mesh() -> Mesh:
    """A node that is to be empty ten seconds from now, and has a job."""
    mesh = Mesh()
    mesh.tick()
    mesh.hello()
    mesh.submit()
    mesh.place()
    mesh.do(ev.DrainRequested("d", "n1", True, WITHIN_S))
    return mesh


def preempted(effects: list[fx.Effect]) -> bool:
    return any(
        isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.PreemptAttempt)
        for effect in effects
    )


def back(mesh: Mesh, session: str = "life/1") -> list[fx.Effect]:
    """The node comes back with what it runs."""
    runs = [ev.LiveAttempt(a, mesh.attempt(a).epoch, True) for a in mesh.state.live]
    return mesh.hello(session=session, attempts=runs)


def tick(mesh: Mesh, after_s: float) -> list[fx.Effect]:
    mesh.now_s += after_s
    return mesh.do(ev.Tick(wall_s=1e9 + mesh.now_s))


def test_p1_a_drain_is_due_when_it_was_due_before_the_master_started_anew(mesh: Mesh) -> None:
    tick(mesh, WITHIN_S / 2)
    mesh.start()
    tick(mesh, 0.5)
    back(mesh)
    assert not preempted(tick(mesh, WITHIN_S / 2 - 1.0))
    assert preempted(tick(mesh, 1.0))


def test_p1_a_drain_that_came_due_while_no_master_was_there_is_due_at_once(mesh: Mesh) -> None:
    mesh.now_s += WITHIN_S * 2
    mesh.start()
    tick(mesh, 0.5)
    assert preempted(back(mesh))


def test_a_drain_without_a_time_has_none_after_a_start_either(mesh: Mesh) -> None:
    mesh.do(ev.DrainRequested("e", "n1", True))
    mesh.start()
    tick(mesh, WITHIN_S * 2)
    assert mesh.state.nodes == {} and "n1" in mesh.state.drained
    assert not preempted(back(mesh))


def test_a_node_that_is_in_use_again_is_so_after_a_start_too(mesh: Mesh) -> None:
    mesh.do(ev.DrainRequested("e", "n1", False))
    mesh.start()
    tick(mesh, WITHIN_S * 2)
    back(mesh)
    assert not mesh.state.nodes["n1"].drained
    assert not mesh.state.drains_due and not mesh.state.drain_at_s
