"""GPUs that fail: counted, and taken out of use until somebody has looked at them."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrain.core import effects as fx
from meshtrain.core.events import ReleaseRequested
from meshtrain.core.node import GpuFaults, Node
from meshtrain.core.state import MeshState

FAULTS_MAX = 3
"""Faults of one GPU, with no job that ended well on it in between, that take it out of use."""


def on_fault(state: MeshState, node_id: str, gpus: Iterable[int]) -> None:
    """A job failed by the fault of one of its GPUs."""
    for gpu in gpus:
        known = state.gpu_faults.setdefault(node_id, {}).get(gpu)
        faults = (known.faults if known is not None else 0) + 1
        out_of_use = faults >= FAULTS_MAX or (known is not None and known.out_of_use)
        _keep(state, GpuFaults(node_id, gpu, faults, out_of_use))
        if out_of_use and not (known is not None and known.out_of_use):
            state.note(
                f"GPU {gpu} of {node_id} is out of use after {faults} faults; "
                f"when it is well again: meshtrain nodes release {node_id}"
            )


def on_success(state: MeshState, node_id: str, gpus: Iterable[int]) -> None:
    """A job ended well on these GPUs: what they did before is forgiven."""
    known = state.gpu_faults.get(node_id)
    if not known:
        return
    for gpu in gpus:
        if gpu in known and not known[gpu].out_of_use:
            _keep(state, GpuFaults(node_id, gpu, 0))


def on_release(state: MeshState, event: ReleaseRequested) -> None:
    """Somebody says that a node's GPUs are well again."""
    out = [f for f in state.gpu_faults.get(event.node_id, {}).values() if f.out_of_use]
    if not out:
        error = f"no GPU of {event.node_id} is out of use"
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    for faults in out:
        _keep(state, GpuFaults(faults.node_id, faults.gpu, 0))
    state.note(f"{event.node_id}: GPUs in use again: {', '.join(str(f.gpu) for f in out)}")
    state.out.append(fx.Reply(event.request_id, done=(event.node_id,)))


def show_to(state: MeshState, node: Node) -> None:
    """Tell a node's record what is remembered of its GPUs."""
    known = state.gpu_faults.get(node.node_id, {})
    node.gpus_out = {gpu for gpu, faults in known.items() if faults.out_of_use}
    node.gpu_faults = {gpu: faults.faults for gpu, faults in known.items() if faults.faults}


def _keep(state: MeshState, faults: GpuFaults) -> None:
    known = state.gpu_faults.setdefault(faults.node_id, {})
    if faults.faults or faults.out_of_use:
        known[faults.gpu] = faults
    else:
        known.pop(faults.gpu, None)
    state.out.append(fx.SaveGpuFaults(faults.node_id, faults.gpu, faults.faults, faults.out_of_use))
    node = state.nodes.get(faults.node_id)
    if node is not None:
        show_to(state, node)
        state.touched_nodes[node.node_id] = None
