"""Training in a process forked from one that has already imported torch.

Importing torch and its company takes seconds; a forked child starts in
milliseconds. `preload` runs in the parent: it imports, and computes nothing
with torch, because a child hangs when its parent has started torch's threads.
CUDA isn't initialised either: it doesn't survive a fork.
"""

from __future__ import annotations

import importlib
from pathlib import Path

PRELOADED = (
    "numpy",
    "torch",
    "torch.nn.functional",
    "torch.optim",
    # Optimizers import these at their first step.
    "torch._dynamo",
    "safetensors.torch",
    "sklearn.datasets",
    "meshtrain.training.child",
)


def preload() -> None:
    """Imports all that a run needs, and reads the built-in digits.

    For the parent, before its first fork. Starts no thread and touches no GPU.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    from meshtrain.training.digits import read_originals

    read_originals()


def run(request_path: str) -> int:
    """Runs one training request; for the forked child.

    Args:
        request_path: the file with the request, as `meshtrain.training.child` takes it.

    Returns:
        The exit status: 0, or 1 with a failure record.
    """
    from meshtrain.training.child import run_file

    return run_file(Path(request_path))
