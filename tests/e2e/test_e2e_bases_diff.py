"""Two bases that are nearly alike, in a mesh with keys: what they share moves once, and is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from members import command, line_of
from mesh import NewMesh

from meshtrain.core.changes import TransferRow
from meshtrain.core.member import MemberKind
from meshtrain.security.standing import load_standing

pytestmark = [pytest.mark.e2e]

SIZE_BYTES = 8_000_000
SWEEP = """
name: version_%s
code: code
base: {command: "python make.py {output}/model {version}"}
command: "cat {base}/model > /dev/null"
matrix: {version: [%s]}
"""
MAKE = f"""
import random, sys
data = random.Random(7).randbytes({SIZE_BYTES})
if sys.argv[2] == "2":
    data = data[:3_000_000] + b"a few rows more" + data[3_000_000:]
open(sys.argv[1], "wb").write(data)
"""


def test_P10_bases_that_share_chunks_move_once_and_a_person_sees_it(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh(secure=True)
    mesh.environment = {"MESHTRAIN_WARM_TRAINING": "false"}
    mesh.start("n1")
    home = tmp_path / "ann"
    command(home, "join", "--name", "ann", mesh.token(MemberKind.PERSON))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "make.py").write_text(MAKE)
    bases = []
    for version in "12":
        path = tmp_path / f"{version}.yaml"
        path.write_text(SWEEP % (version, version))
        sweep = json.loads(command(home, "submit", "--json", str(path)))["sweep_id"]
        (base,) = mesh.bases_of(sweep)
        bases.append(base["recipe_hash"])
        mesh.wait_until(
            lambda base=base["recipe_hash"]: "master" in mesh.base(base)["holders"],
            "the master holds it",
        )

    told = json.loads(command(home, "bases", "diff", *bases, "--json"))
    assert told["size_bytes"] == SIZE_BYTES + 15
    assert 0 < told["new_bytes"] < 3_000_000
    (file,) = told["files"]
    assert (file["path"], file["change"]) == ("model", "changed")

    with line_of(mesh, load_standing(mesh.home / "person", MemberKind.PERSON)) as line:
        _, _, changes = line.snapshot()
    moved = {
        change.artifact_id: sum(change.bytes_by_node.values())
        for change in changes
        if isinstance(change, TransferRow) and change.to_node == "master"
    }
    assert [moved[mesh.base(base)["artifact_id"]] for base in bases] == [
        SIZE_BYTES,
        told["new_bytes"],
    ]
