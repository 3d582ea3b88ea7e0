import json
from pathlib import Path

import pytest

from meshtrain.results import folder as folder_module
from meshtrain.results.errors import ResultsError
from meshtrain.results.folder import (
    NAME_LEN_MAX,
    cell_folder,
    folder_name,
    place_result,
    remove_leftovers,
)
from meshtrain.results.records import (
    AttemptRecord,
    BaseRecord,
    ExperimentRecord,
    write_records,
)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["target_batch_pct=0.25,fold=1", "a-b+c.d", "x" * NAME_LEN_MAX])
def test_plain_names_stay(name: str) -> None:
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../etc", "a/b", "/abs", "a\0b", "é", "x" * 5000, ".hidden", "a b"],
    ids=range(11),
)
def test_other_names_become_safe_and_keep_apart(name: str) -> None:
    made = folder_name(name)
    assert "/" not in made
    assert not made.startswith(".")
    assert "~" in made
    assert len(made.encode()) <= NAME_LEN_MAX
    assert made == folder_name(name)


def test_a_cell_cannot_take_the_place_of_a_file_of_ours(tmp_path: Path) -> None:
    assert cell_folder(tmp_path, "s", "s/plot.png").name != "plot.png"


def test_cell_folder_lies_below_its_sweep(tmp_path: Path) -> None:
    assert cell_folder(tmp_path, "mix", "mix/lr=0.1,fold=2") == tmp_path / "mix" / "lr=0.1,fold=2"
    assert cell_folder(tmp_path, "../x", "../x/..").resolve().is_relative_to(tmp_path)


def test_a_result_is_copied_with_our_files_beside(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "metrics.json").write_text("{}")
    (source / "sub" / "model.bin").write_bytes(b"m")
    (source / "config.json").write_text("theirs")
    log = tmp_path / "log-bytes"
    log.write_bytes(b"hello")
    place = tmp_path / "results" / "s" / "c"
    assert place_result(place, source, files={"config.json": b"ours", "log": log}) == place
    assert listing(place) == [
        "config.json",
        "log",
        "mesh-config.json",
        "metrics.json",
        "sub",
        "sub/model.bin",
    ]
    assert (place / "config.json").read_text() == "theirs"
    assert (place / "mesh-config.json").read_text() == "ours"
    assert listing(place.parent) == ["c", *(f"c/{name}" for name in listing(place))]


def test_links_that_lead_out_are_left_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "best").symlink_to("step-3")
    (source / "step-3").write_text("x")
    (source / "passwd").symlink_to("/etc/passwd")
    (source / "up").symlink_to("../elsewhere")
    assert listing(place_result(tmp_path / "c", source)) == ["best", "step-3"]


@pytest.mark.parametrize("kernel_swaps", [True, False])
def test_a_former_generation_is_replaced_whole(
    tmp_path: Path, kernel_swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_swaps:
        monkeypatch.setattr(folder_module, "_exchange", lambda one, other: False)
    place = tmp_path / "c"
    place_result(place, lambda folder: (folder / "old").write_text("1"))
    (place / "ro").mkdir()
    (place / "ro" / "file").write_text("x")
    (place / "ro").chmod(0o500)
    place_result(place, lambda folder: (folder / "new").write_text("2"))
    assert listing(tmp_path) == ["c", "c/new"]


def test_a_failure_leaves_the_former_result(tmp_path: Path) -> None:
    place = tmp_path / "c"
    place_result(place, lambda folder: (folder / "old").write_text("1"))

    def half(folder: Path) -> None:
        (folder / "new").write_text("2")
        raise OSError("disk full")

    with pytest.raises(ResultsError, match="disk full"):
        place_result(place, half)
    with pytest.raises(ResultsError):
        place_result(place, tmp_path / "no such source")
    with pytest.raises(ResultsError, match="no plain file name"):
        place_result(place, lambda folder: None, files={"../x": b""})
    assert listing(tmp_path) == ["c", "c/old"]


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "s" / ".c.1234.tmp" / "x").mkdir(parents=True)
    (tmp_path / "s" / "c").mkdir()
    assert remove_leftovers(tmp_path) == 1
    assert listing(tmp_path) == ["s", "s/c"]


def records(folder: Path, recipe: dict[str, object]) -> tuple[bytes, bytes]:
    bases = [
        BaseRecord(
            "7f3a",
            "cnn",
            recipe,
            "committed",
            False,
            15,
            "art-1",
            node="node-2",
            started_s=1_700_000_000.0,
            ended_s=1_700_000_008.1,
        ),
        BaseRecord("51be", "mlp", {}, "committed", True, 6, "art-0", generation=2),
        BaseRecord("dead", "vit", {}, "failed", False, 0, reason="out of memory"),
    ]
    experiments = [
        ExperimentRecord(
            "j1",
            "mix/lr=1",
            {"lr": 1},
            "full_fine_tuning",
            "succeeded",
            base_recipe_hash="7f3a",
            base_artifact_id="art-1",
            attempts=(
                AttemptRecord(1, "failed", ("node-1",), 10.0, 11.0, "out_of_memory"),
                AttemptRecord(2, "succeeded", ("node-3",), 12.0, 9.0),
            ),
            metrics={"accuracy": 0.8, "bad": float("nan")},
        ),
        ExperimentRecord("j2", "mix/cmd", {}, "command", "waiting"),
    ]
    write_records(folder, sweep_id="s-1", sweep_name="mix", bases=bases, experiments=experiments)
    return (
        (folder / "phase1_base_models.json").read_bytes(),
        (folder / "phase2_experiments.json").read_bytes(),
    )


def test_records_tell_origin_use_and_attempts(tmp_path: Path) -> None:
    bases, experiments = map(json.loads, records(tmp_path, {"b": 1, "a": [2]}))
    assert bases["version"] == experiments["version"] == 1
    assert [base["origin"] for base in bases["bases"]] == [
        "trained for this sweep",
        "reused",
        "not ready",
    ]
    assert bases["totals"] == {
        "bases": 3,
        "trained": 1,
        "reused": 1,
        "not_ready": 1,
        "jobs_on_a_base": 21,
        "base_trainings_avoided": 20,
    }
    first = bases["bases"][0]
    assert (first["started"], first["duration_s"]) == ("2023-11-14T22:13:20.000Z", 8.1)
    one, two = experiments["experiments"]
    assert one["base"] == {"recipe_hash": "7f3a", "artifact_id": "art-1"}
    assert one["nodes"] == ["node-3"]
    assert [a["failure_class"] for a in one["attempts"]] == ["out_of_memory", None]
    assert one["attempts"][1]["duration_s"] == 0.0
    assert one["metrics"] == {"accuracy": 0.8, "bad": None}
    assert (two["base"], two["started"], two["duration_s"]) == (None, None, None)
    assert experiments["totals"] == {"jobs": 2, "by_state": {"succeeded": 1, "waiting": 1}}


def test_records_are_the_same_bytes_again(tmp_path: Path) -> None:
    assert records(tmp_path, {"b": 1, "a": [2]}) == records(tmp_path, {"a": [2], "b": 1})
