import csv
import io
from pathlib import Path

import msgspec
import pytest

from meshtrain.results.errors import ResultsError
from meshtrain.results.formats import NumberStyle, axis_texts, clip, clip_middle, plain_text
from meshtrain.results.merge import CellResult, MergedTable, merge
from meshtrain.results.table import cells_csv, read_results, table_csv, write_results
from meshtrain.results.text import render_text
from meshtrain.spec.jobs import ResultsSpec

SPEC = ResultsSpec(metric="accuracy", over=("fold",))


def cells() -> list[CellResult]:
    made = []
    for share, values in [(0.1, (0.8, 0.82, 0.84)), (0.25, (0.9, 0.91, 0.92))]:
        for fold, value in enumerate(values):
            made.append(
                CellResult(
                    f"j{len(made)}",
                    f"mix/target_batch_pct={share},fold={fold}",
                    {"target_batch_pct": share, "fold": fold},
                    state="succeeded",
                    metrics={"accuracy": value},
                    index=len(made),
                )
            )
    made.append(
        CellResult("r0", "mix/base", {"fold": 0}, "base alone", "succeeded", {"accuracy": 0.5})
    )
    made[-1] = msgspec.structs.replace(made[-1], index=len(made))
    return made


def with_gaps() -> list[CellResult]:
    made = cells()
    made[1] = msgspec.structs.replace(
        made[1], state="failed", metrics={}, reason="out of\nmemory \x1b[31m"
    )
    for i in (3, 4, 5):
        made[i] = msgspec.structs.replace(made[i], state="waiting", metrics={})
    return made


def test_text_of_a_whole_table() -> None:
    text = render_text(merge(cells(), SPEC), header="accuracy on writer w07")
    assert text.splitlines() == [
        "target_batch_pct   accuracy on writer w07   95 % interval    n   missing",
        "0.10               0.820 ± 0.020            0.770 to 0.870   3   –",
        "0.25               0.910 ± 0.010            0.885 to 0.935   3   –",
        "base alone         0.500 ±     –                             1   –",
        "",
        "best   target_batch_pct=0.25: 0.910",
        "cell   target_batch_pct=0.25,fold=2: 0.920, the best single one",
        "       higher is better, as its name says",
    ]


def test_text_names_what_is_missing_and_why() -> None:
    text = render_text(merge(with_gaps(), SPEC))
    assert text.splitlines() == [
        "target_batch_pct   accuracy        95 % interval    n        missing",
        "0.10               0.820 ± 0.028   0.566 to 1.074   2 of 3   fold=1 failed",
        "0.25                   –                            0 of 3   all waiting",
        "base alone         0.500 ±     –                    1        –",
        "",
        "best   target_batch_pct=0.1: 0.820",
        "cell   target_batch_pct=0.1,fold=2: 0.840, the best single one",
        "       higher is better, as its name says",
        "",
        "1 failed: out of memory  [31m",
        "  target_batch_pct=0.1,fold=1",
        "3 waiting",
        "  target_batch_pct=0.25,fold=0, target_batch_pct=0.25,fold=1,",
        "  target_batch_pct=0.25,fold=2",
    ]


def test_text_without_any_spread_leaves_it_out() -> None:
    single = [c for c in cells() if c.cell["fold"] == 0]
    assert "±" not in render_text(merge(single, SPEC))


def test_text_of_an_empty_table() -> None:
    assert render_text(merge([], SPEC)) == "No jobs in this sweep."


def test_a_header_that_does_not_fit_stands_above() -> None:
    lines = render_text(merge(with_gaps(), SPEC), header="x" * 60).splitlines()
    assert lines[0] == "x" * 60
    assert "mean ± std" in lines[2]
    assert max(map(len, lines)) <= 80


def test_csv_has_a_line_for_each_row_and_keeps_full_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(merge(with_gaps(), SPEC)))))
    assert [row["n"] + "/" + row["expected"] for row in rows] == ["2/3", "0/3", "1/1"]
    assert float(rows[0]["mean"]) == pytest.approx(0.82)
    assert rows[1]["mean"] == rows[1]["std"] == ""
    assert rows[0]["missing"] == "mix/target_batch_pct=0.1,fold=1: out of\nmemory \x1b[31m"
    assert rows[2]["reference"] == "base alone"


def test_long_csv_has_every_cell() -> None:
    made = with_gaps()
    made[0] = msgspec.structs.replace(
        made[0], metrics={"accuracy": 0.8, "loss": 2.0}, absent={"f1": "f1 is NaN"}
    )
    text = cells_csv(merge(made, SPEC), made)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(made) + 2
    assert {row["name"] for row in rows} == {cell.name for cell in made}
    assert [row["reason"] for row in rows if row["metric"] == "f1"] == ["f1 is NaN"]
    assert {row["reason"] for row in rows if row["state"] == "waiting"} == {"waiting"}
    assert cells_csv(merge(made, SPEC), made[::-1]) == text


def test_written_results_can_be_read_back(tmp_path: Path) -> None:
    made = with_gaps()
    table = merge(made, SPEC)
    folder = tmp_path / "new" / "sweep"
    write_results(folder, table, made, title="mix", header="accuracy on w07")
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.csv",
        "table.csv",
        "table.json",
        "table.txt",
    ]
    document = read_results(folder)
    assert document.table == table
    assert (document.title, document.header) == ("mix", "accuracy on w07")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_results(folder, table, made[::-1], title="mix", header="accuracy on w07")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"table\.json can't be read"):
        read_results(tmp_path)
    (tmp_path / "table.json").write_text('{"version": 1}')
    with pytest.raises(ResultsError, match="is no results table"):
        read_results(tmp_path)
    (tmp_path / "table.json").write_text("[" * 100_000)
    with pytest.raises(ResultsError, match="is no results table"):
        read_results(tmp_path)
    write_results(tmp_path, merge(cells(), SPEC), cells())
    text = (tmp_path / "table.json").read_text().replace('"version": 1', '"version": 99')
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ResultsError, match="has version 99"):
        read_results(tmp_path)


def test_a_folder_that_cant_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="could not be written"):
        write_results(tmp_path / "file" / "sweep", merge(cells(), SPEC), cells())


def test_a_table_survives_json() -> None:
    table = merge(with_gaps(), SPEC)
    assert msgspec.json.decode(msgspec.json.encode(table), type=MergedTable) == table


def test_formats() -> None:
    assert axis_texts([0.1, 0.25, 0.5]) == ["0.10", "0.25", "0.50"]
    assert axis_texts([0.0001, 0.001, 1]) == ["0.0001", "0.001", "1"]
    assert axis_texts([1, 5, "a", None, True]) == ["1", "5", "a", "none", "true"]
    assert NumberStyle([0.8274])(0.8274) == "0.827"
    assert NumberStyle([0.0012])(0.0012) == "1.20e-03"
    assert NumberStyle([0.5])(None) == "–"
    assert clip("abcdef", 4) == "abc…"
    assert clip_middle("abcdefghij", 7) == "abc…hij"
    assert plain_text("a\x1b[2Jb\n") == "a [2Jb"
