"""Metrics, health and the JSON API, over a real server and the real queries."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from master_double import MasterDouble, small_sweep, user_error
from openapi_spec_validator import validate as validate_openapi
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from service_double import ServiceDouble

from meshtrain.core.state import MeshState
from meshtrain.spec.jobs import CommandWork, SweepSpec
from meshtrain.wire.exposition import expose
from meshtrain.wire.messages import Query
from meshtrain_daemon.master.hidden_values import HIDDEN
from meshtrain_daemon.master.queries import answer
from meshtrain_daemon.worker.metrics import WorkerMetrics

CONFIGS = Path(__file__).parents[2] / "configs"
SECRET = "s3cr3t-of-a-service"


def sweep_with_env() -> SweepSpec:
    sweep = small_sweep("secret")
    jobs = tuple(
        msgspec.structs.replace(job, work=CommandWork("run", env={"WANDB_API_KEY": SECRET}))
        for job in sweep.jobs
    )
    return msgspec.structs.replace(sweep, jobs=jobs)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[ServiceDouble]:
    double = ServiceDouble(tmp_path)
    fill(double.master)
    double.publish_nodes()
    double.note("sweep mix: 4 jobs on 1 base")
    double.note("mix/share=0.1,fold=1 failed: user error")
    async with double.running():
        yield double


def fill(master: MasterDouble) -> None:
    """A mesh where something of each kind has happened."""
    master.add_node("node-1", gpus=2)
    master.add_node("node-2", cpu_slots=1)
    master.outcome = lambda job: (
        user_error() if job.spec.cell.get("fold") == 1 else {"accuracy": 0.5, "loss": float("nan")}
    )
    master.submit(small_sweep())
    master.run_all()
    master.submit(sweep_with_env())


def families(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Each sample by its name and its labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


# --- metrics -------------------------------------------------------------------------


async def test_the_metrics_tell_what_the_mesh_does(mesh: ServiceDouble) -> None:
    told = families(await mesh.text("/metrics"))
    experiment = ("kind", "experiment")
    assert told["meshtrain_jobs"][experiment, ("state", "failed")] == 2
    assert told["meshtrain_jobs"][experiment, ("state", "succeeded")] == 2
    assert told["meshtrain_jobs_ended_total"][("kind", "base"), ("outcome", "succeeded")] == 1
    assert told["meshtrain_failures_total"][(("failure", "user error"),)] == 2
    assert told["meshtrain_nodes"] == {(("state", "there"),): 2, (("state", "away"),): 0}
    assert sum(told["meshtrain_gpus"].values()) == 2
    assert told["meshtrain_base_trainings_avoided"] == {(): 3}
    assert told["meshtrain_read_only"] == {(): 0}
    assert told["meshtrain_disk_free_bytes"][()] > 0
    assert told["meshtrain_job_run_seconds_count"][(experiment,)] == 2


async def test_names_and_units_of_metrics_follow_the_rules(mesh: ServiceDouble) -> None:
    units = ("seconds", "bytes", "total", "ratio", "celsius", "info")
    for family in text_string_to_metric_families(await mesh.text("/metrics")):
        assert family.name.startswith("meshtrain_"), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        words = family.name.split("_")
        for unit in units:
            assert unit not in words[:-1] or words[-1] in (*units, "min", "max"), family.name


async def test_a_scrape_costs_the_same_however_many_jobs_there_are(
    mesh: ServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (await mesh.text("/metrics")).count("\n")
    many = small_sweep("many", shares=tuple(n / 1000 for n in range(1, 501)), folds=4)
    mesh.master.submit(many)
    read: list[str] = []

    class Watched(dict[str, Any]):
        def __iter__(self) -> Any:
            read.append("walked")
            return super().__iter__()

        def values(self) -> Any:
            read.append("walked")
            return super().values()

        def items(self) -> Any:
            read.append("walked")
            return super().items()

    state: MeshState = mesh.master.state
    for name in ("jobs", "sweeps", "bases", "nodes", "live", "sweep_open"):
        monkeypatch.setattr(state, name, Watched(getattr(state, name)))
    text = await mesh.text("/metrics")
    assert read == []
    assert text.count("\n") == lines
    assert families(text)["meshtrain_sweeps"] == {(): 3}


async def test_labels_hold_no_names_from_outside(mesh: ServiceDouble) -> None:
    text = await mesh.text("/metrics")
    for name in ("node-1", "mix", "share", "ada"):
        assert name not in text


async def test_each_query_of_the_dashboard_asks_for_a_metric_that_there_is(
    mesh: ServiceDouble,
) -> None:
    board = json.loads((CONFIGS / "grafana" / "meshtrain.json").read_text())
    ours = families(await mesh.text("/metrics"))
    there = set(ours)
    node = WorkerMetrics()
    names = {family.name for family in node.families()}
    there |= names | {f"{name}_bucket" for name in names} | set(families(_text(node)))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 20
    asked = set()
    for panel in panels:
        for target in panel["targets"]:
            found = set(re.findall(r"meshtrain_\w+", target["expr"]))
            assert found, target
            assert found <= there, (panel["title"], found - there)
            asked |= found
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.search(r" by \(([^)]*)\)", target["expr"])
                labels = {key for name in found for pairs in ours.get(name, {}) for key, _ in pairs}
                known = {*labels, "node", "gpu", "way"}
                assert label in (kept[1] if kept else known), (panel["title"], label)
    for variable in board["templating"]["list"]:
        for name in re.findall(r"meshtrain_\w+", variable["query"]):
            assert name in there
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def _text(metrics: WorkerMetrics) -> str:
    return expose(metrics.families()).decode()


async def test_the_reference_names_each_metric_and_no_other(mesh: ServiceDouble) -> None:
    page = (CONFIGS.parent / "docs" / "reference" / "api.md").read_text()
    told = set(re.findall(r"`(meshtrain_\w+)`", page))
    begun = tuple(re.findall(r"`(meshtrain_\w+_)…`", page))
    there = set(re.findall(r"# TYPE (\w+)", await mesh.text("/metrics")))
    there |= {family.name for family in WorkerMetrics().families()}
    assert {name for name in there - told if not name.startswith(begun)} == set()
    assert told - there == set()


def test_the_example_for_prometheus_asks_where_metrics_are() -> None:
    example = YAML(typ="safe").load((CONFIGS / "prometheus.yml").read_text())
    master, nodes = example["scrape_configs"]
    assert master.get("metrics_path", "/metrics") == "/metrics"
    assert nodes["http_sd_configs"][0]["url"].endswith("/metrics/targets")
    for part in (master, nodes, nodes["http_sd_configs"][0]):
        assert "insecure_skip_verify" not in part["tls_config"]
        assert part["authorization"]["credentials_file"]
        # Some versions send the token alone where a service discovery doesn't say this.
        assert part["authorization"]["type"] == "Bearer"


# --- health --------------------------------------------------------------------------


async def test_the_health_has_a_code_for_each_state(tmp_path: Path) -> None:
    double = ServiceDouble(tmp_path)
    async with double.running(up=False):
        told = await double.json("/healthz", 503)
        assert told["status"] == "starting"
        for path in ("/metrics", "/api/v1/jobs", "/metrics/targets", "/metrics/nodes/n1"):
            assert "coming up" in (await double.json(path, 503))["error"]
        double.open()
        told = await double.json("/healthz")
        assert (told["status"], told["why"]) == ("ready", "")
        double.decisions.full = RuntimeError("3 bytes are free at /home")
        told = await double.json("/healthz", 507)
        assert (told["status"], told["why"]) == ("read-only", "3 bytes are free at /home")
        assert families(await double.text("/metrics"))["meshtrain_read_only"] == {(): 1}
        double.service.close()
        assert (await double.json("/healthz", 503))["status"] == "stopping"


# --- the API -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sweeps", "jobs", "nodes", "bases"])
async def test_a_list_has_the_rows_that_commands_get(mesh: ServiceDouble, kind: str) -> None:
    page = await mesh.json(f"/api/v1/{kind}")
    query = answer(mesh.master.state, Query("", kind), mesh.master)
    assert page["rows"] == msgspec.json.decode(msgspec.json.encode(query.rows))
    assert page["total"] == page["matched"] == query.total == len(page["rows"])
    pages = [await mesh.json(f"/api/v1/{kind}?offset={n}&limit=1") for n in range(query.total)]
    assert [row for part in pages for row in part["rows"]] == page["rows"]
    assert (await mesh.json(f"/api/v1/{kind}?offset=1000"))["rows"] == []


async def test_events_are_the_lines_for_people_newest_first(mesh: ServiceDouble) -> None:
    page = await mesh.json("/api/v1/events?limit=1")
    assert page["rows"][0]["text"].startswith("mix/share=0.1")
    assert (page["total"], page["matched"]) == (2, 2)
    assert (await mesh.json("/api/v1/events?filter=!FAILED"))["matched"] == 1


async def test_jobs_are_filtered_by_sweep_state_and_words(
    mesh: ServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtrain_daemon.master.api.SLICE_ROWS", 2)
    failed = await mesh.json("/api/v1/jobs?sweep=mix&state=failed")
    assert (failed["matched"], failed["total"]) == (2, 4)
    assert {row["state"] for row in failed["rows"]} == {"failed"}
    second = await mesh.json("/api/v1/jobs?sweep=mix&state=failed&offset=1&limit=1")
    assert second["rows"] == failed["rows"][1:] and second["matched"] == 2
    assert (await mesh.json("/api/v1/jobs?filter=USER+share%3D0.1"))["matched"] == 1
    everything = await mesh.json("/api/v1/jobs")
    others = await mesh.json("/api/v1/jobs?filter=!user")
    assert others["matched"] == everything["total"] - 2
    monkeypatch.setattr("meshtrain_daemon.master.api.LIMIT_DEFAULT", 3)
    some = await mesh.json("/api/v1/jobs?filter=!nothing+such&offset=2")
    assert some["rows"] == everything["rows"][2:5] and some["matched"] == everything["total"]
    # A pattern is only words here.
    assert (await mesh.json("/api/v1/jobs?filter=(a%2B)%2B%24"))["matched"] == 0


async def test_a_job_and_a_sweep_s_results_are_told_whole(mesh: ServiceDouble) -> None:
    job = await mesh.json("/api/v1/jobs/mix/share=0.1,fold=0")
    assert job["state"] == "succeeded" and job["cell"] == {"share": 0.1, "fold": 0}
    assert len(job["attempts"]) == 1 and job["metrics"]["loss"] is None
    results = await mesh.json("/api/v1/results/mix?offset=1&limit=2")
    assert [cell["index"] for cell in results["cells"]] == [1, 2]
    assert (results["offset"], results["total"]) == (1, 4)
    none = await mesh.json("/api/v1/results/mix?limit=0")
    assert none == {**results, "cells": [], "offset": 0}


async def test_values_of_an_environment_are_not_shown(mesh: ServiceDouble) -> None:
    name = sweep_with_env().jobs[0].job_id
    status, body = await mesh.get(f"/api/v1/jobs/{name}")
    assert status == 200 and SECRET.encode() not in body
    assert json.loads(body)["work"]["env"] == {"WANDB_API_KEY": HIDDEN}


@pytest.mark.parametrize(
    ("target", "status", "expected"),
    [
        ("/api/v1/job", 404, "did you mean"),
        ("/api/v1/", 404, ""),
        ("/api/v1/nodes/node-1", 404, "filter"),
        ("/api/v1/jobs/none", 404, "none"),
        ("/api/v1/results/none", 404, "none"),
        ("/api/v1/jobs?sweep=none", 404, "none"),
        ("/api/v1/jobs?limit=-1", 400, "limit"),
        ("/api/v1/jobs?offset=1e3", 400, "offset"),
        ("/api/v1/jobs?state=failing", 400, "failing"),
        ("/api/v1/nodes?state=failed", 400, "no parameter"),
        ("/api/v1/nodes?sort=name", 400, "no parameter"),
        ("/api/v1/jobs/mix?limit=1", 400, "none"),
        ("/api/v1/jobs?filter=" + "x" * 201, 400, "200 characters"),
        ("/metrics/nodes/nobody", 404, ""),
    ],
)
async def test_P11_what_is_asked_wrongly_is_told(
    mesh: ServiceDouble, target: str, status: int, expected: str
) -> None:
    got, body = await mesh.get(target)
    assert got == status, body
    assert expected in body.decode()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed_here(mesh: ServiceDouble, method: str) -> None:
    for target in ("/metrics", "/healthz", "/api/v1/jobs"):
        status, _ = await mesh.get(target, method=method)
        assert status == 405


async def test_an_answer_shows_what_is_on_the_disk(mesh: ServiceDouble) -> None:
    mesh.decisions.held = []
    asking = asyncio.create_task(mesh.json("/api/v1/nodes"))
    while not mesh.decisions.held:
        await asyncio.sleep(0)
    mesh.master.add_node("node-3")
    mesh.decisions.held.pop()()
    assert (await asking)["total"] == 3


async def test_more_questions_than_are_answered_at_a_time_are_told_to_come_again(
    mesh: ServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtrain_daemon.master.api.AT_ONCE_MAX", 0)
    assert "Ask again" in (await mesh.json("/api/v1/jobs", 503))["error"]
    assert (await mesh.json("/healthz"))["status"] == "ready"


async def test_p10_without_keys_a_page_that_names_itself_loopback_reads_nothing(
    mesh: ServiceDouble,
) -> None:
    for target in ("/metrics", "/healthz", "/api/v1/jobs", "/metrics/targets"):
        for host in ("evil.example.org", "127.0.0.1.evil.org:80", "localhost.evil.org", "0.0.0.0"):
            status, body = await mesh.get(target, {"Host": host})
            assert status == 403, (host, body)
        for host in ("localhost", "127.0.0.1:1", "[::1]:7473", "LOCALHOST:1"):
            status, _ = await mesh.get(target, {"Host": host})
            assert status == 200, host


# --- the description -----------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema, with nothing allowed that it doesn't name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


async def test_the_description_is_openapi_and_tells_the_answers_as_they_are(
    mesh: ServiceDouble,
) -> None:
    told = await mesh.json("/api/v1/openapi.json")
    validate_openapi(told)
    assert told["openapi"].startswith("3.1")
    asked = {
        "/api/v1/sweeps": ["/api/v1/sweeps"],
        "/api/v1/jobs": ["/api/v1/jobs"],
        "/api/v1/nodes": ["/api/v1/nodes"],
        "/api/v1/bases": ["/api/v1/bases"],
        "/api/v1/events": ["/api/v1/events"],
        "/api/v1/jobs/{name}": [
            "/api/v1/jobs/mix/share=0.1,fold=0",
            "/api/v1/jobs/mix/share=0.1,fold=1",
            f"/api/v1/jobs/{sweep_with_env().jobs[0].job_id}",
        ],
        "/api/v1/results/{sweep}": ["/api/v1/results/mix"],
    }
    assert set(told["paths"]) == set(asked)
    components = strict(told["components"])
    for path, targets in asked.items():
        operation = told["paths"][path]["get"]
        for target in targets:
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator({**strict(schema), "components": components}).validate(
                await mesh.json(target)
            )
        refusal = operation["responses"]["404"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**strict(refusal), "components": components}).validate(
            await mesh.json("/api/v1/nothing", 404)
        )
    row = (await mesh.json("/api/v1/nodes"))["rows"][0]
    schema = {"$ref": "#/components/schemas/Node", "components": components}
    validator = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({**row, "more": 1})
    assert not validator.is_valid({key: value for key, value in row.items() if key != "spec"})


async def test_the_parameters_of_a_list_are_those_of_its_description(mesh: ServiceDouble) -> None:
    told = await mesh.json("/api/v1/openapi.json")
    values = {"offset": "0", "limit": "1", "filter": "x", "sweep": "mix", "state": "failed"}
    for path, item in told["paths"].items():
        named = {one["name"] for one in item["get"]["parameters"] if one["in"] == "query"}
        if "{" in path:
            continue
        for name, value in values.items():
            status, _ = await mesh.get(f"{path}?{name}={value}")
            assert status == (200 if name in named else 400), (path, name)
