"""All fuzz targets, by their names."""

from __future__ import annotations

import fuzz_files
import fuzz_http
import fuzz_logbook
import fuzz_peers
import fuzz_tensors
import fuzz_wire

TARGETS = (
    *fuzz_wire.TARGETS,
    *fuzz_files.TARGETS,
    *fuzz_tensors.TARGETS,
    *fuzz_logbook.TARGETS,
    *fuzz_http.TARGETS,
    *fuzz_peers.TARGETS,
)
BY_NAME = {target.name: target for target in TARGETS}
