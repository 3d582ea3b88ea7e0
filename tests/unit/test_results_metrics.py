import os
from pathlib import Path

import pytest

from meshtrain.results.metrics import (
    SIZE_MAX_BYTES,
    VALUES_MAX,
    read_metrics,
    resolve_metric,
)


def written(folder: Path, text: str | bytes, name: str = "metrics.json") -> Path:
    data = text.encode() if isinstance(text, str) else text
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return folder


def test_nested_numbers_get_dotted_names_in_file_order(tmp_path: Path) -> None:
    metrics = read_metrics(written(tmp_path, '{"val": {"miou": 61.5, "loss": 1}, "epoch": 3}'))
    assert metrics.values == {"val.miou": 61.5, "val.loss": 1.0, "epoch": 3.0}
    assert list(metrics.values) == ["val.miou", "val.loss", "epoch"]
    assert metrics.reason == ""
    assert metrics.find("miou").value == 61.5
    assert metrics.find("val.miou").name == "val.miou"


def test_an_ambiguous_name_is_told(tmp_path: Path) -> None:
    found = read_metrics(written(tmp_path, '{"val": {"miou": 1}, "test": {"miou": 2}}')).find(
        "miou"
    )
    assert found.value is None
    assert found.reason == "miou may mean test.miou or val.miou: name one of them"


def test_an_exact_name_is_never_ambiguous(tmp_path: Path) -> None:
    metrics = read_metrics(written(tmp_path, '{"miou": 3, "val": {"miou": 1}, "a": {"miou": 2}}'))
    assert metrics.find("miou").value == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "x is NaN"),
        ("Infinity", "x is infinite"),
        ("-Infinity", "x is infinite"),
        ("null", "x is empty, not a number"),
        ('"0.8"', "x is text, not a number"),
        ("true", "x is true or false, not a number"),
        ("[1, 2]", "x is a list, not a number"),
        ("1e999", "x is infinite"),
        ("1" + "0" * 400, "x is too large a number"),
    ],
    ids=["nan", "inf", "-inf", "null", "text", "bool", "list", "float overflow", "int overflow"],
)
def test_what_is_no_number_is_absent_with_its_reason(
    tmp_path: Path, value: str, reason: str
) -> None:
    metrics = read_metrics(written(tmp_path, f'{{"x": {value}, "y": 2}}'))
    assert metrics.values == {"y": 2.0}
    assert metrics.absent == {"x": reason}
    assert metrics.find("x").reason == reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (b"\xff\xfe{}", "not UTF-8"),
        ('{"a": 1', "not JSON"),
        ("[1, 2]", "holds a list, not an object"),
        ("7", "holds a number, not an object"),
        ("{}", "holds no metrics"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        (b" " * (SIZE_MAX_BYTES + 1), "larger than 4 MiB"),
        (
            "{" + ",".join(f'"k{i}": 1' for i in range(VALUES_MAX + 1)) + "}",
            "more than 10,000 values",
        ),
    ],
    ids=[
        *("empty", "encoding", "cut", "list", "number", "no keys", "deep lists", "deep maps"),
        *("long number", "large", "many values"),
    ],
)
def test_a_broken_file_gives_a_reason(tmp_path: Path, text: str | bytes, said: str) -> None:
    metrics = read_metrics(written(tmp_path, text))
    assert metrics.values == {}
    assert said in metrics.reason
    assert metrics.find("a").reason == metrics.reason


def test_depth_below_the_parser_but_above_the_limit_is_absent(tmp_path: Path) -> None:
    metrics = read_metrics(written(tmp_path, '{"a":' * 60 + "1" + "}" * 60))
    (reason,) = metrics.absent.values()
    assert "nested too deeply" in reason


def test_an_absent_file_says_what_is_there(tmp_path: Path) -> None:
    written(tmp_path, "x", "out.json")
    assert read_metrics(tmp_path).reason == "no metrics.json in the result; it holds out.json"
    assert "no metrics.json" in read_metrics(tmp_path / "nowhere").reason


def test_the_commands_own_file_is_read_instead(tmp_path: Path) -> None:
    written(tmp_path, '{"miou": 1}')
    written(tmp_path, '{"miou": 2}', "eval/results.json")
    assert read_metrics(tmp_path, "eval/results.json").values == {"miou": 2.0}


def test_csv_of_one_row(tmp_path: Path) -> None:
    written(tmp_path, "\ufeffepoch, val.miou ,note,empty\r\n3,0.5,ok,\r\n\r\n", "r.csv")
    metrics = read_metrics(tmp_path, "r.csv")
    assert metrics.values == {"epoch": 3.0, "val.miou": 0.5}
    assert set(metrics.absent) == {"note", "empty"}
    assert metrics.find("miou").value == 0.5


def test_csv_with_nan_is_absent(tmp_path: Path) -> None:
    assert read_metrics(written(tmp_path, "a\tb\nnan\t1\n", "r.tsv"), "r.tsv").absent == {
        "a": "a is NaN"
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3,4\n", "more than one row"),
        ("a,b\n", "no row"),
        ("a,b\n1\n", "2 names and 1 values"),
        ("a,a\n1,2\n", "names a column twice"),
        ("a\n" + "x" * 200_000, "not CSV"),
    ],
    ids=["rows", "no row", "short row", "same name", "long field"],
)
def test_csv_of_another_shape_gives_a_reason(tmp_path: Path, text: str, said: str) -> None:
    assert said in read_metrics(written(tmp_path, text, "r.csv"), "r.csv").reason


def test_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    written(tmp_path, '{"a": 1}', "secret.json")
    (folder / "link.json").symlink_to("../secret.json")
    for name in ("../secret.json", str(tmp_path / "secret.json"), "link.json"):
        assert "outside the result folder" in read_metrics(folder, name).reason


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dir.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    assert "not a plain file" in read_metrics(tmp_path, "dir.json").reason
    assert "not a plain file" in read_metrics(tmp_path, "pipe.json").reason
    assert "can't be read" in read_metrics(tmp_path, "loop.json").reason
    assert read_metrics(tmp_path, "nul\0.json").reason
    assert read_metrics(tmp_path, "x" * 5000).reason


def test_a_name_with_two_values_counts_for_neither(tmp_path: Path) -> None:
    metrics = read_metrics(written(tmp_path, '{"val.x": 1, "val": {"x": 2}, "y": 0}'))
    assert metrics.values == {"y": 0.0}
    assert "twice" in metrics.absent["val.x"]


def test_an_unknown_metric_suggests_or_lists() -> None:
    assert resolve_metric(["accuracy", "loss"], "acuracy").reason == (
        "no acuracy; did you mean accuracy?"
    )
    assert resolve_metric(["loss"], "miou").reason == "no miou; there is loss"
    assert resolve_metric([], "miou").reason == "no miou: no metrics were written"
