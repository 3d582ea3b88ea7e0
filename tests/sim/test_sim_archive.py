"""Bases that are lost on all hosts come back from the archive, under any weather."""

from __future__ import annotations

import random
from functools import partial

import pytest
from mesh_model import SimMesh
from sim_archive import SimArchive
from sim_sweeps import make_sweep
from sim_weather import Weather

from meshtrain.core.job import JobState


def lose_all(mesh: SimMesh) -> None:
    """As in a mesh whose master was restored from a backup, and whose nodes are new."""
    mesh.master.holds.clear()
    mesh.master.crash()
    for host in mesh.hosts.values():
        host.holds.clear()
        host.crash_daemon()
    mesh.heal()


@pytest.mark.parametrize(("failure", "generations"), [(0.0, {1}), (1.0, {1, 2})])
def test_P3_a_lost_base_comes_back_or_is_trained_anew(
    failure: float, generations: set[int]
) -> None:
    mesh = SimMesh(8, hosts=2, slots=1)
    mesh.archive = SimArchive(mesh, 8, failure=failure)
    mesh.people.submit(make_sweep("s", jobs=1))
    mesh.run_until(mesh.all_ended)
    mesh.run_for(5.0)
    lose_all(mesh)
    mesh.people.submit(make_sweep("t", jobs=2))
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 3
    assert {generation for _, generation in mesh.promises.committed} == generations
    assert len(mesh.archive.asked) == 1
    assert len(mesh.archive.given) == (1 if generations == {1} else 0)


def run_seed(seed: int) -> SimArchive:
    draw = random.Random(f"lost bases {seed}")
    mesh = SimMesh(seed, hosts=draw.randint(1, 4), slots=draw.randint(1, 3))
    mesh.weather = Weather(
        loss=draw.choice([0, 0.1]),
        doubling=draw.choice([0, 0.2]),
        delay_max_s=draw.choice([0.01, 1.0]),
        strike_every_s=draw.choice([None, 10.0]),
        crash_point=draw.choice([0, 0, 0.005]),
    )
    archive = mesh.archive = SimArchive(mesh, seed, failure=draw.choice([0.0, 0.3, 1.0]))
    for number in range(3):
        sweep = make_sweep(f"s{number}", jobs=draw.randint(1, 5), recipes=("r1", "r2"))
        mesh.after(draw.uniform(0, 40), partial(mesh.people.submit, sweep))
    for _ in range(draw.randint(1, 2)):
        mesh.after(draw.uniform(5, 60), archive.lose_bases)
    mesh.run_for(70.0)
    mesh.heal()
    mesh.run_until(lambda: mesh.all_ended() and len(mesh.master.state.sweeps) == 3)
    return archive


def test_P3_P12_bases_are_lost_in_any_weather_and_every_job_ends() -> None:
    archives = [run_seed(seed) for seed in range(60)]
    given = sum(len(archive.given) for archive in archives)
    assert given > 5, "the way that is tried is taken"
    assert sum(len(archive.asked) for archive in archives) > given
