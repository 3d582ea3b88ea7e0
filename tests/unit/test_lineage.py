"""Bases that continue from earlier ones: from the job file to the history that people see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_double import out, run
from master_double import WALL_S, MasterDouble, over_the_wire

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.job import Base, BaseState, JobState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.rows import waiting_reason
from meshtrain.errors import NotFoundError, RecipeMismatchError, UserError
from meshtrain.ids import digest, short
from meshtrain.spec.expand import CodeDigests, Digests, expand, needed
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, SweepSpec, TrainingWork
from meshtrain.spec.lineage import Parent, ResolvedParent
from meshtrain.spec.recipe import recipe_hash
from meshtrain.store.rows import base_of, base_values, spec_blob
from meshtrain.training.config import check_recipe, parse_config
from meshtrain.wire.messages import Query
from meshtrain_daemon.master import queries
from meshtrain_daemon.master.lineage import resolve_parent

PIN = Parent("a" * 32, "b" * 32)
KNOWN = ResolvedParent(PIN, "cnn · p01 p02", True, "cnn", ("p01", "p02"))
CHILD: dict[str, Any] = {
    "name": "child",
    "base": {"from": "aaaa", "participants": ["p01", "p03"], "model": "cnn", "lr": 0.0001},
    "target": {"mode": "full_fine_tuning", "participant": "p07"},
    "matrix": {"fold": [0, 1]},
}
COMMAND: dict[str, Any] = {
    "name": "tune",
    "base": {"command": "train --init {from} --lr {lr} --out {output}", "params": {"lr": 0.1}},
    "command": "tune --init {base} --out {output}",
}


def parsed(tree: Any) -> Any:
    return parse_job_file(json.dumps(tree).encode(), "child.json")


def expanded(tree: Any, known: ResolvedParent = KNOWN) -> SweepSpec:
    job_file = parsed(tree)
    name = needed(job_file).parent
    return expand(job_file, Digests(parents={} if name is None else {name: known}))


def without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    return {**tree, "base": {name: v for name, v in tree["base"].items() if name != key}}


# --- the job file ---------------------------------------------------------------------


def test_the_pin_is_part_of_the_recipe_and_of_the_sweep() -> None:
    sweep, plain = expanded(CHILD), expanded(without(CHILD, "from"))
    (base,) = sweep.bases
    assert base.parent == PIN
    assert base.recipe["from"] == {"recipe": "a" * 32, "artifact": "b" * 32}
    assert base.recipe_hash == recipe_hash(base.recipe)
    assert base.label.endswith("· from aaaa…aaa")
    assert "from" not in plain.bases[0].recipe
    other = msgspec.structs.replace(KNOWN, parent=Parent("a" * 32, "c" * 32))
    again = expanded(CHILD, other)
    hashes = {s.bases[0].recipe_hash for s in (sweep, plain, again)}
    assert len(hashes) == len({s.sweep_id for s in (sweep, plain, again)}) == 3
    assert expanded(CHILD) == sweep


def test_what_trains_rehashes_the_recipe_with_its_pin() -> None:
    (base,) = expanded(CHILD).bases
    assert isinstance(base.work, TrainingWork)
    config = parse_config(base.work.config)
    check_recipe(config, base.recipe_hash)
    assert config.parent is not None
    forged = {**base.work.config, "parent": {"recipe": "a" * 32, "artifact": "d" * 32}}
    with pytest.raises(RecipeMismatchError, match=r"differs  from\.artifact"):
        check_recipe(parse_config(forged), base.recipe_hash)


def test_a_command_finds_the_folder_of_what_it_continues_from() -> None:
    (base,) = expanded({**COMMAND, "base": {**COMMAND["base"], "from": "aaaa"}}).bases
    assert isinstance(base.work, CommandWork)
    assert base.work.command == "train --init {from} --lr 0.1 --out {output}"
    assert base.work.env == {"MESHTRAIN_FROM": "{from}"}
    assert base.recipe["env"] == {}
    with pytest.raises(JobFileError, match=r"unknown placeholder \{from\}"):
        parsed(COMMAND)
    with pytest.raises(JobFileError, match=r"unknown placeholder \{from\}"):
        parsed({**COMMAND, "base": {"command": "x", "from": "aaaa"}, "command": "run {from}"})


def test_files_without_a_parent_come_to_what_they_came_to() -> None:
    """Recipes of before there were parents keep their hash."""
    (base,) = expanded(without(CHILD, "from")).bases
    assert isinstance(base.work, TrainingWork)
    assert "parent" not in base.work.config
    assert base.recipe_hash == "4a00013762e4379d70d23a63e6fe813f"


@pytest.mark.parametrize(
    ("changed", "known", "says"),
    [
        ({"model": "mlp"}, {}, "base.from   is a cnn, and this base is a mlp"),
        ({}, {"training": False, "model": None}, "was made by a command"),
        ({}, {"participants": ("p07",)}, "the parent of the base was trained on p07"),
        ({"from": 7e30}, {}, 'write "7e'),
        ({"from": "xyz"}, {}, "at least its first 4 digits"),
        ({"from": ""}, {}, "at least its first 4 digits"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused_with_its_place(
    changed: dict[str, Any], known: dict[str, Any], says: str
) -> None:
    with pytest.raises(JobFileError) as refused:
        expanded(
            {**CHILD, "base": {**CHILD["base"], **changed}},
            msgspec.structs.replace(KNOWN, **known),
        )
    assert says in str(refused.value)


def test_varied_models_must_all_be_the_parents() -> None:
    varied = {**without(CHILD, "model"), "matrix": {"base.model": ["cnn", "mlp"]}}
    with pytest.raises(JobFileError, match="this base is a mlp"):
        expanded(varied)
    people = {**CHILD, "matrix": {"participant": ["p08", "p02"]}}
    with pytest.raises(JobFileError, match=r"matrix.participant\[1\].*trained on p02"):
        expanded({**people, "target": {"mode": "full_fine_tuning"}})


# --- at the master ----------------------------------------------------------------------


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    master.add_node("node-2")
    return master


def first_base(master: MasterDouble, **base: Any) -> str:
    """Submits and trains a base; its recipe hash."""
    spec = {"participants": ["p01", "p02"], "model": "cnn", "lr": 0.001, **base}
    sweep = expanded({**CHILD, "name": "first", "base": spec})
    master.submit(sweep)
    master.run_all()
    return sweep.bases[0].recipe_hash


def lose(master: MasterDouble, artifact_id: str) -> None:
    """Nobody holds the artifact any more."""
    master.tell(ev.ArtifactHeld(MASTER_NODE_ID, (), (artifact_id,)))
    for node_id in list(master.state.nodes):
        come_back(master, node_id, "2")


def come_back(master: MasterDouble, node_id: str, session: str, *holds: str) -> None:
    spec = master.state.nodes[node_id].spec
    master.tell(ev.NodeSaidHello(spec, f"{node_id}/{session}", (), holds, grant=1_000_000))


def resolved(master: MasterDouble, name: str) -> ResolvedParent:
    return resolve_parent(master.state, name, master.attempts_of)


def child_of(master: MasterDouble, name: str, **base: Any) -> SweepSpec:
    return expanded(
        {**CHILD, "base": {**CHILD["base"], "from": name, **base}}, resolved(master, name)
    )


def test_a_name_is_pinned_to_the_model_that_is_there(master: MasterDouble) -> None:
    first = first_base(master)
    artifact_id = master.state.bases[first].artifact_id
    for name in (first, first[:6], short(first), artifact_id, artifact_id[:8]):
        found = resolved(master, name)
        assert found.parent == Parent(first, artifact_id), name
        assert (found.model, found.participants) == ("cnn", ("p01", "p02"))


def test_an_earlier_generation_is_named_by_its_artifact(master: MasterDouble) -> None:
    first = first_base(master)
    earlier = master.state.bases[first].artifact_id
    master.tell(ev.RebuildRequested("r", first))
    master.run_all()
    assert resolved(master, first[:8]).parent.artifact_id != earlier
    assert resolved(master, earlier[:8]).parent == Parent(first, earlier)


def test_a_wrong_name_is_told_with_what_is_near_it(master: MasterDouble) -> None:
    with pytest.raises(NotFoundError, match="no base is known yet"):
        resolved(master, "abcd")
    first = first_base(master)
    wrong = first[:5] + ("0" if first[5] != "0" else "1") + first[6:8]
    with pytest.raises(NotFoundError) as refused:
        resolved(master, wrong)
    assert f"near it: {short(first)} (cnn · p01 p02" in str(refused.value)
    assert "meshtrain bases" in str(refused.value)
    cut = first[:4] + "zz".replace("z", "f" if first[4] != "f" else "e")
    with pytest.raises(NotFoundError, match="near it: "):
        resolved(master, cut)
    far = "".join("0" if char != "0" else "1" for char in first[:8])
    with pytest.raises(NotFoundError) as refused:
        resolved(master, far)
    assert "near it" not in str(refused.value)
    for name in ("", "p01", "x" * 5000):
        with pytest.raises(NotFoundError):
            resolved(master, name)


def test_a_name_of_several_is_refused(master: MasterDouble) -> None:
    first = first_base(master)
    base = master.state.bases[first]
    twin = first[:10] + "0" * 22
    master.state.bases[twin] = msgspec.structs.replace(
        base, spec=msgspec.structs.replace(base.spec, recipe_hash=twin)
    )
    with pytest.raises(NotFoundError, match="write more of it"):
        resolved(master, first[:8])
    assert resolved(master, first).parent.recipe_hash == first


def test_what_is_not_trained_or_not_there_is_no_parent(master: MasterDouble) -> None:
    sweep = expanded(without(CHILD, "from"))
    master.submit(sweep)
    name = sweep.bases[0].recipe_hash
    with pytest.raises(UserError, match="not trained yet"):
        resolved(master, name)
    master.run_all()
    artifact_id = master.state.bases[name].artifact_id
    assert resolved(master, name).depth == 1
    lose(master, artifact_id)
    with pytest.raises(UserError, match="no host that is there holds it"):
        resolved(master, name)


def test_a_base_job_gets_the_pinned_model_though_its_parent_is_trained_anew(
    master: MasterDouble,
) -> None:
    """P5: the parent's model is an input of the base's training."""
    first = first_base(master)
    pinned = master.state.bases[first].artifact_id
    child = child_of(master, first)
    master.tell(ev.RebuildRequested("r", first))
    master.run_all()
    assert master.state.bases[first].artifact_id != pinned
    master.submit(child)
    (given,) = [command for _, command in master.assigned]
    assert given.base is not None
    assert given.base.artifact_id == pinned
    assert given.recipe_hash == child.bases[0].recipe_hash
    master.run_all()
    assert master.state.bases[child.bases[0].recipe_hash].state is BaseState.COMMITTED


def test_a_base_waits_until_somebody_holds_what_it_continues_from(master: MasterDouble) -> None:
    first = first_base(master)
    pinned = master.state.bases[first].artifact_id
    child = child_of(master, first)
    lose(master, pinned)
    master.submit(child)
    assert master.assigned == []
    job = master.state.jobs[master.state.bases[child.bases[0].recipe_hash].job_id]
    assert job.state is JobState.WAITING
    assert f"holds {short(pinned)}" in waiting_reason(master.state, job)
    come_back(master, "node-2", "3", pinned)
    assert [node for node, _ in master.assigned] == ["node-2"]


def test_a_base_whose_parent_is_lost_for_long_fails_with_a_word_and_can_be_tried_again(
    master: MasterDouble,
) -> None:
    first = first_base(master)
    pinned = master.state.bases[first].artifact_id
    child = child_of(master, first)
    lose(master, pinned)
    master.submit(child)
    key = child.bases[0].recipe_hash
    master.wait(50)
    assert master.state.bases[key].state is BaseState.NEEDED
    master.wait(70)
    assert master.state.bases[key].state is BaseState.FAILED
    job = master.state.jobs[master.state.bases[key].job_id]
    assert f"meshtrain retry {job.name}" in job.failure.message
    assert {master.state.jobs[j.job_id].state for j in child.jobs} == {JobState.FAILED}
    come_back(master, "node-1", "3", pinned)
    master.tell(ev.RetryRequested("again", (job.job_id,)))
    master.run_all()
    assert master.state.bases[key].state is BaseState.COMMITTED
    assert {master.state.jobs[j.job_id].state for j in child.jobs} == {JobState.SUCCEEDED}


def test_a_lost_parent_comes_back_from_the_archive(master: MasterDouble) -> None:
    first = first_base(master)
    pinned = master.state.bases[first].artifact_id
    child = child_of(master, first)
    lose(master, pinned)
    master.tell(ev.BasesArchived((pinned,)))
    master.submit(child)
    effects = []
    for _ in range(4):
        master.now_s += 30
        effects += master.tell(ev.Tick(WALL_S + master.now_s))
    assert [e.artifact_id for e in effects if isinstance(e, fx.RestoreArtifact)] == [pinned]
    key = child.bases[0].recipe_hash
    assert master.state.bases[key].state is BaseState.NEEDED
    master.tell(ev.ArtifactHeld(MASTER_NODE_ID, (pinned,)))
    master.run_all()
    assert master.state.bases[key].state is BaseState.COMMITTED


def test_a_parent_that_the_scheduler_does_not_know_is_refused(master: MasterDouble) -> None:
    reply = master.submit(expanded(CHILD))
    assert "which base.from names" in reply.error
    assert master.state.jobs == {}


def test_all_that_was_trained_on_before_counts(master: MasterDouble) -> None:
    first = first_base(master, participants=["p02", "p05"])
    child = child_of(master, first)
    master.submit(child)
    master.run_all()
    grand = resolved(master, child.bases[0].recipe_hash)
    assert (set(grand.participants), grand.depth) == ({"p01", "p02", "p03", "p05"}, 2)
    with pytest.raises(JobFileError, match="trained on p05"):
        expanded({**CHILD, "target": {"mode": "full_fine_tuning", "participant": "p05"}}, grand)
    sweep = expanded(CHILD, grand)
    work = sweep.jobs[0].work
    assert isinstance(work, TrainingWork)
    assert set(work.config["trained_before"]) == set(grand.participants)
    parse_config(work.config)
    with pytest.raises(UserError, match="parents were trained on"):
        parse_config({**work.config, "target": "p05"})


# --- its history -------------------------------------------------------------------------


def history(master: MasterDouble, name: str) -> dict[str, Any]:
    answer = over_the_wire(queries.answer(master.state, Query("r", "base", (name,)), master))
    assert answer.error == ""
    return answer.rows[0]


def test_the_history_of_a_base(master: MasterDouble) -> None:
    first = first_base(master)
    earlier = master.state.bases[first].artifact_id
    master.left[earlier] = {"accuracy": 0.75}
    child = child_of(master, first)
    master.submit(child)
    master.run_all()
    master.tell(ev.RebuildRequested("r", first))
    master.run_all()
    row = history(master, first[:8])
    assert [(g["generation"], g["state"]) for g in row["generations"]] == [
        (2, "committed"),
        (1, "replaced"),
    ]
    now, before = row["generations"]
    assert (before["artifact_id"], before["metrics"], before["jobs"]) == (
        earlier,
        {"accuracy": 0.75},
        2,
    )
    assert (now["artifact_id"], now["jobs"]) == (master.state.bases[first].artifact_id, 0)
    assert before["node_id"] in ("node-1", "node-2")
    assert (before["trained_s"], before["attempts"]) == (60.0, 1)
    assert [(s["name"], s["jobs"], s["succeeded"]) for s in row["sweeps"]] == [("first", 2, 2)]
    assert [c["recipe_hash"] for c in row["children"]] == [child.bases[0].recipe_hash]
    parents = history(master, child.bases[0].recipe_hash)["parents"]
    assert [(p["artifact_id"], p["generation"], p["generations"]) for p in parents] == [
        (earlier, 1, 2)
    ]


def test_the_log_as_people_read_it(master: MasterDouble) -> None:
    first = first_base(master)
    child = child_of(master, first)
    master.submit(child)
    master.run_all()
    text = out(master, "bases", "log", child.bases[0].recipe_hash[:8])
    pinned = master.state.bases[first].artifact_id
    assert f"from          {short(first)}  cnn · p01 p02" in text
    assert f"model {short(pinned)}, generation 1 of 1" in text
    assert "lr            0.0001" in text
    assert "committed" in text
    assert "2 jobs, 2 succeeded" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    used = out(master, "bases", "log", first[:8])
    assert f"base {short(child.bases[0].recipe_hash)}" in used
    document = json.loads(out(master, "bases", "log", first[:8], "--json"))
    assert document["recipe"]["base"]["lr"] == 0.001
    assert document["children"][0]["state"] == "committed"
    wrong = run(master, "bases", "log", "ffff0")
    assert wrong.exit_code == 2
    assert "no base is called" in wrong.stderr


def test_a_plan_shows_what_a_base_continues_from(master: MasterDouble, tmp_path: Path) -> None:
    first = first_base(master)
    file = tmp_path / "child.json"
    base = {**CHILD["base"], "from": first[:8], "participants": ["p01", "p02"], "lr": 0.001}
    file.write_text(json.dumps({**CHILD, "base": base}))
    text = out(master, "plan", str(file))
    pinned = master.state.bases[first].artifact_id
    assert f"new: {short(first)} with from: none -> {short(first)}, model {short(pinned)}" in text
    receipt = out(master, "submit", str(file))
    assert f"from {short(first)}" in receipt
    away = run(None, "plan", str(file))
    assert away.exit_code == 1
    file.write_text(json.dumps({**CHILD, "base": {**base, "from": "f00d"}}))
    for command in ("plan", "submit"):
        refused = run(master, command, str(file))
        assert refused.exit_code == 2
        assert 'base.from: no base, and no model of one, is called "f00d"' in refused.stderr


def test_code_digests_do_not_matter_to_the_pin() -> None:
    tree = {**COMMAND, "base": {**COMMAND["base"], "from": "aaaa"}, "code": "."}
    code = {".": CodeDigests(digest(b"x"), {"train.py": digest(b"y")})}
    sweep = expand(parsed(tree), Digests(code=code, parents={"aaaa": KNOWN}))
    assert isinstance(sweep.bases[0], BaseSpec)
    assert sweep.bases[0].parent == PIN


def test_pins_and_groups_are_in_the_store_as_they_were() -> None:
    """P1: what a base continues from, and what a job is best beside, outlive the master."""
    (base,) = expanded(CHILD).bases
    record = Base(spec=base, job_id="base-1")
    *values, recipe_hash_, job_id = base_values(record)
    assert base_of((job_id, *values)) == record
    assert recipe_hash_ == base.recipe_hash
    job = expanded({**CHILD, "affinity": "fold"}).jobs[1]
    assert job.affinity == "fold=1"
    assert msgspec.msgpack.decode(spec_blob(job), type=JobSpec) == job
