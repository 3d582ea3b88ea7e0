"""Small sweeps and nodes for the property tests of the core."""

from __future__ import annotations

from meshtrain.core.node import Gpu, Node, NodeSpec
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, Limits, Resources, SweepSpec
from meshtrain.spec.lineage import Parent

GIB = 1 << 30


def recipe_hash(recipe: str) -> str:
    return digest(recipe.encode())


def node_spec(name: str, cpu_slots: int = 2, gpu_gib: tuple[int, ...] = ()) -> NodeSpec:
    gpus = tuple(Gpu(index, "test", size * GIB) for index, size in enumerate(gpu_gib))
    return NodeSpec(name, f"http://{name}", cpu_slots=cpu_slots, gpus=gpus)


def idle_node(name: str, cpu_slots: int = 2, gpu_gib: tuple[int, ...] = ()) -> Node:
    """A node that takes all that fits."""
    node = Node(node_spec(name, cpu_slots, gpu_gib), f"{name}/0", 0.0)
    node.grant = 1000
    return node


def sweep_of(
    name: str,
    recipes: tuple[str, ...],
    *,
    resources: Resources = Resources(),
    priority: int = 0,
    bases_only: bool = False,
    groups: int = 0,
    parent: Parent | None = None,
) -> SweepSpec:
    """A job for each recipe; the empty one starts from scratch.

    Args:
        groups: of the sweep's affinity; the jobs are dealt out to them in turn.
        parent: what its bases continue from.
    """
    above = "" if parent is None else f" from {parent.artifact_id}"
    hashes = {recipe: recipe_hash(recipe + above) for recipe in recipes if recipe}
    limits = Limits(retries_max=1)
    jobs = tuple(
        JobSpec(
            job_id=f"{name}-{number}",
            name=f"{name}/i={number}",
            cell={"i": number},
            work=CommandWork("true"),
            recipe_hash=hashes.get(recipe),
            resources=resources,
            limits=limits,
            priority=priority,
            affinity=f"group={number % groups}" if groups else "",
        )
        for number, recipe in enumerate(recipes)
    )
    return SweepSpec(
        sweep_id=name,
        name=name,
        jobs=() if bases_only else jobs,
        bases=tuple(
            BaseSpec(key, {"name": recipe}, recipe, CommandWork("train"), resources, limits, parent)
            for recipe, key in hashes.items()
        ),
    )
