"""The metrics in an artifact that the master holds: also of a model that another replaced."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.errors import ArtifactError
from meshtrain.results.metrics import METRICS_FILE, SIZE_MAX_BYTES, VALUES_MAX

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def metrics_in(artifacts: ArtifactStore, artifact_id: str) -> dict[str, float]:
    """The numbers of its `metrics.json`; empty where there are none, or it isn't here."""
    try:
        files = artifacts.manifest(artifact_id).files
        place = next((i for i, file in enumerate(files) if file.path == METRICS_FILE), None)
        if place is None or files[place].size_bytes > SIZE_MAX_BYTES:
            return {}
        found = _decode(artifacts.read_range(artifact_id, place, 0, files[place].size_bytes))
    except (ArtifactError, OSError, msgspec.DecodeError, ValueError, RecursionError):
        return {}
    numbers = {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return dict(list(numbers.items())[:VALUES_MAX])
