"""Model files as the safetensors library writes them, and how a fine-tune changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save_file

Tensors = dict[str, Any]
"""Arrays of float32 by their names."""


def filled(name: str, shape: Sequence[int], version: int = 0) -> Any:
    """Values that no other tensor, and no other version of this one, has; quickly made."""
    seed = [xxhash.xxh3_64_intdigest(name.encode()), version]
    count = int(np.prod(shape))
    words = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 1 << 64, size=(count + 1) // 2, dtype=np.uint64
    )
    return words.view(np.float32)[:count].reshape(shape)


def transformer(width: int, blocks: int, vocabulary: int, classes: int) -> Tensors:
    """A model in the shape of GPT-2; in the file, by its name, the classifier comes first."""
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word.weight": (vocabulary, width)}
    for block in range(blocks):
        for norm in ("ln_1", "ln_2"):
            shapes[f"h.{block}.{norm}.weight"] = shapes[f"h.{block}.{norm}.bias"] = (width,)
        for layer, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes[f"h.{block}.{layer}.weight"] = (rows, columns)
            shapes[f"h.{block}.{layer}.bias"] = (columns,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (width,)
    shapes["classifier.weight"] = (classes, width)
    shapes["classifier.bias"] = (classes,)
    return {name: filled(name, shape) for name, shape in shapes.items()}


def with_rows(tensors: Mapping[str, Any], names: Sequence[str], count: int, at: int) -> Tensors:
    """The same with `count` new rows in some tensors, from row `at` on."""
    changed = dict(tensors)
    for name in names:
        old = tensors[name]
        new = filled(name, (count, *old.shape[1:]), version=1)
        changed[name] = np.concatenate([old[:at], new, old[at:]])
    return changed


def retrained(tensors: Mapping[str, Any], names: Sequence[str]) -> Tensors:
    """The same with other values in some tensors."""
    return {**tensors, **{name: filled(name, tensors[name].shape, version=2) for name in names}}


def save(tensors: Mapping[str, Any], path: Path) -> Path:
    """Writes a file with the library; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path)
    return path
