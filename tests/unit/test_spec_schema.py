"""The published schema takes what the parser takes, and `explain` names every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshtrain.spec import forms
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.reader import read
from meshtrain.spec.schema import EXPLAIN_WIDTH, explain, json_schema
from meshtrain.spec.training_keys import BASE_DEFAULTS, TARGET_DEFAULTS
from meshtrain.spec.validate import section_model

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
FILES = [*sorted(EXAMPLES.glob("*.*")), EXAMPLES / "few_shot" / "sweep.yaml"]
FORMS: tuple[type[BaseModel], ...] = (forms.TrainingSweep, forms.CommandSweep, forms.FlatJob)

TYPES: dict[str, Any] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    ),
}
NOTES = {"title", "description", "default", "$defs", "$schema"}


class Checker:
    """The part of JSON Schema that ours uses; another keyword is an error here."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema

    def takes(self, value: Any) -> bool:
        return self._takes(self._root, value)

    def _takes(self, schema: Any, value: Any) -> bool:
        if isinstance(schema, bool):
            return schema
        return all(
            keyword in NOTES or self._keyword(keyword, wanted, schema, value)
            for keyword, wanted in schema.items()
        )

    def _keyword(self, keyword: str, wanted: Any, schema: dict[str, Any], value: Any) -> bool:
        is_number = TYPES["number"](value)
        match keyword:
            case "$ref":
                return self._takes(self._root["$defs"][wanted.removeprefix("#/$defs/")], value)
            case "anyOf":
                return any(self._takes(option, value) for option in wanted)
            case "type":
                kinds = [wanted] if isinstance(wanted, str) else wanted
                return any(TYPES[kind](value) for kind in kinds)
            case "enum":
                return value in wanted
            case "const":
                return bool(value == wanted)
            case "pattern":
                return not isinstance(value, str) or re.search(wanted, value) is not None
            case "minLength":
                return not isinstance(value, str) or len(value) >= wanted
            case "minimum":
                return not is_number or value >= wanted
            case "maximum":
                return not is_number or value <= wanted
            case "exclusiveMinimum":
                return not is_number or value > wanted
            case "minItems":
                return not isinstance(value, list) or len(value) >= wanted
            case "maxItems":
                return not isinstance(value, list) or len(value) <= wanted
            case "items":
                return not isinstance(value, list) or all(self._takes(wanted, v) for v in value)
            case "minProperties":
                return not isinstance(value, dict) or len(value) >= wanted
            case "required":
                return not isinstance(value, dict) or set(wanted) <= set(value)
            case "properties":
                return not isinstance(value, dict) or all(
                    self._takes(wanted[key], inner) for key, inner in value.items() if key in wanted
                )
            case "patternProperties":
                return not isinstance(value, dict) or all(
                    self._takes(inner, value[key])
                    for pattern, inner in wanted.items()
                    for key in value
                    if re.search(pattern, key)
                )
            case "additionalProperties":
                return not isinstance(value, dict) or all(
                    self._takes(wanted, inner)
                    for key, inner in value.items()
                    if key not in schema.get("properties", {})
                    and not any(re.search(p, key) for p in schema.get("patternProperties", {}))
                )
        raise AssertionError(f"this test doesn't know the keyword {keyword}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_schema_takes_every_example(path: Path) -> None:
    assert Checker(json_schema()).takes(read(path.read_bytes(), path.name).tree)


BASE = {"participants": ["a"], "model": "cnn"}
TARGET = {"mode": "target_only_fine_tuning", "participant": "b"}


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        3,
        {"base": {**BASE, "lerning_rate": 1}},
        {"base": {**BASE, "model": "cn"}},
        {"base": {**BASE, "lr": "0.1"}},
        {"base": {**BASE, "lr": 0}},
        {"base": {**BASE, "batch_size": 0.5}},
        {"base": {**BASE, "participants": ["../x"]}},
        {"base": {**BASE, "participants": "a"}},
        {"base": BASE, "target": {**TARGET, "mode": "base_alone"}},
        {"base": BASE, "target": {**TARGET, "target_data_pct": 1.5}},
        {"base": BASE, "target": TARGET, "references": ["base"]},
        {"base": BASE, "target": TARGET, "matrix": {"fold": 1}},
        {"base": BASE, "target": TARGET, "matrix": {"fold": []}},
        {"base": BASE, "target": TARGET, "matrix": {"fold": {"rnage": [0, 3]}}},
        {"base": BASE, "target": TARGET, "matrix": {"fold": {"range": [0]}}},
        {"base": BASE, "target": TARGET, "matrix": {"fold": [0], "exclude": [{}]}},
        {"base": BASE, "data": "mnist"},
        {"base": BASE, "data": {"folder": "relative"}},
        {"base": BASE, "retries": -1},
        {"command": ""},
        {"command": "true", "target": TARGET},
        {"command": "true", "resources": {"gpus": -1}},
        {"command": "true", "grid": {}},
        {"command": "true", "env": {"A-B": "1"}},
        {"command": "true", "params": {"a": [1]}},
        [{"mode": "target_only"}],
        [{"mode": "target_only", "target_participant": "a", "model": "cnn", "batch": 3}],
    ],
)
def test_the_schema_and_the_parser_refuse_the_same(tree: Any) -> None:
    assert not Checker(json_schema()).takes(tree)
    with pytest.raises(JobFileError):
        parse_job_file(json.dumps(tree).encode(), "x.json")


