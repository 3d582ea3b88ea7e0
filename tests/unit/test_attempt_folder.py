"""The folder of an attempt: its paths, what the job is told, and what it leaves."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from worker_records import assignment, made_folder

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactNeed
from meshtrain.core.job import FailureClass
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import ProtocolError
from meshtrain.spec.jobs import CommandWork, InputData, TrainingWork
from meshtrain_daemon.worker import outputs, prepare_step
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules, open_plain
from meshtrain_daemon.worker.preparation import Prepared, key_of


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def published(store: ArtifactStore, tmp_path: Path, name: str, text: str) -> ArtifactNeed:
    source = tmp_path / f"source-{name}"
    source.mkdir()
    (source / name).write_text(text)
    return ArtifactNeed(artifact_id(store.add_tree(source)), ())


@pytest.mark.parametrize("attempt_id", ["../x", "..", ".", "", "a/b", "a\0b", "x" * 300, "-rf"])
def test_an_id_that_is_no_name_never_becomes_a_path(tmp_path: Path, attempt_id: str) -> None:
    with pytest.raises(ProtocolError, match="same version"):
        AttemptFolder(tmp_path, assignment(attempt_id))


def test_what_a_former_daemon_left_goes(tmp_path: Path) -> None:
    folder = made_folder(tmp_path)
    (Path(folder.output) / "old").write_text("x")
    folder.make()
    assert sorted(os.listdir(folder.path)) == ["assignment", "output"]
    folder.remove()
    folder.remove()
    assert os.listdir(tmp_path) == []


def test_a_command_is_told_where_its_things_are(tmp_path: Path, store: ArtifactStore) -> None:
    base = published(store, tmp_path, "model.bin", "weights")
    code = published(store, tmp_path, "train.py", "print(1)")
    work = CommandWork("python train.py --init {base} --out {output}", env={"SEED": "3"})
    folder = AttemptFolder(tmp_path, assignment(work=work, gpus=(1, 3), base=base, code=code))
    folder.make()
    folder.lay_out(store)
    launch = folder.launch(HostRules())
    assert launch.argv[-4:] == ("--init", folder.base, "--out", folder.output)
    assert launch.cwd == folder.code
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert launch.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert launch.env["SEED"] == "3"
    assert launch.env["MESHTRAIN_BASE"] == folder.base
    assert (Path(folder.base or "") / "model.bin").read_text() == "weights"
    assert (Path(folder.code or "") / "train.py").exists()


def test_without_gpus_a_job_sees_none(tmp_path: Path) -> None:
    launch = made_folder(tmp_path).launch(HostRules())
    assert launch.env["CUDA_VISIBLE_DEVICES"] == ""
    assert "MESHTRAIN_BASE" not in launch.env


def test_a_training_gets_its_request_and_the_device_that_it_names(tmp_path: Path) -> None:
    work = TrainingWork({"mode": "base_only", "device": "1"})
    folder = AttemptFolder(tmp_path, assignment(work=work, gpus=(0,)))
    folder.make()
    launch = folder.launch(HostRules())
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert launch.call is not None
    request = msgspec.json.decode(Path(launch.call).read_bytes())
    assert request["config"] == work.config
    assert request["output"] == folder.output


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    plain, pipe, link = tmp_path / "plain", tmp_path / "pipe", tmp_path / "link"
    plain.write_bytes(b"x")
    os.mkfifo(pipe)
    link.symlink_to(plain)
    before = len(os.listdir("/proc/self/fd"))
    for path in (pipe, link, tmp_path, tmp_path / "absent"):
        with pytest.raises(OSError):
            open_plain(str(path))
    assert len(os.listdir("/proc/self/fd")) == before
    with open_plain(str(plain)) as file:
        assert file.read() == b"x"


# --- what it leaves ------------------------------------------------------------------------


def test_an_output_becomes_an_artifact_with_its_metrics(
    tmp_path: Path, store: ArtifactStore
) -> None:
    folder = made_folder(tmp_path)
    (Path(folder.output) / "metrics.json").write_text('{"accuracy": 0.5, "loss": NaN, "n": 3}')
    assert not outputs.is_empty(folder)
    stored = outputs.store_output(folder, store, "n1")
    assert isinstance(stored, io.OutputStored)
    assert stored.metrics == {"accuracy": 0.5, "n": 3.0}
    assert stored.artifact_id is not None and store.has(stored.artifact_id)


def test_metrics_with_names_that_can_not_travel_are_left_in_the_result(
    tmp_path: Path, store: ArtifactStore
) -> None:
    folder = made_folder(tmp_path)
    (Path(folder.output) / "metrics.json").write_text('{"\\ud800": 1, "good": 2}')
    stored = outputs.store_output(folder, store, "n1")
    assert isinstance(stored, io.OutputStored)
    assert stored.metrics == {"good": 2.0}


def test_no_more_metrics_travel_than_are_allowed(tmp_path: Path, store: ArtifactStore) -> None:
    folder = made_folder(tmp_path)
    many = {f"m{i}": i for i in range(outputs.METRICS_TOLD_MAX + 50)}
    (Path(folder.output) / "metrics.json").write_bytes(msgspec.json.encode(many))
    stored = outputs.store_output(folder, store, "n1")
    assert isinstance(stored, io.OutputStored)
    assert len(stored.metrics) == outputs.METRICS_TOLD_MAX


def test_a_job_that_removed_its_output_left_nothing(tmp_path: Path) -> None:
    folder = made_folder(tmp_path)
    Path(folder.output).rmdir()
    assert outputs.is_empty(folder)


@pytest.mark.parametrize("kind", ["file", "link", "pipe inside", "metrics pipe", "name"])
def test_an_output_that_is_no_folder_of_files_is_the_jobs_error(
    tmp_path: Path, store: ArtifactStore, kind: str
) -> None:
    folder = made_folder(tmp_path)
    output = Path(folder.output)
    if kind == "file":
        output.rmdir()
        output.write_text("x")
    elif kind == "link":
        output.rmdir()
        output.symlink_to("/etc")
    elif kind == "name":
        (output / os.fsdecode(b"\xff\xfe")).write_text("x")
    else:
        os.mkfifo(output / ("metrics.json" if kind == "metrics pipe" else "pipe"))
    assert not outputs.is_empty(folder)
    failed = outputs.store_output(folder, store, "n1")
    assert isinstance(failed, io.OutputFailed)
    assert failed.failure.failure_class is FailureClass.USER_ERROR
    assert msgspec.msgpack.encode(failed.failure)
    assert Path("/etc/passwd").exists()


# --- what it reads -------------------------------------------------------------------------


def reading(tmp_path: Path, work: CommandWork) -> AttemptFolder:
    folder = AttemptFolder(tmp_path, assignment(work=work))
    folder.make()
    return folder


def test_a_command_is_told_where_its_data_is(tmp_path: Path) -> None:
    data = InputData("voc@1", "a" * 32)
    work = CommandWork(
        "ls {inputs.voc-5i} '{inputs.none}'",
        env={"ROOT": "{inputs.voc-5i}/x"},
        inputs={"voc-5i": data},
    )
    folder = reading(tmp_path, work)
    assert folder.reads_data and not folder.needs_copies
    launch = folder.launch(HostRules(), {"voc-5i": "/data of/it"})
    assert launch.argv == ("/bin/sh", "-c", "ls '/data of/it' '{inputs.none}'")
    assert launch.env["MESHTRAIN_INPUT_VOC_5I"] == "/data of/it"
    assert launch.env["ROOT"] == "/data of/it/x"


def test_what_is_prepared_already_costs_no_step(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path / "prepared", 1000)
    work = CommandWork("cat {prepared}/x", env={"A": "{prepared}"}, prepare="echo {x} {prepared}")
    folder = reading(tmp_path, work)
    first = folder.launch(HostRules(), {}, prepared)
    assert first.argv[-2:] == (prepare_step.__file__, f"{folder.path}/prepare.json")
    assert "A" not in first.env, "the job's own variables are none of the preparation's"
    request = msgspec.json.decode(Path(first.argv[-1]).read_bytes())
    key = key_of(folder.assignment)
    assert key is not None
    tree = prepared.tree(key)
    assert request["command"] == f"echo {{x}} {tree}"
    assert request["shown"] == "echo {x} {prepared}"
    assert request["argv"] == ["cat", f"{tree}/x"]
    assert request["env"] == {"A": tree}
    assert request["cwd"] is None
    record = b'{"size_bytes":1,"files_count":1,"took_s":1.0}'
    (Path(prepared.folder(key)) / "done").write_bytes(record)
    again = reading(tmp_path, work).launch(HostRules(), {}, prepared)
    assert again.argv == ("cat", f"{tree}/x")
    assert again.env["A"] == again.env["MESHTRAIN_PREPARED"] == tree
