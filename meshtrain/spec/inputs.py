"""What a job file says of the data that its jobs read, and what is worked out from it.

    inputs: {data: pascal5i}                  # the newest version when the sweep is submitted
    inputs: {data: pascal5i@2, masks: "{dataset}_masks"}
    inputs: [pascal5i, coco20i]               # each under its own name
    inputs: {data: {path: /mnt/share/coco}}   # used in place, hashed by its listing

A reference is the text `pascal5i`, `pascal5i@2`, or an absolute path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshtrain.errors import UserError
from meshtrain.ids import digest
from meshtrain.spec import kinds
from meshtrain.spec.jobs import CommandWork, InputData
from meshtrain.spec.kinds import Kind
from meshtrain.spec.matrix import Matrix, Scalar, cells, cells_count_max
from meshtrain.spec.placeholders import fill, placeholders, unescape
from meshtrain.spec.problems import shown
from meshtrain.spec.recipe import canonical

INPUTS_MAX = 64
"""Inputs of one job."""
REFERENCES_MAX = 1000
"""Data sets and shares of all jobs of a sweep."""
VERSION_MAX = 1_000_000
VARIABLE_PREFIX = "MESHTRAIN_INPUT_"
PREPARED_VARIABLE = "MESHTRAIN_PREPARED"
PREPARED_VERSION = 1
"""Raised when the same command would fill `{prepared}` in another way."""

_REFERENCE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})(?:@([1-9][0-9]{0,6}))?\Z")
_NOT_IN_VARIABLE = re.compile(r"[^A-Za-z0-9]")
_REFERENCE_WORDS = "a data set's name, with its version or without: pascal5i, pascal5i@2"


def split_reference(reference: str) -> tuple[str, int | None]:
    """A data set's name and version; None is its newest.

    Raises ValueError, saying what was expected.
    """
    match = _REFERENCE.match(reference)
    if match is None or int(match[2] or 1) > VERSION_MAX:
        raise ValueError(f"{shown(reference)} is not {_REFERENCE_WORDS}")
    return match[1], None if match[2] is None else int(match[2])


def is_share(reference: str) -> bool:
    """Whether it is a path, used in place."""
    return reference.startswith("/")


def check_reference(reference: str) -> str:
    """A reference without placeholders. Raises ValueError, saying what was expected."""
    if is_share(reference):
        path: str = kinds.ABSOLUTE_PATH.check(reference)
        if ".." in path.split("/"):
            raise ValueError(f"{shown(path)} leads up by ..: write the path that it comes to")
        return path.rstrip("/") or "/"
    split_reference(reference)
    return reference


def variable_of(name: str) -> str:
    """The environment variable that holds an input's path: `MESHTRAIN_INPUT_DATA`."""
    return VARIABLE_PREFIX + _NOT_IN_VARIABLE.sub("_", name).upper()


def _check_inputs(value: Any) -> dict[str, str]:
    if isinstance(value, list):
        found: dict[str, str] = {}
        for entry in value:
            if not isinstance(entry, str):
                raise ValueError(
                    f"{shown(entry)} is not {_REFERENCE_WORDS}; a path needs a name: "
                    "{data: {path: /mnt/share/coco}}"
                )
            name, _ = split_reference(entry)
            if name in found:
                raise ValueError(f"{shown(name)} is listed twice")
            found[name] = entry
    elif isinstance(value, dict):
        found = {name: _one(name, entry) for name, entry in value.items()}
    else:
        raise ValueError(
            f"expected names with data sets, or a list of data sets, got {shown(value)}: "
            "write {data: pascal5i}"
        )
    if len(found) > INPUTS_MAX:
        raise ValueError(f"{len(found)} inputs; at most {INPUTS_MAX}")
    variables: dict[str, str] = {}
    for name in found:
        kinds.NAME.check(name)
        other = variables.setdefault(variable_of(name), name)
        if other != name:
            raise ValueError(
                f"{shown(other)} and {shown(name)} come to the same variable "
                f"{variable_of(name)}: rename one"
            )
    return found


def _one(name: Any, entry: Any) -> str:
    reference = entry
    if isinstance(entry, dict) and set(entry) == {"path"}:
        reference = entry["path"]
        if not isinstance(reference, str) or not is_share(reference):
            raise ValueError(f"{name}: {shown(reference)} is not an absolute path")
    elif not isinstance(entry, str):
        raise ValueError(
            f"{name}: {shown(entry)} is no input: write a data set's name, or "
            "{path: /mnt/share/coco}"
        )
    elif is_share(entry):
        raise ValueError(f"{name}: a path on a share is written {{path: {entry}}}")
    if placeholders(reference):
        return str(reference)
    try:
        return check_reference(unescape(reference))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


_ONE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"path": {"type": "string", "pattern": "^/"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ]
}
INPUTS = Kind(
    "names with data sets or {path: /abs/path}, or a list of data sets",
    _check_inputs,
    {
        "anyOf": [
            {"type": "object", "additionalProperties": _ONE_SCHEMA, "maxProperties": INPUTS_MAX},
            {"type": "array", "items": {"type": "string"}, "maxItems": INPUTS_MAX},
        ]
    },
)


def _check_lines(value: Any) -> str:
    if isinstance(value, list):
        if not value:
            raise ValueError("the list is empty: it needs a shell line")
        # The first line that fails ends it.
        return "set -e\n" + "\n".join(kinds.FILLED_TEXT.check(line) for line in value)
    line: str = kinds.FILLED_TEXT.check(value)
    return line


LINES = Kind(
    "text, or a list of shell lines",
    _check_lines,
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
        ]
    },
)


def filled_reference(reference: str, cell: Mapping[str, Scalar]) -> str:
    """A reference of one cell. Raises ValueError when what it comes to is none."""
    if "{" not in reference and "}" not in reference:
        return reference
    return check_reference(unescape(fill(reference, cell, for_shell=False)))


def references(inputs: Mapping[str, str], matrix: Matrix) -> tuple[str, ...]:
    """All that the inputs of a sweep come to over its cells, sorted; what comes to none is left.

    Raises UserError when it is more than REFERENCES_MAX.
    """
    plain = {reference for reference in inputs.values() if not placeholders(reference)}
    varied = [reference for reference in inputs.values() if placeholders(reference)]
    found = {filled_reference(reference, {}) for reference in plain}
    if varied:
        for cell in cells(matrix, cells_max=cells_count_max(matrix)):
            for reference in varied:
                try:
                    found.add(filled_reference(reference, cell.values))
                except ValueError:
                    continue  # The expansion tells it, with its place.
    if len(found) > REFERENCES_MAX:
        raise UserError(
            f"the jobs of the sweep read {len(found):,} data sets, at most {REFERENCES_MAX:,}: "
            "publish them together as one folder, or split the sweep"
        )
    return tuple(sorted(found))


def input_digests(inputs: Mapping[str, InputData]) -> dict[str, str]:
    """Name → digest, as recipes hold them."""
    return {name: data.digest for name, data in inputs.items()}


def prepared_key(work: CommandWork, user: str | None) -> str:
    """What the folder of a preparation is called: all that its content depends on, hashed."""
    document = {
        "version": PREPARED_VERSION,
        "command": work.prepare,
        "code": work.code,
        # A share is used in place: what was made of it may point there.
        "inputs": {
            name: [data.digest, data.source if data.on_share else None]
            for name, data in work.inputs.items()
        },
        "user": user,
    }
    return digest(canonical(document))
