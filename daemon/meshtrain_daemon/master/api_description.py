"""The OpenAPI 3.1 description of the JSON API, made from the records that it answers with.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from meshtrain.core.changes import BaseRow, JobRow, NodeRow, SweepRow
from meshtrain.core.job import Attempt, Failure, JobState
from meshtrain.core.node import NodeSpec
from meshtrain.results.merge import CellResult
from meshtrain.spec.jobs import Limits, Resources, Work

API_PATH: Final = "/api/v1"


class Job(JobRow, frozen=True, tag=False):
    """A job, as lists show it."""


class Sweep(SweepRow, frozen=True, tag=False, kw_only=True):
    """A sweep, its jobs by state, and where its results lie."""

    states: dict[str, int]
    recipe_hashes: tuple[str, ...]
    reused_hashes: tuple[str, ...]
    metric: str | None
    folder: str


class Node(NodeRow, frozen=True, tag=False, kw_only=True):
    """A node, what it said that it is, and what runs there."""

    spec: NodeSpec
    memory_used_bytes: int
    running: tuple[str, ...]
    """Names of the jobs that hold a part of it; the first ones."""
    running_count: int


class BaseSummary(BaseRow, frozen=True, tag=False):
    """A base, as a job that starts from it shows it."""


class Base(BaseRow, frozen=True, tag=False, kw_only=True):
    """A base, and the job that trains it."""

    job_id: str
    job: str
    job_state: str
    job_node_id: str | None
    failure: str
    reason: str
    committed_wall_s: float | None
    archived: bool


class JobDetail(JobRow, frozen=True, tag=False, kw_only=True):
    """All of one job; of its environment the names alone."""

    cell: dict[str, Any]
    group: str
    work: Work
    resources: Resources
    limits: Limits
    cancelling: bool
    last_failure: Failure | None
    attempts: tuple[Attempt, ...]
    base: BaseSummary | None


class Event(msgspec.Struct, frozen=True):
    """A line for people."""

    wall_s: float
    text: str


class MergeRule(msgspec.Struct, frozen=True):
    """How the results of a sweep are merged."""

    metric: str | None
    over: tuple[str, ...]
    file: str | None


class Results(msgspec.Struct, frozen=True):
    """The results of a sweep, a page of its cells at a time."""

    sweep_id: str
    name: str
    folder: str
    results: MergeRule
    archived: int | None
    target: str | None
    cells: tuple[CellResult, ...]
    offset: int
    total: int


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no other answer."""

    error: str


_TYPES: Final = (Sweep, Job, Node, Base, Event, JobDetail, Results, Refusal)
_REF: Final = "#/components/schemas/{name}"
_RANGES: Final = (
    ("offset", "Rows to pass over.", {"type": "integer", "minimum": 0, "default": 0}),
    (
        "limit",
        "Rows to answer with; there may be fewer, so go on from the offset that you have come to.",
        {"type": "integer", "minimum": 0, "maximum": 1000, "default": 100},
    ),
)
_FILTER: Final = (
    "filter",
    'Words that the texts of a row must all hold, in any case; "!" in front turns it round.',
    {"type": "string", "maxLength": 200},
)
_LISTS: Final = {
    "sweeps": (Sweep, "Sweeps, newest first."),
    "jobs": (Job, "Jobs: the newest sweep first, bases last."),
    "nodes": (Node, "Nodes by name."),
    "bases": (Base, "Bases, newest first."),
    "events": (Event, "The last 500 lines for people, newest first."),
}


def described(version: str) -> dict[str, Any]:
    """The description.

    Args:
        version: of the master that answers.
    """
    paths = {f"{API_PATH}/{kind}": _list(kind, *about) for kind, about in _LISTS.items()}
    paths[f"{API_PATH}/jobs/{{name}}"] = _one(
        "job", JobDetail, "All of one job.", _path("name", "A job's name or id, or its beginning.")
    )
    paths[f"{API_PATH}/results/{{sweep}}"] = _one(
        "results",
        Results,
        "A page of a sweep's cells with their metrics.",
        _path("sweep", "A sweep's name or id, or its beginning."),
        *(_parameter(*range_) for range_ in _RANGES),
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "meshtrain",
            "version": version,
            "description": "What a mesh does, read-only. Times are seconds since 1970.",
        },
        "servers": [{"url": "/"}],
        "security": [{"read_token": []}, {"member": []}, {}],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _SCHEMES},
    }


_SCHEMES: Final = {
    "read_token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `meshtrain token --read NAME`; by TLS only.",
    },
    "member": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "A request signed with a member's key, see docs/SECURITY.md. A master "
        "without keys listens on loopback alone, and asks for nothing.",
    },
}


def _list(kind: str, row: type, summary: str) -> dict[str, Any]:
    parameters = [_parameter(*range_) for range_ in (*_RANGES, _FILTER)]
    if kind == "jobs":
        parameters += [
            _parameter("sweep", "Only jobs of this sweep, by name or id.", {"type": "string"}),
            _parameter(
                "state",
                f"Only jobs in these states, with commas: {', '.join(JobState)}.",
                {"type": "string"},
            ),
        ]
    page = {
        "type": "object",
        "properties": {
            "rows": {"type": "array", "items": _ref(row)},
            "total": {"type": "integer", "description": "All rows there are."},
            "matched": {"type": "integer", "description": "Rows that the filter lets through."},
            "offset": {"type": "integer"},
        },
        "required": ["rows", "total", "matched", "offset"],
    }
    return {"get": _operation(f"list_{kind}", summary, parameters, page)}


def _one(name: str, answer: type, summary: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"get": _operation(f"get_{name}", summary, list(parameters), _ref(answer))}


def _operation(
    name: str, summary: str, parameters: list[dict[str, Any]], answer: dict[str, Any]
) -> dict[str, Any]:
    refusals = {
        "400": "A parameter is not what it should be.",
        "401": "No signature of a member, and no read token.",
        "403": "A read token in the clear.",
        "404": "Nothing of that name.",
        "503": "Too many questions at a time, or the master is still coming up.",
    }
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": _response("The answer.", answer),
            **{status: _response(told, _ref(Refusal)) for status, told in refusals.items()},
        },
    }


def _response(told: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, told: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": told, "schema": schema}


def _path(name: str, told: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": told,
        "schema": {"type": "string"},
    }


def _ref(of: type) -> dict[str, Any]:
    return {"$ref": _REF.format(name=of.__name__)}


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    return {name: _answered(schema) for name, schema in components.items()}


def _answered(schema: Any) -> Any:
    """A schema of what is answered: all fields are there, and what is no number is null."""
    if isinstance(schema, list):
        return [_answered(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _answered(part) for key, part in schema.items() if key != "default"}
    if isinstance(made.get("properties"), dict):
        made["required"] = list(made["properties"])
    if made.get("additionalProperties") == {"type": "number"}:
        made["additionalProperties"] = {"type": ["number", "null"]}
    return made
