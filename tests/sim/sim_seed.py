"""One seed: a mesh, its weather, and what people ask of it, until all has ended."""

from __future__ import annotations

import random
from functools import partial

import msgspec
from mesh_model import SimMesh
from sim_sweeps import DATA, SHARE, make_sweep, trains_base
from sim_weather import Weather

from meshtrain.core.commands import AssignAttempt
from meshtrain.spec.jobs import InputData

LEFTOVERS_S = 30.0
"""In which what nobody needs any more is gone."""


def run_seed(seed: int) -> SimMesh:
    """Run it to its end; raises an exception where a promise is broken."""
    draw = random.Random(seed)
    # By draws of their own: all else of a seed stays as it was before there were these.
    reading = random.Random(f"inputs of {seed}")
    lineage = random.Random(f"lineage of {seed}")
    likeness = random.Random(f"likeness of {seed}")
    mesh = SimMesh(
        seed, hosts=draw.randint(1, 5), slots=draw.randint(1, 3), gpus=draw.choice([0, 0, 2])
    )
    checkpoint_every_s = _draw_weather(mesh, draw)
    _draw_caches(mesh, draw)
    inputs = _draw_inputs(mesh, reading)
    mesh.artifacts.alike = likeness.choice([_of_attempt, _of_attempt, _of_job, _of_sweep])
    if lineage.random() < 0.4:
        continue_it = partial(mesh.people.continue_a_base, "continued", lineage)
        mesh.after(lineage.uniform(5, 25), continue_it)
    sweeps = draw.randint(1, 3)
    for number in range(sweeps):
        recipes = draw.choice([("r1",), ("r1", "r2"), ("",), ("r1", "")])
        sweep = make_sweep(
            f"s{number}",
            jobs=draw.randint(1, 8),
            recipes=recipes,
            priority=draw.randint(0, 2),
            checkpoint_every_s=checkpoint_every_s,
            inputs=inputs,
            groups=lineage.choice([0, 0, 2]),
        )
        mesh.after(draw.uniform(0, 20), partial(mesh.people.submit, sweep))
    if draw.random() < 0.3:
        mesh.after(draw.uniform(1, 30), partial(mesh.people.cancel, "s0"))
    mesh.run_for(draw.uniform(30, 90))
    mesh.heal()

    def is_over() -> bool:
        expected = sweeps + bool(mesh.promises.parents)
        return mesh.all_ended() and len(mesh.master.state.sweeps) == expected

    mesh.run_until(is_over)
    # A model that comes only now, by a warm copy or a retry, is continued by nobody.
    mesh.people.go_on = False
    mesh.run_for(LEFTOVERS_S)
    until_s = mesh.now_s + LEFTOVERS_S
    while mesh.promises.misplaced() and mesh.now_s < until_s:
        # Something is on its way, since people go on pinning and evicting.
        mesh.step()
    mesh.promises.check_over(inputs)
    return mesh


def _draw_weather(mesh: SimMesh, draw: random.Random) -> float | None:
    """What goes wrong, how long jobs work, and how often they keep a checkpoint."""
    mesh.weather = Weather(
        loss=draw.choice([0, 0.05, 0.3]),
        doubling=draw.choice([0, 0.1, 0.5]),
        delay_max_s=draw.choice([0.01, 0.5, 4.0]),
        strike_every_s=draw.choice([None, 30.0, 8.0]),
        crash_point=draw.choice([0, 0, 0.002, 0.01]),
        job_failure=draw.choice([0, 0, 0.1]),
    )
    checkpoint_every_s = draw.choice([None, 1.0, 5.0])
    if draw.random() < 0.3:
        # Over in no time: such jobs are handed out ahead of free slots.
        mesh.work.duration_s = lambda a: mesh.random.uniform(0.01, 0.3)
    elif checkpoint_every_s is not None:
        mesh.work.duration_s = lambda a: mesh.random.uniform(2, 30)
    if draw.random() < 0.1:
        # Calm, but for a master that stands still now and then: nobody may lose anything by it.
        mesh.weather = Weather(
            strike_every_s=20.0, strikes=("suspend master", "pause master", "full master")
        )
        mesh.work.duration_s = lambda a: mesh.random.uniform(10, 60)
    return checkpoint_every_s


def _draw_caches(mesh: SimMesh, draw: random.Random) -> None:
    """Caches that hold two or three artifacts: things go while others come."""
    if draw.random() >= 0.5:
        return
    for host in mesh.hosts.values():
        host.cache_bytes = draw.choice([0, 150, 250, 350])
    mesh.weather.rename_failure = draw.choice([0, 0, 0.2])
    warm_copies = draw.choice([0, 0, 2])
    mesh.master.config = msgspec.structs.replace(mesh.master.config, warm_copies=warm_copies)
    if draw.random() < 0.5:
        mesh.after(draw.uniform(1, 10), mesh.people.meddle_with_bases)


def _draw_inputs(mesh: SimMesh, draw: random.Random) -> tuple[InputData, ...]:
    """What all jobs read: a data set, a share that is away from some nodes for a while."""
    inputs = tuple(data for data in (DATA, SHARE) if draw.random() < 0.3)
    if DATA in inputs:
        mesh.people.publish(DATA)
    if SHARE in inputs:
        mesh.work.unmounted.update(name for name in mesh.hosts if draw.random() < 0.5)
        mesh.after(draw.uniform(1, 40), mesh.work.unmounted.clear)
    return inputs


def _of_attempt(assignment: AssignAttempt) -> str:
    """Each attempt makes bytes of its own."""
    return assignment.attempt_id


def _of_job(assignment: AssignAttempt) -> str:
    """A job makes the same bytes whenever it runs."""
    return assignment.job_id


def _of_sweep(assignment: AssignAttempt) -> str:
    """All jobs of a sweep make the same bytes."""
    return assignment.job_id if trains_base(assignment) else assignment.name.partition("/")[0]