@pytest.mark.parametrize(
    "tree",
    [
        {"base": BASE},
        {"base": {**BASE, "lr": 1e-3, "timeout": "2h", "resources": {"gpu_memory": "12GB"}}},
        {"base": BASE, "target": TARGET, "matrix": {"lr": [1e-3], "base.lr": [1e-3, 0.1]}},
        {"base": BASE, "target": TARGET, "data": {"folder": "/d"}},
        {"target": {"mode": "target_only", "participant": "b", "model": "mlp"}},
        {"command": "run {a}", "matrix": {"a": {"range": [0, 1, 0.5]}, "include": [{"a": 7}]}},
        {"command": "true", "env": {"A": 1}, "timeout": 90, "results": {"over": []}},
        {"code": ".", "base": {"command": "make", "code": ["src/"]}},
        [{"mode": "base_only", "participants": ["a"], "model": "cnn", "device": 0}],
    ],
)
def test_the_schema_and_the_parser_take_the_same(tree: Any) -> None:
    parse_job_file(json.dumps(tree).encode(), "x.json")
    assert Checker(json_schema()).takes(tree)


def test_the_schema_is_plain_json_that_editors_can_use() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert json_schema() == schema
    for definition in schema["$defs"].values():
        assert definition["additionalProperties"] is False
        for key, field in definition["properties"].items():
            assert field.get("description"), f"editors have no word on {key}"
    base = schema["$defs"]["TrainingBase"]["properties"]
    target = schema["$defs"]["TargetSection"]["properties"]
    assert {key: base[key]["default"] for key in BASE_DEFAULTS} == BASE_DEFAULTS
    assert {key: target[key]["default"] for key in TARGET_DEFAULTS} == TARGET_DEFAULTS


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, field in model.model_fields.items():
        found.append(prefix + (field.alias or key))
        inner = section_model(model, key)
        if inner is not None and not (inner is forms.ResourcesSection and prefix):
            found += keys_of(inner, f"{prefix}{key}.")
    return found


def test_explain_names_every_key_of_every_form() -> None:
    text = explain()
    parts = re.split(r"\n\n(?=A )", text)[1:]
    assert len(parts) == len(FORMS)
    for model, part in zip(FORMS, parts, strict=True):
        named = re.findall(r"^  ([a-z_.]+)(?:: |$)", part, re.MULTILINE)
        assert sorted(named) == sorted(keys_of(model))
    assert max(len(line) for line in text.splitlines()) <= EXPLAIN_WIDTH


def test_explain_tells_kinds_defaults_and_what_must_be_there() -> None:
    text = explain()
    assert "base.participants: list of name (required)" in text
    assert "base.lr: number, above 0 (default 0.001)" in text
    assert "base.model: softmax | mlp | cnn | cnn_wide (required)" in text
    assert "  target.target_batch_pct: share, above 0, at most 1 (default 0.5)" in text
    assert "  base.resources: keys as in resources" in text
