"""Trained models as files: safetensors, with what is needed to use them again.

All metadata lies under one key: safetensors writes several keys in an order of
its own, and equal models must be equal files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from meshtrain.errors import ArtifactError

MODEL_FILE = "model.safetensors"
METADATA_KEY = "meshtrain"
DIFFERENCES_SHOWN_MAX = 8


class ModelInfo(msgspec.Struct, frozen=True):
    """What a model's file says of itself."""

    model: str
    sample_shape: tuple[int, ...]
    """(F,) or (C, H, W)."""
    classes: int
    recipe_hash: str | None
    """Of the base that it is, or that it started from; None if from scratch."""
    config: dict[str, Any]
    """The configuration that trained it."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is seen whole or not at all, also after a power cut.

    Args:
        path: the final path; its folder must exist.
        content: all its bytes.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Writes a model's weights and `info`, atomically.

    Args:
        path: the file to write.
        model: on any device.
        info: what the file says of itself.
    """
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in sorted(model.state_dict().items())
    }
    described = msgspec.json.encode(info, order="deterministic").decode()
    write_atomically(path, save(tensors, metadata={METADATA_KEY: described}))


_info_decoder = msgspec.json.Decoder(ModelInfo)


def load_model(path: Path) -> tuple[dict[str, torch.Tensor], ModelInfo | None]:
    """Reads a trained model.

    Args:
        path: a safetensors file.

    Returns:
        The weights on the CPU, and what the file says of itself: None for a file
        that meshtrain didn't write.

    Raises:
        ArtifactError: the file is missing or malformed.
    """
    try:
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(str(path))
    except FileNotFoundError:
        raise ArtifactError(
            f"there is no {path}: the base artifact holds no {path.name}. "
            "Built-in training can only start from a base that has one."
        ) from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is no readable safetensors file: {error}. Rebuild or fetch the base again."
        ) from None
    described = metadata.get(METADATA_KEY)
    if described is None:
        return tensors, None
    try:
        return tensors, _info_decoder.decode(described)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"the metadata of {path} can't be read: {error}. It was written by another "
            "release of meshtrain: rebuild the base, or use that release."
        ) from None


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Puts weights into a model that they fit exactly.

    Args:
        model: of the architecture that the weights are for.
        tensors: name → weights.
        where: their file, as messages name it.

    Raises:
        ArtifactError: names or shapes differ; the message lists them.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differences = [
        f"{name} is {_shape(found.get(name))}, the model needs {_shape(wanted.get(name))}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:DIFFERENCES_SHOWN_MAX])
        more = len(differences) - DIFFERENCES_SHOWN_MAX
        raise ArtifactError(
            f"the weights in {where} don't fit the model: {shown}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Use the model and the data shape that the base was trained with."
        )
    model.load_state_dict(tensors)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
