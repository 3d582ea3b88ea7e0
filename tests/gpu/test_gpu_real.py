"""What only a real GPU can show: its readings, its memory coming back, a training going on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtrain.hardware.gpu import find_gpus
from meshtrain.hardware.gpu_reader import GpuReader
from meshtrain_daemon.worker.gpu_watch import GpuWatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_gpus(), reason="NVML shows no GPU on this host"),
]

USED_BYTES = 1 << 30
HOLDER = f"""
import sys, torch
held = torch.empty({USED_BYTES}, dtype=torch.uint8, device="cuda:0")
torch.cuda.synchronize()
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process that holds a gigabyte of the first GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_a_real_gpu_is_read() -> None:
    gpus = find_gpus()
    reader = GpuReader([gpu.index for gpu in gpus])
    for gpu, reading in zip(gpus, reader.read(), strict=True):
        assert (reading.fault, reading.model) == (None, gpu.model)
        assert reading.uuid.startswith("GPU-")
        assert 0 <= reading.used_bytes <= reading.memory_bytes == gpu.memory_bytes
        assert reading.temperature_c is None or 0 < reading.temperature_c < 120
        assert reading.utilisation is None or 0 <= reading.utilisation <= 1
    reader.close()
    assert [reading.fault for reading in reader.read()] == [None] * len(gpus)


def test_p9_a_real_gpu_that_somebody_uses_is_busy(holder: subprocess.Popen[str]) -> None:
    watch = GpuWatch((0,))
    assert watch.busy(lambda pid: False) == (0,)
    assert watch.why(0)
    # Its memory is seen, be its process shown or, in a container, hidden.
    assert watch.reader.read()[0].used_bytes >= USED_BYTES


async def test_p8_the_memory_of_a_killed_process_comes_back(
    holder: subprocess.Popen[str],
) -> None:
    watch = GpuWatch((0,))
    before = watch.reader.read()[0].used_bytes
    holder.kill()
    await asyncio.to_thread(holder.wait)
    assert await watch.wait_free((0,), (), 30) == ()
    assert watch.reader.read()[0].used_bytes <= before - USED_BYTES


def test_a_training_on_a_gpu_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, optimizer and random numbers come back on the device; the end is nearly the same."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from meshtrain.spec.recipe import builtin_data_digest, recipe_hash, training_recipe
    from meshtrain.spec.training_keys import EXIT_INTERRUPTED
    from meshtrain.training.child import TrainingRequest, run
    from meshtrain.training.keeper import Interruption, Keeper

    values: dict[str, Any] = {
        "participants": ["w01", "w02"],
        "model": "cnn",
        "batch_size": 32,
        "lr": 0.003,
        "augmentation": "shift",
        "epochs": 2,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "seed": 1,
    }
    digests = {name: builtin_data_digest("digits", name) for name in ("w01", "w02")}
    recipe = training_recipe(values, digests)
    config = {
        **values,
        "mode": "base_only",
        "recipe": recipe,
        "data": {"source": "digits"},
        **dict.fromkeys(("target", "fold", "folds", "target_batch_pct", "target_data_pct")),
        "data_digests": digests,
        "device": None,
        "prefix": None,
    }

    def request(name: str, resume: str | None = None) -> TrainingRequest:
        folder = tmp_path / name
        folder.mkdir()
        return TrainingRequest(
            config=config,
            recipe_hash=recipe_hash(recipe),
            output=str(folder / "output"),
            base=None,
            metrics=str(folder / "metrics.jsonl"),
            failure=str(folder / "failure.json"),
            checkpoint=str(folder / "checkpoint"),
            resume=resume,
        )

    def metrics(name: str) -> dict[str, float]:
        return json.loads((tmp_path / name / "output" / "metrics.json").read_text())

    assert run(request("whole")) == 0
    after_step = Keeper.after_step

    def stop(self: Keeper, training: Any) -> None:
        if training.step == 250:
            self._interruption = Interruption()
            self._interruption.ask()
        after_step(self, training)

    monkeypatch.setattr(Keeper, "after_step", stop)
    assert run(request("first")) == EXIT_INTERRUPTED
    monkeypatch.setattr(Keeper, "after_step", after_step)
    assert run(request("second", str(tmp_path / "first" / "checkpoint"))) == 0
    history = json.loads((tmp_path / "second" / "output" / "history.json").read_text())
    assert history["device"] != "cpu"
    assert metrics("second")["steps"] == metrics("whole")["steps"]
    assert metrics("second")["loss"] == pytest.approx(metrics("whole")["loss"], rel=0.02)
