"""A run that is interrupted and goes on ends as one that wasn't: the same bits (P7, P11, P12)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from meshtrain.core.job import FailureClass
from meshtrain.core.retry import RULES
from meshtrain.spec.recipe import builtin_data_digest, recipe_hash, training_recipe
from meshtrain.spec.training_keys import EXIT_INTERRUPTED
from meshtrain.training import checkpoint, keeper
from meshtrain.training.batches import derived_seed
from meshtrain.training.checkpoint import found_in, read_checkpoint, write_checkpoint
from meshtrain.training.child import TrainingRequest, run
from meshtrain.training.config import parse_config
from meshtrain.training.keeper import Keeper
from meshtrain.training.loop import TrainingPlan, TrainingRun
from meshtrain.training.models import build_model
from meshtrain.training.samples import load_samples

DIGESTS = {name: builtin_data_digest("digits", name) for name in ("w01", "w02", "w07")}
RECIPE_VALUES: dict[str, Any] = {
    "participants": ["w01", "w02"],
    "model": "mlp",
    "batch_size": 16,
    "lr": 0.01,
    "augmentation": "affine",
    "epochs": 2,
    "optimizer": "adam",
    "weight_decay": 0.001,
    "seed": 3,
}
TARGET: dict[str, Any] = {
    "mode": "full_fine_tuning",
    "target": "w07",
    "fold": 1,
    "folds": 3,
    "target_batch_pct": 0.3,
    "target_data_pct": 0.5,
    "optimizer": "sgd",
    "augmentation": "shift",
}
NEVER_S = 1e9


RECIPE = training_recipe(RECIPE_VALUES, DIGESTS)
CONFIG: dict[str, Any] = {
    **RECIPE_VALUES,
    "mode": "base_only",
    "recipe": RECIPE,
    "data": {"source": "digits"},
    **dict.fromkeys(("target", "fold", "folds", "target_batch_pct", "target_data_pct")),
    "data_digests": DIGESTS,
    "device": "cpu",
    "prefix": None,
}


def request_of(folder: Path, **changed: Any) -> TrainingRequest:
    """A run that keeps checkpoints in its folder; `changed` are keys of the request or config."""
    own = {key: changed.pop(key) for key in list(changed) if key in CONFIG}
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "config": {**CONFIG, **own},
        "recipe_hash": recipe_hash(RECIPE),
        "output": str(folder / "output"),
        "base": None,
        "metrics": str(folder / "metrics.jsonl"),
        "failure": str(folder / "failure.json"),
        "checkpoint": str(folder / "checkpoint"),
        "checkpoint_every_s": NEVER_S,
        **changed,
    }
    return TrainingRequest(**given)


def result_of(folder: Path) -> tuple[bytes, dict[str, Any], list[dict[str, Any]]]:
    """What must be the same: the model's file, its metrics and its epochs, without their times."""
    output = folder / "output"
    metrics = json.loads((output / "metrics.json").read_text())
    epochs = json.loads((output / "history.json").read_text())["epochs"]
    return (
        (output / "model.safetensors").read_bytes(),
        {**metrics, "seconds": 0},
        [{**epoch, "time": 0, "seconds": 0} for epoch in epochs],
    )


def streamed_epochs(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").open()]


def failure_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "failure.json").read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that was trained without an interruption, and without checkpoints."""
    folder = tmp_path_factory.mktemp("base")
    assert run(request_of(folder, checkpoint=None)) == 0
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    assert run(request_of(folder, base=str(base / "output"), checkpoint=None, **TARGET)) == 0
    return folder


Interrupt = Callable[[int], None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Has this process sent a SIGTERM after so many steps, once."""
    pending: list[int] = []
    after_step = Keeper.after_step

    def watched(self: Keeper, training: Any) -> None:
        if pending and training.step == pending[0]:
            pending.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, training)

    monkeypatch.setattr(Keeper, "after_step", watched)

    def at(step: int) -> None:
        pending[:] = [step]

    return at


@pytest.mark.parametrize("stops", [(1,), (130,), (200,), (399, 400), (73, 320)])
def test_p7_a_base_that_is_interrupted_ends_with_the_same_bits(
    base: Path,
    tmp_path: Path,
    interrupt: Interrupt,
    capsys: pytest.CaptureFixture[str],
    stops: tuple[int, ...],
) -> None:
    resume: str | None = None
    for number, step in enumerate(stops):
        interrupt(step)
        folder = tmp_path / str(number)
        request = request_of(folder, resume=resume)
        assert run(request) == EXIT_INTERRUPTED
        assert failure_of(folder) == {
            "class": "preempted",
            "message": f"ended on request after step {step} of 400; it can go on from step {step}",
        }
        assert not (folder / "output" / "metrics.json").exists()
        assert [path.name for path in Path(request.checkpoint or "").iterdir()] == [f"step-{step}"]
        resume = request.checkpoint
    capsys.readouterr()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    last = tmp_path / "last"
    assert run(request_of(last, resume=resume)) == 0
    assert f"goes on from step {stops[-1]} of 400\n" in capsys.readouterr().out
    assert result_of(last) == result_of(base)
    # What an attempt streams begins where the one before it ended.
    streams = [streamed_epochs(tmp_path / str(number)) for number in range(len(stops))]
    assert list(chain(*streams, streamed_epochs(last))) == [1, 2]
    seconds = json.loads((last / "output" / "metrics.json").read_text())["seconds"]
    epochs = json.loads((last / "output" / "history.json").read_text())["epochs"]
    assert seconds >= sum(epoch["seconds"] for epoch in epochs) * 0.999


