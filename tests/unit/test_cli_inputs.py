"""`publish` and `inputs`, and what `plan` and `submit` show of data and code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_double import out, run
from master_double import MasterDouble

import meshtrain.artifacts.upload as upload_module
import meshtrain.cli.plan as plan_module
import meshtrain.cli.submit as submit_module
from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.snapshot import snapshot_manifest
from meshtrain.core.manifest import artifact_id
from meshtrain.wire import messages as msg


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> MasterDouble:
    async def upload(
        folder: Path, url: str, *, files: Any = None, security: Any = None, steps: Any
    ) -> str:
        assert url == "http://127.0.0.1:7473"
        made = build_manifest(folder) if files is None else snapshot_manifest(folder, files)
        steps.hashed(made.size_bytes)
        steps.lacks(made.size_bytes)
        steps.sent(made.size_bytes)
        return artifact_id(made)

    monkeypatch.setattr(upload_module, "upload_tree", upload)
    master = MasterDouble()
    master.add_node("node-1", cpu_slots=4)
    return master


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pascal5i"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1").write_bytes(b"1")
    return folder


def sweep(folder: Path, text: str) -> str:
    path = folder / "s.yaml"
    path.write_text(text)
    return str(path)


# --- publishing -----------------------------------------------------------------------


def test_a_folder_is_published_and_how_to_use_it_is_told(master: MasterDouble, data: Path) -> None:
    assert out(master, "inputs") == (
        "No data sets yet. Publish one: meshtrain publish PATH --name NAME\n"
    )
    text = out(master, "publish", str(data), "--name", "voc")
    assert text.startswith("data set voc@1  ")
    assert "use      inputs: [voc]   in a job file" in text
    assert "$MESHTRAIN_INPUT_VOC" in text
    again = out(master, "publish", str(data), "--name", "voc")
    assert "note     the same bytes are voc@1 already" in again
    (data / "more").write_bytes(b"2")
    row = json.loads(out(master, "publish", str(data), "--name", "voc", "--json"))
    assert (row["reference"], row["published_by"], row["notes"]) == ("voc@2", "ada", [])
    listed = out(master, "inputs")
    assert "voc@2" in listed and "voc@1" not in listed
    assert "voc@1" in out(master, "inputs", "--all")
    rows = json.loads(out(master, "inputs", "voc", "--json"))
    assert [one["version"] for one in rows] == [2, 1]
    assert rows[0]["holders"] == ["master"]


def test_a_file_is_published_alone_under_its_own_name(master: MasterDouble, data: Path) -> None:
    (data / "other").write_bytes(b"2")
    out(master, "publish", str(data / "other"))
    (request,) = [r for r in master.requests if isinstance(r, msg.PublishInput)]
    assert request.name == "other"
    assert request.artifact_id == artifact_id(snapshot_manifest(data, ["other"]))


def test_p11_what_can_not_be_published_is_told(master: MasterDouble, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, told in (("empty", "is empty"), ("absent", "there is no file or folder")):
        result = run(master, "publish", str(tmp_path / path), "--name", "x")
        assert result.exit_code == 2
        assert told in result.stderr
    odd = tmp_path / "odd name"
    odd.mkdir()
    result = run(master, "publish", str(odd))
    assert result.exit_code == 2
    assert "Say what it is to be called: --name NAME" in result.stderr
    assert run(None, "publish", str(tmp_path), "--name", "x").exit_code == 1
    assert master.state.named_inputs == {}


# --- plan and submit --------------------------------------------------------------------


def test_plan_and_submit_show_what_a_name_is_pinned_to(master: MasterDouble, data: Path) -> None:
    out(master, "publish", str(data), "--name", "voc")
    file = sweep(
        data.parent,
        f"name: reads\ninputs: {{a: voc, b: {{path: {data}}}}}\ncommand: x {{inputs.a}}\n",
    )
    (named,) = master.state.named_inputs["voc"]
    text = out(master, "plan", file)
    assert "inputs          a  voc@1" in text
    assert f"{named.artifact_id[:4]}…" in text
    assert "1.2 kB in 3 files" in text
    assert "1 B in 1 file  on the share" in text
    planned = json.loads(out(master, "plan", file, "--json"))["inputs"]
    assert [(one["name"], one["source"], one["on_share"]) for one in planned] == [
        ("a", "voc@1", False),
        ("b", str(data), True),
    ]
    receipt = out(master, "submit", file)
    assert "inputs   a  voc@1" in receipt
    (job,) = master.state.jobs.values()
    assert job.spec.work.inputs["a"].digest == named.artifact_id
    out(master, "submit", file)
    assert len(master.state.sweeps) == 1
    (data / "more").write_bytes(b"2")
    out(master, "publish", str(data), "--name", "voc")
    out(master, "submit", file)
    assert len(master.state.sweeps) == 2, "newer data is another sweep"


def test_a_matrix_of_data_sets_is_shown_as_far_as_it_fits(master: MasterDouble, data: Path) -> None:
    names = [f"set{number}" for number in range(12)]
    for name in names:
        (data / "more").write_text(name)
        out(master, "publish", str(data), "--name", name)
    text = (
        f"name: many\ninputs: {{d: '{{set}}'}}\ncommand: x {{inputs.d}}\nmatrix: {{set: {names}}}"
    )
    shown = out(master, "plan", sweep(data.parent, text))
    assert "… and 2 more: --json lists all" in shown


def test_a_name_that_is_not_there_is_told_by_both(master: MasterDouble, tmp_path: Path) -> None:
    file = sweep(tmp_path, "inputs: [voc]\ncommand: x {inputs.voc}\n")
    for command in ("plan", "submit"):
        result = run(master, command, file)
        assert result.exit_code == 2
        assert 'no data set is called "voc"' in result.stderr
    result = run(None, "plan", file)
    assert result.exit_code == 1
    assert "no master answers" in result.stderr
    lost = sweep(tmp_path, f"inputs: {{d: {{path: {tmp_path}/gone}}}}\ncommand: x\n")
    result = run(master, "submit", lost)
    assert result.exit_code == 2
    assert "can't be listed on this host" in result.stderr


CODE = "name: c\ncode: .\ncommand: python a.py\n"


def test_the_ten_largest_files_of_the_code_are_shown(master: MasterDouble, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"f{number:02}").write_bytes(b"x" * (number + 1) * 1000)
    file = sweep(tmp_path, CODE)
    text = out(master, "plan", file)
    assert "its largest     12 kB  f11" in text
    assert "3.0 kB  f02" in text and "f01" not in text
    (code,) = json.loads(out(master, "plan", file, "--json"))["code"]
    assert (code["folder"], code["files"], len(code["largest"])) == (".", 13, 10)
    assert code["largest"][0] == {"path": "f11", "size_bytes": 12_000}
    receipt = out(master, "submit", file)
    assert "12 kB  f11" in receipt
    assert json.loads(out(master, "submit", file, "--json"))["code"][0]["id"] == code["id"]


def test_p11_large_code_is_refused_unless_told(
    master: MasterDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (plan_module, submit_module):
        monkeypatch.setattr(module, "CODE_BYTES_MAX", 1000)
    (tmp_path / "weights.bin").write_bytes(b"x" * 2000)
    file = sweep(tmp_path, CODE)
    for command in ("plan", "submit"):
        result = run(master, command, file)
        assert result.exit_code == 2
        assert "2,000  weights.bin" in result.stderr
        assert "submit all of it: --allow-large-code" in result.stderr
        assert ".meshtrainignore" in result.stderr
    assert master.state.sweeps == {}
    out(master, "plan", file, "--allow-large-code")
    out(master, "submit", file, "--allow-large-code")
    assert len(master.state.sweeps) == 1
