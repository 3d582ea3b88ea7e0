"""The HTML report: one file, nothing from outside, every text escaped."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from meshtrain.results.compare import compare
from meshtrain.results.errors import MissingExtraError
from meshtrain.results.joined import joined
from meshtrain.results.machines import Machine
from meshtrain.results.merge import CellResult, merge
from meshtrain.results.merged import Merged
from meshtrain.results.parquet import METADATA_KEY, write_parquet
from meshtrain.results.records import (
    AttemptRecord,
    BaseRecord,
    ExperimentRecord,
    write_records,
)
from meshtrain.results.report import POLICY, Made, report
from meshtrain.results.report_file import write_report
from meshtrain.results.rerun import reruns
from meshtrain.results.saved import saved
from meshtrain.results.sweep_results import Base, Run, SweepResults
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import ResultsSpec

SPEC = ResultsSpec(metric="accuracy", over=("fold",))
MADE = Made(1_700_000_000.0, "0.1.0", "meshtrain results mix --html out.html")
EVIL = '</script><script>alert(1)</script><img src=x onerror="a()">&\x00\ud800\x1b[2J'
VOID = {"meta", "br", "line", "path", "rect", "circle"}


def results(name: str = "mix", *, shift: float = 0.0, evil: str = "") -> SweepResults:
    cells = []
    runs = {}
    for share in (0.1, 0.5, 0.9):
        for fold in (0, 1, 2):
            place = len(cells)
            failed = (share, fold) == (0.9, 2)
            cells.append(
                CellResult(
                    f"j{place}",
                    f"{name}/share={share},fold={fold}",
                    {"share": share, "fold": fold},
                    state="failed" if failed else "succeeded",
                    metrics={} if failed else {"accuracy": share + fold / 10 + shift, "loss": 1.0},
                    reason=f"out of memory {evil}" if failed else "",
                    index=place,
                )
            )
            runs[f"j{place}"] = Run((f"gpu{fold}{evil}",), 100.0 * place, 100.0 * place + 60, 1,
                                    "ab" * 16)  # fmt: skip
    cells.append(
        CellResult("r", f"{name}/base", {"fold": 0}, f"base alone{evil}", "succeeded",
                   {"accuracy": 0.2}, index=9)
    )  # fmt: skip
    recipe = {"version": 1, "base": {"lr": 0.001, "note": evil}}
    return SweepResults(
        name=name + evil,
        spec=SPEC,
        cells=tuple(cells),
        sources=(f"results/{name}{evil}",),
        sweep_ids=(f"{name}-1",),
        runs=runs,
        bases=(Base("ab" * 16, f"cnn{evil}", "committed", False, "cd" * 16, 1, "gpu0", 3600.0,
                    recipe=recipe),),
        machines=(Machine(f"gpu0{evil}", "0.1.0", 16, ("A100", "A100"), 64 << 30),),
        job_file=f"name: mix\n# {evil}\n",
        notes=(f"a note {evil}",),
    )  # fmt: skip


def merged(found: SweepResults) -> Merged:
    table = merge(found.cells, found.spec)
    more = (merge(found.cells, found.spec, metric="loss"),)
    return Merged(found, table, "accuracy on p07", more, reruns(found.name, table))


def page(*sweeps: SweepResults) -> str:
    all_merged = [merged(sweep) for sweep in sweeps]
    comparisons = [compare(sweeps[0], other) for other in sweeps[1:]]
    together = None
    if len(sweeps) > 1:
        whole, _ = joined(sweeps)
        together = merge(whole.cells, whole.spec)
    return report(all_merged, comparisons, MADE, together=together)


class Reader(HTMLParser):
    """What a browser would find: tags, addresses, text; and that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID or tag in ("line", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_it_is_one_file_that_loads_nothing() -> None:
    text = page(results())
    read = Reader(text)
    assert read.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(read.tags)
    names = {name for name, _ in read.attributes}
    assert not {"src", "srcset", "action", "data", "xlink:href"} & names
    assert all(v and v.startswith("#") for k, v in read.attributes if k == "href")
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in text and "@import" not in text and "http:" not in text
    assert "https:" not in text
    assert POLICY in text


def test_every_link_leads_somewhere() -> None:
    read = Reader(page(results(), results("mix_b", shift=0.1)))
    ids = {value for name, value in read.attributes if name == "id"}
    links = {value[1:] for name, value in read.attributes if name == "href"}
    assert links <= ids


@pytest.mark.parametrize("sweeps", [1, 2])
def test_every_text_is_escaped(sweeps: int) -> None:
    """P11: what comes from people, programs and names is text, whatever it holds."""
    found = [results(f"mix{n}", evil=EVIL, shift=n / 10) for n in range(sweeps)]
    text = page(*found)
    read = Reader(text)
    assert read.open == []
    assert not {"script", "img"} & set(read.tags)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x00" not in text and "\x1b" not in text
    text.encode("utf-8")


def test_what_it_tells() -> None:
    text = Reader(page(results())).text
    assert "9 of 10" in text
    assert "1 is missing" in text
    assert "meshtrain retry mix/share=0.9,fold=2" in text
    assert "out of memory" in text
    assert "higher is better, as its name says".capitalize() in text
    assert "2 × A100" in text
    assert "cd" * 16 in text
    assert "base.lr" in text
    assert "meshtrain 0.1.0" in text
    assert "2023-11-14 22:13 UTC" in text
    # Nine cells of one base: eight trainings of an hour avoided.
    assert "about 8.0 h of training" in text


def test_a_comparison_has_differences_and_a_forest() -> None:
    text = page(results(), results("mix_b", shift=0.25))
    read = Reader(text)
    assert "mix_b less mix" in read.text
    assert "+0.250 ± 0.000" in read.text
    assert "better" in read.text
    assert "3 pairs" in read.text


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [CellResult("a", "s/1", {}, "", "waiting", index=0)],
        [CellResult("a", "s/1", {}, "", "succeeded", {"accuracy": 0.5}, index=0)],
        [
            CellResult(f"{i}{j}", f"s/{i}{j}", {"x": f"x{i}", "y": f"y{j}"}, "", "succeeded",
                       {"accuracy": i * j}, index=i * 9 + j)
            for i in range(5)
            for j in range(9)
        ],
        [
            CellResult(str(i), f"s/{i}", {"lr": 10.0**-i, "net": n}, "", "succeeded",
                       {"accuracy": -1e9 * i}, index=i)
            for i, n in enumerate("ababab")
        ],
    ],
)  # fmt: skip
def test_any_shape_of_sweep_has_a_whole_page(cells: list[CellResult]) -> None:
    found = SweepResults("s", SPEC, tuple(cells))
    assert Reader(page(found)).open == []
    assert Reader(page(found, results())).open == []


