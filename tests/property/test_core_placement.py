"""Placement: never more than a node has, never one GPU twice, and the best place first."""

from __future__ import annotations

from core_records import GIB, idle_node
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.job import Placement
from meshtrain.core.node import Gpu, Node, NodeSpec
from meshtrain.core.placement import choose, fit, gpus_needed, load, needs_of, why_never
from meshtrain.core.refusal import Refusal, text_of
from meshtrain.spec.jobs import CommandWork, Resources, TrainingWork

SPECS = st.builds(
    lambda cpus, sizes, memory, trains: NodeSpec(
        "n",
        "",
        cpu_slots=cpus,
        memory_bytes=memory * GIB,
        gpus=tuple(Gpu(index * 2, "test", size * GIB) for index, size in enumerate(sizes)),
        trains=trains,
    ),
    st.integers(0, 4),
    st.lists(st.sampled_from([8, 16, 24]), max_size=4),
    st.sampled_from([0, 16, 64]),
    st.booleans(),
)
NEEDS = st.builds(
    Resources,
    gpus=st.sampled_from([None, 0, 1, 2]),
    gpu_memory_bytes=st.sampled_from([0, 12 * GIB, 24 * GIB]),
    cpus=st.integers(1, 4),
    memory_bytes=st.sampled_from([0, 8 * GIB, 32 * GIB]),
    trainer=st.booleans(),
)


def node_of(spec: NodeSpec) -> Node:
    node = Node(spec, "s", 0.0)
    node.grant = 1000
    return node


@given(SPECS, st.lists(NEEDS, max_size=12))
def test_a_node_never_gives_more_than_it_has(spec: NodeSpec, wanted: list[Resources]) -> None:
    node = node_of(spec)
    given_out: list[Placement] = []
    for number, needs in enumerate(wanted):
        placement = fit(node, needs)
        if isinstance(placement, Refusal):
            assert text_of(placement)
            continue
        node.occupy(f"a{number}", placement)
        given_out.append(placement)
        sizes = {gpu.index: gpu.memory_bytes for gpu in spec.gpus}
        assert len(placement.gpus) == gpus_needed(spec, needs)
        assert all(sizes[index] >= needs.gpu_memory_bytes for index in placement.gpus)
        assert placement.cpus == (0 if placement.gpus else needs.cpus)
    gpus = [index for placement in given_out for index in placement.gpus]
    assert len(gpus) == len(set(gpus))
    assert sum(placement.cpus for placement in given_out) <= spec.cpu_slots
    if spec.memory_bytes:
        assert sum(placement.memory_bytes for placement in given_out) <= spec.memory_bytes
    assert 0 <= load(node) <= 1


@given(SPECS, NEEDS)
def test_what_could_ever_run_fits_an_idle_node_and_nothing_else_does(
    spec: NodeSpec, needs: Resources
) -> None:
    never = why_never(spec, needs)
    placement = fit(node_of(spec), needs)
    assert (never is None) == isinstance(placement, Placement)
    if never is not None:
        assert placement == never


@given(SPECS, NEEDS, st.lists(NEEDS, max_size=6))
def test_what_was_taken_and_given_back_is_free_again(
    spec: NodeSpec, needs: Resources, others: list[Resources]
) -> None:
    node = node_of(spec)
    before = fit(node, needs)
    held = []
    for number, other in enumerate(others):
        placement = fit(node, other)
        if isinstance(placement, Placement):
            node.occupy(f"a{number}", placement)
            held.append((f"a{number}", placement))
    for attempt_id, placement in held:
        node.release(attempt_id, placement)
        node.release(attempt_id, placement)
    assert fit(node, needs) == before


@given(st.permutations([8, 16, 24, 48]), st.integers(1, 3))
def test_the_smallest_gpus_that_do_are_taken_first(sizes: list[int], count: int) -> None:
    node = idle_node("n", gpu_gib=tuple(sizes))
    needs = Resources(gpus=count, gpu_memory_bytes=12 * GIB)
    placement = fit(node, needs)
    assert isinstance(placement, Placement)
    assert sorted(sizes[index] for index in placement.gpus) == [16, 24, 48][:count]


@given(st.permutations(["a", "b", "c"]), st.integers(0, 2))
def test_a_holder_comes_first_then_who_lacks_least_then_the_idlest(
    names: list[str], taken: int
) -> None:
    nodes = {name: idle_node(name, cpu_slots=4) for name in names}
    nodes["c"].occupy("x", Placement("c", cpus=taken))
    needs = Resources()
    missing = {"a": 10, "b": 5, "c": 0}

    def lacking(node: Node) -> int:
        return missing[node.node_id]

    def chosen() -> str | None:
        placement = choose([nodes[name] for name in names], needs, lacking)
        return None if placement is None else placement.node_id

    assert chosen() == "c"
    nodes["c"].drained = True
    assert chosen() == "b"
    nodes["b"].accepting = False
    assert chosen() == "a"
    nodes["a"].connected = False
    assert chosen() is None
    for node in nodes.values():
        node.drained, node.accepting, node.connected = False, True, True
    missing = dict.fromkeys(missing, 0)
    assert chosen() == ("a" if taken else min(names))
    for node in nodes.values():
        node.grant = 0
    assert chosen() is None


def test_a_training_needs_the_trainer_and_a_command_does_not() -> None:
    bare = NodeSpec("n", "", cpu_slots=1, trains=False)
    training = needs_of(Resources(), TrainingWork({}))
    refusal = why_never(bare, training)
    assert refusal is not None
    assert "install meshtrain[train]" in text_of(refusal)
    assert why_never(bare, needs_of(Resources(), CommandWork("true"))) is None


@given(st.lists(st.integers(0, 2), min_size=2, max_size=5), st.data())
def test_a_gpu_that_failed_lately_is_taken_last_wherever_it_is(
    faults: list[int], data: st.DataObject
) -> None:
    nodes = []
    for number, count in enumerate(faults):
        spec = NodeSpec(f"n{number}", "", cpu_slots=1, gpus=(Gpu(0, "test", 16 * GIB),))
        node = node_of(spec)
        node.gpu_faults = {0: count} if count else {}
        nodes.append(node)
    missing = {node.node_id: data.draw(st.integers(0, 3)) for node in nodes}
    placement = choose(nodes, Resources(gpus=1), lambda node: missing[node.node_id])
    assert placement is not None
    assert faults[int(placement.node_id[1:])] == min(faults)
