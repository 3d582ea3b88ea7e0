"""Checkpoints of a run on disk: a folder each, seen whole or not at all.

    step-1200/tensors.safetensors     weights, optimizer, random numbers, order of the batches
    step-1200/state.json              the rest, with the digests of both

A checkpoint is made under a name with a dot, made durable, and renamed. Each
byte is checked when it is read: a training never goes on from damaged numbers.
Nothing is pickled.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from meshtrain.errors import ArtifactError
from meshtrain.ids import digest

TENSORS_FILE = "tensors.safetensors"
STATE_FILE = "state.json"
KEPT = 2
"""How many checkpoints are kept: the last, and one should that be damaged."""
STATE_SIZE_BYTES_MAX = 256 * 2**20

_FINISHED = re.compile(r"step-([0-9]{1,18})\Z")
_OURS_UNFINISHED = ".step-"


class _Envelope(msgspec.Struct, frozen=True):
    """What lies in `state.json`."""

    digest: str
    """Of `state`, byte for byte."""
    tensors_digest: str
    state: msgspec.Raw


def step_of(path: Path) -> int | None:
    """The step of a checkpoint's folder, by its name; None for what is none."""
    found = _FINISHED.match(path.name)
    return None if found is None else int(found[1])


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: bytes
) -> Path:
    """Writes a checkpoint, and removes all but the last two.

    Args:
        folder: where checkpoints lie; it is made if it isn't there.
        step: how many steps were made.
        tensors: on the CPU.
        state: all else, as JSON.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: the disk is full, or can't be written; nothing half is left under a
            checkpoint's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}"
    unfinished = folder / f"{_OURS_UNFINISHED}{step}.{os.getpid()}"
    try:
        unfinished.mkdir()
        content = save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())})
        _write_durably(unfinished / TENSORS_FILE, content)
        envelope = _Envelope(digest(state), digest(content), msgspec.Raw(state))
        _write_durably(unfinished / STATE_FILE, msgspec.json.encode(envelope))
        _make_durable(unfinished)
        if path.exists():
            _remove(path)  # The same steps made again, from a checkpoint before them.
        unfinished.replace(path)
        _make_durable(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for older in found_in(folder)[KEPT:]:
        _remove(older)
    return path


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], bytes]:
    """Reads a checkpoint, each byte checked.

    Args:
        path: a checkpoint's folder.

    Returns:
        Its tensors on the CPU, and the rest as JSON.

    Raises:
        ArtifactError: it is half there, damaged, or of another release.
    """
    try:
        with (path / STATE_FILE).open("rb") as file:
            described = file.read(STATE_SIZE_BYTES_MAX + 1)
        if len(described) > STATE_SIZE_BYTES_MAX:
            raise ArtifactError(
                f"{path / STATE_FILE} is larger than {STATE_SIZE_BYTES_MAX} bytes: no checkpoint is"
            )
        envelope = _envelope_decoder.decode(described)
        content = (path / TENSORS_FILE).read_bytes()
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is no whole checkpoint: {error}") from None
    state = bytes(envelope.state)
    for name, found, promised in (
        (STATE_FILE, digest(state), envelope.digest),
        (TENSORS_FILE, digest(content), envelope.tensors_digest),
    ):
        if found != promised:
            raise ArtifactError(
                f"{path / name} is damaged: its digest is {found}, and it was written as {promised}"
            )
    try:
        return load(content), state
    except SafetensorError as error:
        raise ArtifactError(f"{path / TENSORS_FILE} can't be read: {error}") from None


def found_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last first; of a checkpoint's own folder, itself.

    Args:
        folder: where checkpoints lie; one that isn't there holds none.
    """
    if (folder / STATE_FILE).exists():
        return [folder]
    try:
        steps = {step: path for path in folder.iterdir() if (step := step_of(path)) is not None}
    except OSError:
        return []
    return [steps[step] for step in sorted(steps, reverse=True)]


def sweep_unfinished(folder: Path) -> None:
    """Removes what a killed training left half written.

    Args:
        folder: where checkpoints lie; it may be absent.
    """
    if folder.is_dir():
        for path in folder.glob(f"{_OURS_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    # Under its own name it would be a checkpoint, half there, until the last file is gone.
    going = path.with_name(f"{_OURS_UNFINISHED}going.{path.name}.{os.getpid()}")
    path.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _make_durable(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
