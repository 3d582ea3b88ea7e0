"""A swarm on a virtual clock: how long one artifact takes to reach all nodes, and who sends it."""

from __future__ import annotations

import math
from functools import cache

import pytest
from swarm_sim_mesh import SwarmSim
from swarm_sim_setting import Outcome, Setting

CHUNKS = 64
"""In the cases with faults."""


@cache
def run(nodes: int, *, exact: bool = False) -> Outcome:
    return SwarmSim(Setting(nodes, exact=exact)).run()


def healthy_last(outcome: Outcome, *odd: int) -> float:
    """When the last of the others was done, in bounds."""
    assert not outcome.left, f"{outcome.left} never had all of it"
    return outcome.multiples(node for node in outcome.done_s if node not in odd)[-1]


@pytest.mark.parametrize("nodes", [1, 2, 3, 8, 60])
def test_every_node_ends_with_all_chunks(nodes: int) -> None:
    outcome = run(nodes)
    assert not outcome.left
    assert sorted(outcome.done_s) == list(range(1, nodes + 1))
    assert outcome.came_chunks == nodes * outcome.chunks


@pytest.mark.parametrize(("nodes", "bound"), [(2, 1.10), (4, 1.12), (8, 1.18)])
@pytest.mark.parametrize("exact", [False, True], ids=["quanta", "exact"])
def test_few_nodes_have_it_almost_as_soon_as_one_link_can_carry_it(
    nodes: int, bound: float, exact: bool
) -> None:
    assert run(nodes, exact=exact).multiples()[-1] <= bound


def test_the_time_grows_no_faster_than_the_logarithm_of_the_nodes() -> None:
    last = {nodes: run(nodes).multiples()[-1] for nodes in (4, 16, 60)}
    assert 1.0 < last[4] < last[16] < last[60]
    for few, many in ((4, 16), (16, 60)):
        assert last[many] / last[few] <= math.log(many) / math.log(few)


@pytest.mark.parametrize("nodes", [2, 8, 60])
def test_the_first_holder_sends_hardly_more_than_the_file(nodes: int) -> None:
    assert 1.0 <= run(nodes).seeder_files <= 1.1


def test_hardly_a_chunk_comes_twice() -> None:
    outcome = run(60)
    assert outcome.wasted_chunks <= outcome.came_chunks / 50


def test_the_same_seed_gives_the_same_times() -> None:
    first, second = (SwarmSim(Setting(6, CHUNKS, seed=3)).run() for _ in range(2))
    assert first.done_s == second.done_s
    assert first.done_s != SwarmSim(Setting(6, CHUNKS, seed=4)).run().done_s


@pytest.mark.parametrize("seed", range(3))
def test_P12_a_first_holder_that_dies_halfway_delays_and_loses_nothing(seed: int) -> None:
    outcome = SwarmSim(Setting(5, CHUNKS, seed=seed, master=True, deaths=((0, 0.5),))).run()
    assert healthy_last(outcome) <= 2.0
    assert outcome.sent_chunks[6] >= CHUNKS // 4, "the master sends the rest"


@pytest.mark.parametrize("seed", range(3))
def test_P12_nodes_that_leave_take_no_chunk_with_them(seed: int) -> None:
    outcome = SwarmSim(Setting(8, CHUNKS, seed=seed, deaths=((3, 0.3), (5, 0.8)))).run()
    assert set(outcome.done_s) == {1, 2, 4, 6, 7, 8}
    assert healthy_last(outcome) <= 3.0


@pytest.mark.parametrize("seed", range(3))
def test_P12_a_slow_peer_hardly_delays_the_others(seed: int) -> None:
    outcome = SwarmSim(Setting(6, 128, seed=seed, rates=((3, 0.1),))).run()
    assert healthy_last(outcome, 3) <= 1.5
    assert outcome.done_s[3] / outcome.bound_s <= 15.0


@pytest.mark.parametrize(
    "setting",
    [
        # A slow sender's answers came no more once nobody else asked it for anything.
        Setting(6, 8, seed=46, look_every_s=0.1, rates=((5, 0.1), (4, 0.05), (1, 0.2))),
        Setting(12, 16, seed=28, look_every_s=0.02, rates=((9, 0.05),)),
        # A chunk came twice between two looks, and its connection was closed after it.
        Setting(8, 8, seed=2, look_every_s=0.3, rates=((6, 0.3), (1, 0.05))),
    ],
    ids=["three slow", "one slow", "twice"],
)
def test_P12_slow_peers_get_all_of_it_too(setting: Setting) -> None:
    outcome = SwarmSim(setting).run()
    assert not outcome.left
    slowest = min(rate for _, rate in setting.rates)
    assert outcome.multiples()[-1] <= 2.0 / slowest


@pytest.mark.parametrize("seed", range(3))
def test_P12_a_peer_that_corrupts_chunks_is_done_without(seed: int) -> None:
    outcome = SwarmSim(Setting(6, CHUNKS, seed=seed, corrupt=frozenset({3}))).run()
    assert healthy_last(outcome) <= 4.0
