"""`meshtrain backup` and `meshtrain restore`, as a person runs them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from cli_double import out, run

from meshtrain.store.sqlite import SqliteStore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    state = tmp_path / "home" / "state"
    state.mkdir(parents=True)
    kept = Path(__file__).parent / "stores" / "v1.db.gz"
    (state / "jobs.db").write_bytes(gzip.decompress(kept.read_bytes()))
    return tmp_path / "home"


def test_there_and_back(home: Path, tmp_path: Path) -> None:
    (home / "members.json").write_text("{}")
    file = tmp_path / "a.backup"
    told = out(None, "--home", str(home), "backup", str(file))
    assert "a.backup: " in told and "8 jobs; files of members, tokens and keys: 1" in told
    told = out(None, "--home", str(home), "restore", str(file))
    assert "8 jobs, as of 2" in told and f"lies in {home}/before-restore-" in told
    assert "members, tokens and keys stay" in told


def test_as_json(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    made = json.loads(out(None, "--home", str(home), "backup", str(file), "--json"))
    assert (made["jobs"], made["schema"], list(made["files"])) == (8, 1, ["jobs.db"])
    assert made["size_bytes"] == file.stat().st_size
    done = json.loads(out(None, "--home", str(home), "restore", str(file), "--json"))
    assert done["jobs"] == 8 and done["incarnation"] > 1
    assert Path(done["aside"]).is_dir() and done["members_restored"] is False


def test_refusals_have_their_exit_codes(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    out(None, "--home", str(home), "backup", str(file))
    again = run(None, "--home", str(home), "backup", str(file))
    assert (again.exit_code, "--force" in again.output) == (2, True)
    out(None, "--home", str(home), "backup", str(file), "--force")
    store = SqliteStore(home / "state")
    busy = run(None, "--home", str(home), "restore", str(file))
    store.close()
    assert (busy.exit_code, "Stop that one first" in busy.output) == (1, True)
    file.write_bytes(b"nothing")
    wrong = run(None, "--home", str(home), "restore", str(file))
    assert (wrong.exit_code, "no whole backup" in wrong.output) == (1, True)