def test_many_rows_are_cut_and_said() -> None:
    cells = tuple(
        CellResult(f"j{i}", f"s/{i}", {"x": i}, "", "succeeded", {"accuracy": 0.5}, index=i)
        for i in range(4500)
    )
    text = page(SweepResults("s", SPEC, cells))
    assert "too many for one picture" in text
    assert "The first 1,000 of 4,500 rows" in text
    assert len(text) < 2_000_000


def test_numbers_in_drawings_are_numbers() -> None:
    text = page(results(), results("mix_b", shift=0.1))
    assert not re.search(r'="(nan|inf|-inf)', text)


# --- what was saved -------------------------------------------------------------------------


def test_saved_counts_cells_less_trainings() -> None:
    total = saved([results()])
    (row,) = total.by_base
    assert (row.jobs, row.trained, row.avoided) == (9, 1, 8)
    assert total.saved_s == 8 * 3600
    assert total.spent_s == 9 * 60 + 3600


def test_a_base_that_two_masters_trained_was_trained_twice() -> None:
    first, second = results("a"), results("b")
    other = msgspec.structs.replace(second.bases[0], artifact_id="ef" * 16)
    total = saved([first, msgspec.structs.replace(second, bases=(other,))])
    (row,) = total.by_base
    assert (row.jobs, row.trained, row.avoided) == (18, 2, 16)


def test_a_base_that_was_there_saves_every_training() -> None:
    found = results()
    base = msgspec.structs.replace(found.bases[0], reused=True, trained_s=None)
    total = saved([msgspec.structs.replace(found, bases=(base,))])
    assert (total.avoided, total.saved_s, total.unknown) == (9, 0.0, 9)


# --- Parquet -------------------------------------------------------------------------------


def test_parquet_has_every_cell(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "cells.parquet"
    odd = CellResult("x", "mix_b/x", {"share": "many", "flag": True, "big": 2**70}, "", "failed")
    second = msgspec.structs.replace(results("mix_b"), cells=(odd,))
    assert write_parquet(path, [results(), second], version="0.1.0") == 11
    table = parquet.read_table(path)
    rows = table.to_pylist()
    assert [row["sweep"] for row in rows] == ["mix"] * 10 + ["mix_b"]
    assert rows[0]["params.fold"] == 0
    assert rows[0]["params.share"] == "0.1", "one text makes all of them texts"
    assert rows[0]["metrics.accuracy"] == pytest.approx(0.1)
    assert rows[8]["metrics.accuracy"] is None
    assert rows[8]["state"] == "failed"
    assert rows[9]["reference"] == "base alone"
    assert rows[10]["params.flag"] is True
    assert rows[0]["took_s"] == 60
    assert rows[1]["started"].timestamp() == 100
    told = msgspec.json.decode(table.schema.metadata[METADATA_KEY])
    assert told["version"] == "0.1.0"


def test_parquet_without_pyarrow_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'meshtrain\[parquet\]'"):
        write_parquet(tmp_path / "x.parquet", [results()], version="0.1.0")
    assert not (tmp_path / "x.parquet").exists()


# --- a results folder's own report ------------------------------------------------------------


def test_a_folders_report_lies_beside_its_tables(tmp_path: Path) -> None:
    found = results()
    table = merge(found.cells, SPEC)
    write_results(tmp_path, table, found.cells, title="mix", header="accuracy on p07")
    write_records(
        tmp_path,
        sweep_id="mix-1",
        sweep_name="mix",
        bases=[
            BaseRecord("ab" * 16, "cnn", {"version": 1, "base": {"lr": 0.001}}, "committed",
                       False, 9, artifact_id="cd" * 16, node="gpu0", started_s=0.0, ended_s=3600.0)
        ],
        experiments=[
            ExperimentRecord(c.job_id, c.name, c.cell, "command", c.state, c.group,
                             base_recipe_hash=None if c.group else "ab" * 16,
                             started_s=3600.0, ended_s=3660.0, metrics=c.metrics, reason=c.reason,
                             attempts=(AttemptRecord(1, "succeeded", ("gpu0",)),))
            for c in found.cells
        ],
        machines=[Machine("gpu0", "0.1.0", 8, ("A100",), 64 << 30)],
    )  # fmt: skip
    (tmp_path / "sweep.txt").write_text("name: mix\n# the job file\n")
    path = write_report(tmp_path, MADE)
    text = path.read_text()
    read = Reader(text)
    assert read.open == []
    assert "accuracy on p07" in read.text
    assert "# the job file" in read.text
    assert "1 × A100" in read.text
    assert "about 8.0 h of training" in read.text
    assert "the training of a base" in read.text
    assert 'class="run-base"' in text