def test_p7_a_fine_tuning_goes_on_in_the_same_order_of_both_kinds_of_samples(
    base: Path, tuned: Path, tmp_path: Path, interrupt: Interrupt
) -> None:
    start = str(base / "output")
    interrupt(251)
    assert run(request_of(tmp_path / "a", base=start, **TARGET)) == EXIT_INTERRUPTED
    # A checkpoint's own folder does as well as the folder that it lies in.
    resume = str(tmp_path / "a" / "checkpoint" / "step-251")
    assert run(request_of(tmp_path / "b", base=start, resume=resume, **TARGET)) == 0
    assert result_of(tmp_path / "b") == result_of(tuned)


def test_p7_a_killed_run_goes_on_from_what_it_wrote_in_time(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Keeper.after_step

    def killed(self: Keeper, training: Any) -> None:
        after_step(self, training)
        if training.step == 222:
            raise KeyboardInterrupt  # as sudden as a kill: nothing is written after it

    monkeypatch.setattr(Keeper, "after_step", killed)
    monkeypatch.setattr(keeper, "COST_SHARE_MAX", 1.0)
    first = request_of(tmp_path / "a", checkpoint_every_s=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    kept = found_in(Path(first.checkpoint or ""))
    assert [path.name for path in kept] == ["step-222", "step-221"]
    monkeypatch.setattr(Keeper, "after_step", after_step)
    assert run(request_of(tmp_path / "b", resume=first.checkpoint)) == 0
    assert result_of(tmp_path / "b") == result_of(base)


@pytest.fixture
def kept(tmp_path: Path, interrupt: Interrupt) -> Path:
    """The checkpoints of steps 100 and 300 of the base."""
    for step, name in ((100, "one"), (300, "two")):
        interrupt(step)
        resume = None if step == 100 else str(tmp_path / "one" / "checkpoint")
        assert run(request_of(tmp_path / name, resume=resume)) == EXIT_INTERRUPTED
    folder = tmp_path / "two" / "checkpoint"
    shutil.copytree(tmp_path / "one" / "checkpoint" / "step-100", folder / "step-100")
    return folder


def flip(path: Path, at: float) -> None:
    """Turns one bit of a file, `at` a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path, _: float) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def remove(path: Path, _: float) -> None:
    path.unlink()


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize(
    ("damage", "at"), [(flip, 0.0), (flip, 0.3), (flip, 0.8), (cut, 0), (remove, 0)]
)
def test_p11_a_damaged_checkpoint_is_never_gone_on_from(
    kept: Path, damage: Callable[[Path, float], None], at: float, file: str
) -> None:
    damage(kept / "step-300" / file, at)
    told: list[str] = []
    training = _run_of_the_base()
    keeper.resume(training, kept, _identity(), told.append)
    assert training.step == 100
    assert told[0].startswith("checkpoint step-300 can't be used: ")
    assert told[1] == "goes on from step 100 of 400"


def test_p11_where_no_checkpoint_is_whole_the_run_says_so_and_begins_anew(
    base: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(kept / "step-300" / "tensors.safetensors", 0.5)
    (kept / "step-100" / "state.json").write_text("{}")
    (kept / ".step-350.7").mkdir()
    capsys.readouterr()
    assert run(request_of(tmp_path / "new", resume=str(kept))) == 0
    out = capsys.readouterr().out
    assert "checkpoint step-300 can't be used" in out
    assert "checkpoint step-100 can't be used" in out
    assert f"no checkpoint in {kept} can be used: begins anew, at step 0" in out
    assert result_of(tmp_path / "new") == result_of(base)


def test_a_checkpoint_that_fits_half_leaves_the_run_as_it_was(kept: Path) -> None:
    """The order of the batches is given back after weights and optimizer are."""
    tensors, described = read_checkpoint(kept / "step-300")
    training = _run_of_the_base()
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    tensors["order.base"] = torch.full_like(tensors["order.base"], 10**6)
    shutil.rmtree(kept)
    write_checkpoint(kept, 300, tensors, described)
    told: list[str] = []
    keeper.resume(training, kept, _identity(), told.append)
    assert "positions are none of a pool" in told[0]
    assert (training.step, training.epochs) == (0, [])
    assert training.optimizer.state_dict()["state"] == {}
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items()
    )


def test_a_checkpoint_of_another_configuration_is_refused(
    kept: Path, base: Path, tmp_path: Path
) -> None:
    assert run(request_of(tmp_path / "a", resume=str(kept), **{**TARGET, "base": str(base)})) == 1
    recipe = training_recipe({**RECIPE_VALUES, "lr": 0.02}, DIGESTS)
    other = request_of(tmp_path / "b", resume=str(kept), lr=0.02, recipe=recipe)
    assert run(msgspec.structs.replace(other, recipe_hash=recipe_hash(recipe))) == 1
    failure = failure_of(tmp_path / "b")
    assert failure["class"] == "user_error"
    assert "a checkpoint of another run: lr was 0.01, and is 0.02" in failure["message"]
    assert not (tmp_path / "b" / "output" / "metrics.json").exists()


def test_a_base_that_was_trained_anew_begins_its_fine_tunings_anew(
    base: Path, tmp_path: Path, interrupt: Interrupt, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(10)
    request = request_of(tmp_path / "a", base=str(base / "output"), **TARGET)
    assert run(request) == EXIT_INTERRUPTED
    other = tmp_path / "other"
    shutil.copytree(base / "output", other)
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x3c")
    capsys.readouterr()
    assert (
        run(request_of(tmp_path / "b", base=str(other), resume=request.checkpoint, **TARGET)) == 0
    )
    assert "the base was trained anew since, and has other weights" in capsys.readouterr().out
    assert streamed_epochs(tmp_path / "b") == [1, 2]


def test_p12_a_full_disk_costs_checkpoints_and_not_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_durably", full)
    request = request_of(tmp_path, checkpoint_every_s=0.02)
    assert run(request) == 0
    assert "can't be written: [Errno 28] No space left on device" in capsys.readouterr().out
    assert list(Path(request.checkpoint or "").iterdir()) == []
    assert result_of(tmp_path) == result_of(base)


def test_a_run_that_ends_on_request_on_a_full_disk_says_what_is_left(
    tmp_path: Path, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keeper, "write_checkpoint", full)
    interrupt(5)
    assert run(request_of(tmp_path)) == EXIT_INTERRUPTED
    assert "no checkpoint of it could be written" in failure_of(tmp_path)["message"]


class SlowDisk:
    """A clock, and a disk on which a checkpoint takes so many seconds."""

    def __init__(self, write_s: float) -> None:
        self.now_s = 0.0
        self.write_s = write_s
        self.written_at_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def write(self, *_: object) -> None:
        self.written_at_s.append(self.now_s)
        self.now_s += self.write_s


@pytest.mark.parametrize(
    ("write_s", "at_s", "says"),
    [
        (0.1, [30, 60, 90, 120, 150], []),
        (
            3.0,
            [30, 90, 150],
            [
                "a checkpoint takes 3.00 s to write: there is one each 57.0 s, not each 30.0 s, "
                "so that they cost 5% at most"
            ],
        ),
    ],
)
def test_checkpoints_cost_a_twentieth_of_the_time_at_most(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_s: float,
    at_s: list[float],
    says: list[str],
) -> None:
    disk = SlowDisk(write_s)
    monkeypatch.setattr(keeper, "write_checkpoint", disk.write)
    told: list[str] = []
    writer = Keeper(
        tmp_path,
        every_s=30.0,
        identity=_identity(),
        interruption=keeper.Interruption(),
        say=told.append,
        now_s=disk.clock,
    )
    training = _run_of_the_base()
    while disk.now_s < 160:
        disk.now_s += 1
        writer.after_step(training)
    assert [round(moment) for moment in disk.written_at_s] == pytest.approx(at_s, abs=2)
    assert told == says


def test_only_the_last_two_checkpoints_are_kept_and_the_half_written_go(tmp_path: Path) -> None:
    (tmp_path / ".step-9.1").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    checkpoint.sweep_unfinished(tmp_path)
    for step in (9, 10, 100, 30):
        write_checkpoint(tmp_path, step, {"a": torch.tensor([float(step)])}, b"{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-100", "step-30"]
    write_checkpoint(tmp_path, 100, {"a": torch.zeros(0)}, b'{"again":1}')
    tensors, state = read_checkpoint(tmp_path / "step-100")
    assert (tensors["a"].tolist(), state) == ([], b'{"again":1}')
    assert found_in(tmp_path / "nowhere") == []


def test_the_failure_class_of_an_interruption_is_one_that_blames_nobody() -> None:
    assert not RULES[FailureClass.PREEMPTED].blames_job
    assert RULES[FailureClass.PREEMPTED].reruns


def _identity() -> keeper.RunIdentity:
    return keeper.identify(parse_config(CONFIG), recipe_hash(RECIPE), None)


def _run_of_the_base() -> TrainingRun:
    config = parse_config(CONFIG)
    samples = load_samples(config)
    return TrainingRun(
        build_model(
            config.model,
            sample_shape=samples.sample_shape,
            classes=samples.classes,
            seed=derived_seed(config.seed, "weights"),
        ),
        target=samples.target,
        base=samples.base,
        plan=TrainingPlan(
            epochs=config.epochs,
            batch_size=config.batch_size,
            lr=config.lr,
            optimizer=config.optimizer,
            weight_decay=config.weight_decay,
            augmentation=config.augmentation,
            target_share=0.0,
            seed=config.seed,
        ),
        device=torch.device("cpu"),
    )
