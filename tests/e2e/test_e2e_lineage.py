"""Bases that continue from earlier ones, on a mesh of real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_lineage")]

FIRST = """\
name: first
base:
  command: echo first > {output}/weights; printf '{{"loss":%s}}' 0.5 > {output}/metrics.json
command: test "$(cat {base}/weights)" = first
"""
SECOND = """\
name: second
base:
  from: PARENT
  command: >-
    test "$MESHTRAIN_FROM" = {from} && cat {from}/weights > {output}/weights &&
    echo second >> {output}/weights
command: grep -q first {base}/weights && grep -q second {base}/weights
"""


def meshtrain(mesh: Mesh, *arguments: str, code: int = 0) -> str:
    told = subprocess.run(
        [sys.executable, "-m", "meshtrain.cli", "--master", mesh.address, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == code, told.stdout + told.stderr
    return told.stdout + told.stderr


def succeeded(mesh: Mesh, name: str) -> Any:
    (row,) = mesh.wait_jobs(name)
    assert row["state"] == "succeeded", row
    return row


def test_p5_a_base_gets_the_weights_that_it_is_pinned_to(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.start("n1", "n2")
    mesh.submit(FIRST, "first.yaml")
    succeeded(mesh, "first")
    (first,) = mesh.rows("bases")
    pinned = first["artifact_id"]
    # Dropped into the inbox, it is resolved there and then.
    mesh.drop(SECOND.replace("PARENT", first["recipe_hash"][:8]), "second.yaml")
    mesh.wait_file(mesh.inbox / "accepted" / "second.yaml.receipt.txt")
    succeeded(mesh, "second")
    second = next(row for row in mesh.rows("bases") if "from" in row["label"])
    (recipe,) = mesh.rows("recipes", second["recipe_hash"])
    assert recipe["recipe"]["from"] == {"recipe": first["recipe_hash"], "artifact": pinned}

    told = meshtrain(mesh, "bases", "log", second["recipe_hash"][:8])
    assert "generation 1 of 1" in told
    history = json.loads(meshtrain(mesh, "bases", "log", first["recipe_hash"][:8], "--json"))
    (generation,) = history["generations"]
    assert generation["node_id"] in ("n1", "n2")
    assert generation["metrics"] == {"loss": 0.5}
    assert [child["recipe_hash"] for child in history["children"]] == [second["recipe_hash"]]

    # Trained anew it has the same content here, so the same model: the pin still holds.
    mesh.do(msg.Rebuild(new_id("rebuild"), first["recipe_hash"]))
    mesh.wait_until(
        lambda: (
            mesh.base(first["recipe_hash"])["state"] == "committed"
            and mesh.base(first["recipe_hash"])["generation"] == 2
        ),
        "the base is trained anew",
    )
    history = json.loads(meshtrain(mesh, "bases", "log", first["recipe_hash"][:8], "--json"))
    assert [g["metrics"] for g in history["generations"]] == [{"loss": 0.5}, {"loss": 0.5}]

    mesh.drop(SECOND.replace("PARENT", "0123abcd"), "wrong.yaml")
    error = mesh.wait_file(mesh.inbox / "rejected" / "wrong.yaml.error.txt").read_text()
    assert 'no base, and no model of one, is called "0123abcd"' in error
