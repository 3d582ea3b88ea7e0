import itertools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshtrain.results import plots
from meshtrain.results.errors import MissingExtraError
from meshtrain.results.merge import CellResult, MergedTable, merge
from meshtrain.results.plot_data import Shape, plot_data
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import ResultsSpec

SPEC = ResultsSpec(metric="accuracy", over=("fold",))
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def matrix(axes: dict[str, list[Any]], *, state: str = "succeeded") -> list[CellResult]:
    cells = []
    for i, point in enumerate(itertools.product(*axes.values())):
        cell = dict(zip(axes, point, strict=True))
        value = {"accuracy": 0.5 + i / 100} if state == "succeeded" else {}
        cells.append(CellResult(f"j{i}", f"s/{i}", cell, "", state, value, index=i))
    return cells


def references() -> list[CellResult]:
    return [
        CellResult(f"r{g}{i}", f"s/{g}", {"fold": i}, g, "succeeded", {"accuracy": 0.4 + i / 50})
        for g in ("base alone", "target only")
        for i in range(2)
    ] + [CellResult("rx", "s/x", {}, "not run", "waiting")]


SHARES = [0.1, 0.25, 0.5, 0.9]
TABLES: dict[str, tuple[list[CellResult], Shape]] = {
    "numeric": (matrix({"share": SHARES, "fold": [0, 1]}) + references(), Shape.LINES),
    "two numeric": (matrix({"share": SHARES, "data": [0.1, 0.5, 1.0]}), Shape.LINES),
    "logarithmic": (matrix({"lr": [1e-4, 1e-3, 1e-2], "fold": [0, 1]}), Shape.LINES),
    "categories": (matrix({"set": ["a", "b"], "net": ["x", "y"], "shots": [1, 5]}), Shape.POINTS),
    "awkward names": (matrix({"$x_{": ["_a", "$\\frac$", "é\n" * 40]}), Shape.POINTS),
    "grid": (
        matrix({"who": list("abcde"), "net": list("xyz")})[:-1]
        + matrix({"who": ["e"], "net": ["z"]}, state="failed")
        + references(),
        Shape.HEAT,
    ),
    "many lines": (matrix({"lr": [1, 2], "seed": list(range(9))}), Shape.HEAT),
    "single": (matrix({"lr": [1]}), Shape.POINTS),
    "all missing": (matrix({"share": SHARES}, state="waiting") + references()[-1:], Shape.LINES),
    "grid all missing": (
        matrix({"who": list("abcde"), "net": list("xyz")}, state="waiting"),
        Shape.HEAT,
    ),
    "nothing": ([], Shape.POINTS),
}


def table_of(name: str) -> MergedTable:
    cells = TABLES[name][0]
    unique = [CellResult(str(i), *list_of(cell)) for i, cell in enumerate(cells)]
    return merge(unique, SPEC)


def list_of(cell: CellResult) -> tuple[Any, ...]:
    return (cell.name, cell.cell, cell.group, cell.state, cell.metrics)


@pytest.mark.parametrize("name", TABLES)
def test_every_shape_is_drawn(name: str, tmp_path: Path) -> None:
    table = table_of(name)
    assert plot_data(table).shape is TABLES[name][1]
    path = plots.plot(table, tmp_path / "p.png", title="A title " * 12, y_label="accuracy")
    data = path.read_bytes()
    assert data.startswith(PNG_MAGIC)
    width, height = struct.unpack(">II", data[16:24])
    assert 600 <= width <= 3200
    assert 300 <= height <= 3200
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_axes_with_one_value_go_to_the_caption() -> None:
    data = plot_data(merge(matrix({"net": ["cnn"], "lr": [1, 2, 3]}), SPEC))
    assert (data.x_name, data.fixed) == ("lr", ("net cnn",))


def test_missing_runs_are_counted_in_the_caption() -> None:
    cells = matrix({"lr": [1, 2], "fold": [0, 1]})
    cells[0] = CellResult("j0", "s/0", cells[0].cell, state="failed", index=0)
    assert plot_data(merge(cells, SPEC)).caption == (
        "mean ± sample std over fold, n = 1 to 2; small dots are single runs",
        "1 of 4 runs missing: 1 failed",
    )


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "meshtrain.results.plot_sheet", None)
    with pytest.raises(MissingExtraError, match=r"meshtrain\[plots\]"):
        plots.plot(merge([], SPEC), tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_the_module_imports_neither_matplotlib_nor_numpy() -> None:
    code = (
        "import sys, meshtrain.results.plots, meshtrain.results.records, meshtrain.results.folder;"
        "print([m for m in ('matplotlib', 'numpy', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_program_draws_a_results_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = matrix({"lr": [1, 2, 3]})
    write_results(tmp_path, merge(cells, SPEC), cells, title="t", header="accuracy on w07")
    assert plots.main([str(tmp_path)]) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG_MAGIC)
    assert capsys.readouterr().out.strip() == str(tmp_path / "plot.png")
    assert plots.main([str(tmp_path / "nowhere")]) == 1
    assert "table.json can't be read" in capsys.readouterr().err
