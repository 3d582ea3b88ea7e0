"""The published JSON Schema of job files, and the list of all keys for people."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from meshtrain.spec.check_training import TARGET_AXES, field_kind
from meshtrain.spec.forms import (
    CommandBase,
    CommandSweep,
    FlatJob,
    ResourcesSection,
    SweepKeys,
    TargetSection,
    TrainingBase,
    TrainingSweep,
)
from meshtrain.spec.kinds import Kind
from meshtrain.spec.matrix import EDITS_MAX, scalar_text
from meshtrain.spec.training_keys import BASE_DEFAULTS, TARGET_DEFAULTS
from meshtrain.spec.validate import section_model

EXPLAIN_WIDTH = 80
_FORMS: tuple[type[BaseModel], ...] = (TrainingSweep, CommandSweep, FlatJob)
_REQUIRED: dict[type[BaseModel], tuple[str, ...]] = {
    TrainingBase: ("participants", "model"),
    TargetSection: ("mode", "participant"),
    CommandSweep: ("command",),
    CommandBase: ("command",),
    FlatJob: ("mode", "participants", "target_participant", "model"),
}
"""What people are told to write; rare modes need less, and the parser knows which."""

_SCALAR = {"type": ["string", "number", "boolean"]}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of every form, with descriptions for editors."""
    _, schema = models_json_schema(
        [(model, "validation") for model in _FORMS], ref_template="#/$defs/{model}"
    )
    definitions = schema["$defs"]
    for definition in definitions.values():
        _publish(definition)
    for form in ("TrainingSweep", "CommandSweep"):
        definitions[form]["properties"]["matrix"] = _matrix(form)
    _state_defaults(definitions)
    definitions["CommandSweep"]["anyOf"] = [{"required": ["command"]}, {"required": ["base"]}]
    definitions["TrainingSweep"]["anyOf"] = [{"required": ["base"]}, {"required": ["target"]}]
    definitions["FlatJob"]["required"] = ["mode", "model"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "meshtrain job file",
        "description": "A sweep of the built-in training, a sweep of a command, or a list of jobs.",
        "anyOf": [
            {"$ref": "#/$defs/TrainingSweep"},
            {"$ref": "#/$defs/CommandSweep"},
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/FlatJob"}},
        ],
        "$defs": definitions,
    }


def _publish(definition: dict[str, Any]) -> None:
    """Takes what only the program needs out of a definition: titles and null defaults."""
    definition.pop("title", None)
    for field in definition.get("properties", {}).values():
        field.pop("title", None)
        if field.get("default", "") is None:
            del field["default"]
        if "patternProperties" in field:
            field["additionalProperties"] = False


def _matrix(form: str) -> dict[str, Any]:
    values = {
        "anyOf": [
            {"type": "array", "minItems": 1, "items": _SCALAR},
            {
                "type": "object",
                "properties": {
                    "range": {
                        "description": "Start, stop (left out) and step, 1 if not given.",
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 2,
                        "maxItems": 3,
                    }
                },
                "required": ["range"],
                "additionalProperties": False,
            },
        ]
    }
    cells = {
        "type": "array",
        "maxItems": EDITS_MAX,
        "items": {"type": "object", "minProperties": 1, "additionalProperties": _SCALAR},
    }
    properties: dict[str, Any] = {
        "exclude": {**cells, "description": "Cells to leave out; a cell that matches all pairs."},
        "include": {**cells, "description": "Cells to add; axes not named run over their lists."},
    }
    if form == "TrainingSweep":
        for key in TARGET_AXES:
            properties[key] = {**values, "description": _field_words(TargetSection, key)}
    return {
        "description": TrainingSweep.model_fields["matrix"].description,
        "type": "object",
        "properties": properties,
        "additionalProperties": values,
    }


def _state_defaults(definitions: dict[str, Any]) -> None:
    for name, defaults in (
        ("TrainingBase", BASE_DEFAULTS),
        ("TargetSection", TARGET_DEFAULTS),
        ("FlatJob", _flat_defaults()),
    ):
        for key, default in defaults.items():
            definitions[name]["properties"][key]["default"] = default


def _flat_defaults() -> dict[str, Any]:
    known = {**TARGET_DEFAULTS, **BASE_DEFAULTS}
    return {key: known[key] for key in FlatJob.model_fields if key in known}


def explain() -> str:
    """Every key of a job file: what it may be, its default, one line on what it is for."""
    blocks = [
        "Keys of a job file (YAML, JSON or TOML). Only the required ones must be there.",
        _explained("A sweep of the built-in training", TrainingSweep),
        _explained("A sweep of a command", CommandSweep),
        _explained("A flat list: each entry is one run of the built-in training", FlatJob),
    ]
    return "\n\n".join(blocks) + "\n"


def _explained(title: str, model: type[BaseModel]) -> str:
    return "\n".join([title, *_key_lines(model, "  ", "")])


def _key_lines(model: type[BaseModel], indent: str, prefix: str) -> list[str]:
    lines: list[str] = []
    for key in _reading_order(model):
        field = model.model_fields[key]
        inner = section_model(model, key)
        head = f"{indent}{prefix}{field.alias or key}"
        if inner is None:
            head += f": {_field_words(model, key)}{_default_words(model, key)}"
        elif inner is ResourcesSection and prefix:
            head += ": keys as in resources"
            inner = None
        lines += textwrap.wrap(
            head, EXPLAIN_WIDTH, subsequent_indent=indent + "  ", break_long_words=False
        )
        lines += textwrap.wrap(
            field.description or "",
            EXPLAIN_WIDTH,
            initial_indent=indent + "    ",
            subsequent_indent=indent + "    ",
        )
        if inner is not None:
            lines += _key_lines(inner, indent, f"{prefix}{key}.")
    return lines


def _reading_order(model: type[BaseModel]) -> list[str]:
    """The name first, then what is a form's own, then what all sweeps share."""
    if not issubclass(model, SweepKeys):
        return list(model.model_fields)
    own = [key for key in model.model_fields if key not in SweepKeys.model_fields]
    return ["name", *own, *(key for key in SweepKeys.model_fields if key != "name")]


def _field_words(model: type[BaseModel], key: str) -> str:
    metadata = model.model_fields[key].metadata
    if any(isinstance(item, Kind) for item in metadata):
        return field_kind(model, key).words
    if key == "matrix":
        return "axes with values"
    if key in ("params", "env"):
        return "names with text, numbers or true/false"
    return "list of " + _item_words(model, key)


def _item_words(model: type[BaseModel], key: str) -> str:
    pending: list[Any] = [model.model_fields[key].annotation]
    while pending:
        option = pending.pop()
        for item in getattr(option, "__metadata__", ()):
            if isinstance(item, Kind):
                return item.words
        pending += getattr(option, "__args__", ())
    return "values"


def _default_words(model: type[BaseModel], key: str) -> str:
    if key in _REQUIRED.get(model, ()):
        return " (required)"
    tables = {
        TrainingBase: BASE_DEFAULTS,
        TargetSection: TARGET_DEFAULTS,
        FlatJob: _flat_defaults(),
    }
    default = tables.get(model, {}).get(key, model.model_fields[key].default)
    if key == "data" and model is TrainingSweep:
        default = "digits"
    return f" (default {scalar_text(default)})" if isinstance(default, str | int | float) else ""
