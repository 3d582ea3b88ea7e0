"""What of a job's inputs placement must know: artifacts that travel, and shares that don't."""

from __future__ import annotations

from meshtrain.spec.jobs import CommandWork, Work


def shares_of(work: Work) -> tuple[str, ...]:
    """What tells the shares that a job reads from all others: paths with their listings."""
    if not isinstance(work, CommandWork) or not work.inputs:
        return ()
    found = {f"{data.source} {data.digest}" for data in work.inputs.values() if data.on_share}
    return tuple(sorted(found))


def datasets_of(work: Work) -> tuple[tuple[str, int], ...]:
    """The artifacts that a job reads, with their sizes in bytes, each once."""
    if not isinstance(work, CommandWork) or not work.inputs:
        return ()
    found = {data.digest: data.size_bytes for data in work.inputs.values() if not data.on_share}
    return tuple(sorted(found.items()))


def read_by(work: Work) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """The data sets and the shares that a job reads, as the shape of its wait has them."""
    return datasets_of(work), shares_of(work)
