"""What determines a base model, and its hash.

A recipe is a plain document. Its canonical form is text, in UTF-8:

    null, true, false     as they are
    numbers               exact decimals with no exponent, no needless zero, no "-0":
                          1e-3 and 0.001 are `0.001`, 64 and 64.0 are `64`
    strings               in double quotes, escaped as JSON with ASCII alone
    lists                 [a,b], in their order
    mappings              {"a":1,"b":2}, keys sorted by code point, no spaces

A bool is no number, NaN and infinities are refused, strings stay strings. The
recipe hash is the xxh3-128 of one version byte and the canonical form. It is
computed here alone: when jobs are made, and again by the process that trains,
over the configuration that it parsed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from meshtrain.errors import UserError
from meshtrain.ids import digest
from meshtrain.spec.lineage import PARENT_KEY, Parent
from meshtrain.spec.training_keys import BASE_DEFAULTS, DIGITS_VERSION, RECIPE_KEYS

TRAINER_VERSION = 1
"""Raised whenever the built-in training would make another model of the same recipe."""

RECIPE_VERSION = 1
CANONICAL_VERSION_BYTE = b"\x01"
DEPTH_MAX = 64

_quote = json.encoder.encode_basestring_ascii


def canonical(document: Any) -> bytes:
    """The canonical form of `document`.

    Raises UserError for NaN and infinities, for keys that aren't text, and for
    values that are neither scalars, lists nor mappings.
    """
    parts: list[str] = []
    _write(document, parts.append, 0)
    return "".join(parts).encode("ascii")


def recipe_hash(document: Any) -> str:
    """The hash of a recipe: 32 hexadecimal digits."""
    return digest(CANONICAL_VERSION_BYTE + canonical(document))


def _write(value: Any, put: Any, depth: int) -> None:
    if isinstance(value, str):
        put(_quote(value))
    elif value is None:
        put("null")
    elif isinstance(value, bool):
        put("true" if value else "false")
    elif isinstance(value, int):
        put(_int_text(value))
    elif isinstance(value, float):
        put(_float_text(value))
    elif depth > DEPTH_MAX:
        raise UserError(f"a recipe nests deeper than {DEPTH_MAX} levels; make it flatter")
    elif isinstance(value, Mapping):
        _write_mapping(value, put, depth)
    elif isinstance(value, list | tuple):
        put("[")
        for index, item in enumerate(value):
            if index:
                put(",")
            _write(item, put, depth + 1)
        put("]")
    else:
        raise UserError(
            f"a {type(value).__name__} can't be part of a recipe: "
            "write text, a number, true or false, a list or keys with values"
        )


def _write_mapping(value: Mapping[Any, Any], put: Any, depth: int) -> None:
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"the key {key!r} of a recipe is not text; put it in quotes")
    put("{")
    for index, key in enumerate(sorted(value)):
        put("," + _quote(key) + ":" if index else _quote(key) + ":")
        _write(value[key], put, depth + 1)
    put("}")


def _int_text(value: int) -> str:
    try:
        return str(int(value))
    except ValueError:
        raise UserError("a number of a recipe has too many digits") from None


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        raise UserError(f"{value} can't be part of a recipe: write a finite number")
    if value == 0:
        return "0"
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def builtin_data_digest(source: str, participant: str) -> str:
    """The digest of a participant of built-in data, whose name fixes the content.

    Raises UserError when `source` is no built-in data.
    """
    if source != "digits":
        raise UserError(f'"{source}" is no built-in data; built in is: digits')
    return digest(
        canonical({"source": source, "version": DIGITS_VERSION, "participant": participant})
    )


def training_recipe(
    base: Mapping[str, Any], data_digests: Mapping[str, str], parent: Parent | None = None
) -> dict[str, Any]:
    """The recipe of a base of the built-in training.

    `base` holds recipe keys, defaults may be left out; `data_digests` has a
    digest for each of its participants, and may have more. `parent` is the model
    that it continues from.
    Raises UserError for unknown or missing keys and for a missing digest.
    """
    unknown = sorted(set(base) - set(RECIPE_KEYS))
    if unknown:
        raise UserError(f"{', '.join(unknown)} can't be part of a recipe; known: {_known_keys()}")
    filled = {**BASE_DEFAULTS, **{key: base[key] for key in RECIPE_KEYS if key in base}}
    for key in ("participants", "model"):
        if not filled.get(key):
            raise UserError(f"a recipe needs {key}; known keys: {_known_keys()}")
    filled["participants"] = sorted(set(filled["participants"]))
    return {
        "version": RECIPE_VERSION,
        "kind": "training",
        "trainer_version": TRAINER_VERSION,
        "base": {key: filled[key] for key in RECIPE_KEYS},
        "data": _digests_of(filled["participants"], data_digests),
        **_pinned(parent),
    }


def _pinned(parent: Parent | None) -> dict[str, Any]:
    # Left out where there is none: recipes keep the hash that they had before there were parents.
    return {} if parent is None else {PARENT_KEY: parent.document()}


def _digests_of(participants: Iterable[str], data_digests: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in participants if name not in data_digests]
    if missing:
        raise UserError(f"no data of {', '.join(missing)} was found: a recipe needs its digest")
    return {name: data_digests[name] for name in participants}


def _known_keys() -> str:
    return ", ".join(RECIPE_KEYS)


def command_recipe(
    command: str,
    params: Mapping[str, Any],
    env: Mapping[str, str],
    code_digests: Mapping[str, str],
    inputs: Mapping[str, str],
    parent: Parent | None = None,
    *,
    prepare: str | None = None,
) -> dict[str, Any]:
    """The recipe of a base that a command makes.

    `code_digests` maps paths inside the snapshot to digests, `inputs` names of
    inputs to digests; no path of a machine is in a recipe. `prepare` is part of
    it where there is one.
    """
    prepared = {} if prepare is None else {"prepare": prepare}
    return {
        "version": RECIPE_VERSION,
        "kind": "command",
        "command": command,
        "params": dict(params),
        "env": dict(env),
        "code": dict(code_digests),
        "inputs": dict(inputs),
        **prepared,
        **_pinned(parent),
    }


def explain_mismatch(ours: Any, theirs: Any) -> str:
    """Both canonical forms, their hashes, and every place where they differ.

    `ours` is what this process parsed, `theirs` what the job was made with.
    """
    lines = [
        "the configuration that was parsed is not the recipe that was hashed:",
        f"  parsed   {recipe_hash(ours)}  {canonical(ours).decode('ascii')}",
        f"  hashed   {recipe_hash(theirs)}  {canonical(theirs).decode('ascii')}",
    ]
    differences = list(_differences(ours, theirs, ""))
    lines += [f"  differs  {difference}" for difference in differences[:20]]
    if len(differences) > 20:
        lines.append(f"  … and {len(differences) - 20} more")
    return "\n".join(lines)


def _differences(ours: Any, theirs: Any, path: str) -> Iterable[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            where = f"{path}.{key}" if path else str(key)
            if key not in ours or key not in theirs:
                yield f"{where}: only in the {'hashed' if key in theirs else 'parsed'} recipe"
            else:
                yield from _differences(ours[key], theirs[key], where)
    elif canonical(ours) != canonical(theirs):
        yield (
            f"{path or 'all'}: {canonical(ours).decode('ascii')} "
            f"is not {canonical(theirs).decode('ascii')}"
        )
