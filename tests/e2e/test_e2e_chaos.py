"""A short run of `meshtrain chaos` on real processes; `make chaos` runs a long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("e2e_chaos"),
    pytest.mark.skipif(sys.platform != "linux", reason="it finds what runs through /proc"),
]


def test_p1_to_p8_hold_while_everything_is_hurt_at_random(tmp_path: Path) -> None:
    words = "chaos --for 8s --seed 11 --workers 2 --jobs-per-s 3 --lease 3s --fault-every 500ms"
    kinds = "short,lines,forks,bases,cancelled"
    done = subprocess.run(
        [sys.executable, "-m", "meshtrain.cli", *words.split(), "--kinds", kinds, "--json"],
        capture_output=True,
        text=True,
        env={**_inherited(), "TMPDIR": str(tmp_path)},
        timeout=115,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] and told["violations"] == []
    assert told["jobs"] == told["jobs_succeeded"] + told["jobs_cancelled"] > 0
    assert told["faults_total"] > 0
    assert list(tmp_path.iterdir()) == []


def _inherited() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("MESHTRAIN_")}
