"""Bytes to a tree: what is read, and what is refused with its place."""

from __future__ import annotations

import pytest

from meshtrain.spec.problems import JobFileError, Place, Spot
from meshtrain.spec.read_yaml import plain_scalar
from meshtrain.spec.reader import DEPTH_MAX, FILE_SIZE_MAX_BYTES, read


def problem_of(data: bytes, name: str) -> tuple[str, Spot | None]:
    """The one problem of a file, however late it is told."""
    try:
        document = read(data, name)
    except JobFileError as error:
        (problem,) = error.problems
    else:
        (problem,) = document.problems
    return problem.text, problem.spot


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_plain_yaml_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = plain_scalar(text)
    assert found == value
    assert type(found) is type(value)
    assert read(f"a: {text}".encode(), "x.yaml").tree == {"a": value}


def test_quoted_yaml_is_text() -> None:
    assert read(b"a: '1'\nb: \"true\"\nc: |\n  1\n", "x.yml").tree == {
        "a": "1",
        "b": "true",
        "c": "1\n",
    }


def test_a_byte_order_mark_is_fine() -> None:
    for name, text in (("x.yaml", "a: 1"), ("x.json", '{"a": 1}'), ("x.toml", "a = 1")):
        assert read(b"\xef\xbb\xbf" + text.encode(), name).tree == {"a": 1}


def test_every_format_knows_where_values_stand() -> None:
    yaml = read(b"a:\n  b: [1, 2]\n", "x.yaml")
    assert yaml.places["a", "b"] == Place(Spot(2, 3), Spot(2, 6))
    assert yaml.places["a", "b", 1] == Place(Spot(2, 10), Spot(2, 10))
    json = read(b'{\n "a": {"b": [1, 2]}}', "x.json")
    assert json.places["a", "b"] == Place(Spot(2, 8), Spot(2, 13))
    assert json.places["a", "b", 1] == Place(Spot(2, 17), Spot(2, 17))
    toml = read(b'[a]\nb = [1,\n 2]\n"c d".e = "x#y" # z\nf = {g = 3}\n', "x.toml")
    assert toml.tree == {"a": {"b": [1, 2], "c d": {"e": "x#y"}, "f": {"g": 3}}}
    assert toml.places["a", "b", 1] == Place(Spot(3, 2), Spot(3, 2))
    assert toml.places["a", "c d", "e"] == Place(Spot(4, 1), Spot(4, 11))
    assert toml.places["a", "f", "g"] == Place(Spot(5, 6), Spot(5, 10))


def test_toml_places_survive_strings_arrays_of_tables_and_windows_lines() -> None:
    text = (
        "a = \"\"\"x\r\n[no]\r\ny = 1\"\"\"\r\nb = '''q'''\r\n[[t]]\r\nk = 1\r\n[[t]]\r\nk = 2\r\n"
    )
    document = read(text.encode(), "x.toml")
    assert document.places["b",].key == Spot(4, 1)
    assert document.places["t", 1, "k"].value == Spot(8, 5)
    assert document.tree["t"] == [{"k": 1}, {"k": 2}]


@pytest.mark.parametrize(
    ("name", "data", "text", "spot"),
    [
        ("x.yaml", b"a: 1\na: 2\n", "this key is here twice", Spot(2, 1)),
        ("x.json", b'{"a": 1,\n "a": 2}', "this key is here twice", Spot(2, 2)),
        (
            "x.yaml",
            b"a: &x [1]\nb: *x\n",
            "anchors (&) and aliases (*) are not taken; write the value out",
            Spot(1, 4),
        ),
        (
            "x.yaml",
            b"a: !!python/object/apply:os.system ['ls']\n",
            'tags are not taken, and "tag:yaml.org,2002:python/object/apply:os.syste… is one; '
            "leave it out",
            Spot(1, 4),
        ),
        (
            "x.yaml",
            b"a: !mine 1\n",
            'tags are not taken, and "!mine" is one; leave it out',
            Spot(1, 4),
        ),
        (
            "x.yaml",
            b"a: 1\n---\nb: 2\n",
            "a second document starts here; one file holds one job file",
            Spot(2, 1),
        ),
        (
            "x.yaml",
            b"%YAML 1.1\n---\na: no\n",
            "job files are YAML 1.2; leave the %YAML line out",
            Spot(2, 1),
        ),
        ("x.yaml", b"? [1, 2]\n: 3\n", "a key is one word, not a list or a mapping", Spot(1, 3)),
        (
            "x.yaml",
            b"a: [1, 2\n",
            "not YAML: expected ',' or ']', but got '<stream end>'",
            Spot(2, 1),
        ),
        ("x.yaml", b"a: .nan\n", "expected a finite number, not NaN or infinity", Spot(1, 4)),
        ("x.yaml", b"a: -.inf\n", "expected a finite number, not NaN or infinity", Spot(1, 4)),
        ("x.yaml", b"a: 1e999\n", "expected a finite number, not NaN or infinity", Spot(1, 4)),
        ("x.json", b'{"a": NaN}', "expected a finite number, not NaN or infinity", Spot(1, 7)),
        (
            "x.json",
            b'{"a": -Infinity}',
            "expected a finite number, not NaN or infinity",
            Spot(1, 7),
        ),
        ("x.toml", b"a = nan\n", "expected a finite number, not NaN or infinity", Spot(1, 5)),
        ("x.yaml", b"a: 9223372036854775808", "the number has too many digits", Spot(1, 4)),
        ("x.yaml", b"a: " + b"9" * 6000, "the number has too many digits", Spot(1, 4)),
        ("x.json", b"[" + b"9" * 6000 + b"]", "the number has too many digits", Spot(1, 2)),
        ("x.toml", b"a = 99999999999999999999", "the number has too many digits", Spot(1, 5)),
        ("x.yaml", b"a: b\0\n", "a NUL byte: this is no text file", Spot(1)),
        ("x.json", b'\n"\xff"', "byte 0xff is not UTF-8; save the file as UTF-8", Spot(2)),
        ("x.yaml", "a: 1".encode("utf-16"), "the file is UTF-16; save it as UTF-8", None),
        ("x.yaml", b" \n\n", "the file is empty", None),
        ("x.json", b'{"a": 1,}', "not JSON: expected a key in double quotes", Spot(1, 9)),
        ("x.json", b'{"a": 1} x', "not JSON: more text after the end of the value", Spot(1, 10)),
        ("x.json", b'{"a": tru}', "not JSON: expected a value", Spot(1, 7)),
        ("x.json", b'{"a" 1}', 'not JSON: expected ":", found "1"', Spot(1, 6)),
        ("x.json", b'["\\ud800"]', "half of a surrogate pair is no character", Spot(1, 2)),
        ("x.json", b"[1", 'not JSON: expected "]", found the end', Spot(1, 3)),
        ("x.toml", b"a = 1\na = 2\n", "not TOML: Cannot overwrite a value", Spot(2, 6)),
        (
            "x.toml",
            b"a = 2026-01-01\n",
            "2026-01-01 is a date or a time; write it in quotes",
            Spot(1, 5),
        ),
        (
            "x.ini",
            b"a=1",
            '".ini" is no suffix of a job file; name it .yaml, .json or .toml',
            None,
        ),
    ],
)
def test_refused_with_its_place(name: str, data: bytes, text: str, spot: Spot | None) -> None:
    assert problem_of(data, name) == (text, spot)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.yaml", b"[" * 100_000),
        ("x.yaml", b"- " * 100_000 + b"1"),
        ("x.json", b"[" * 500_000),
        ("x.json", b'{"a":' * 100_000),
        ("x.toml", b"a = " + b"[" * 500_000),
        ("x.toml", b"a = " + b"[" * 40 + b"]" * 40),
        ("x.toml", b"a" + b".a" * 300_000 + b" = 1"),
        ("x.toml", b"[" + b"a." * 300_000 + b"a]"),
    ],
    ids=range(8),
)
def test_depth_bombs_are_refused(name: str, data: bytes) -> None:
    text, _ = problem_of(data, name)
    assert text == f"nested deeper than {DEPTH_MAX} levels"


def test_a_yaml_bomb_of_aliases_is_refused_at_its_first_anchor() -> None:
    lines = ["a: &a [x, x]"]
    lines += [f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    text, spot = problem_of("\n".join(lines).encode(), "bomb.yaml")
    assert text.startswith("anchors")
    assert spot == Spot(1, 4)


def test_a_large_file_is_refused_unread() -> None:
    text, spot = problem_of(b"a" * (FILE_SIZE_MAX_BYTES + 1), "x.yaml")
    assert text == "the file has 1,048,577 bytes; a job file has at most 1,048,576"
    assert spot is None


def test_a_file_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = problem_of(b"[" + b"1," * 100_000 + b"1]", "x.json")
    assert text == "more than 100,000 values in one file"
    # YAML's own limit is 25,000, because its parser is slow: too slow for a test.
    monkeypatch.setattr("meshtrain.spec.read_yaml.YAML_VALUES_MAX", 1_000)
    text, _ = problem_of(b"[" + b"1," * 1_000 + b"1]", "x.yaml")
    assert text == "more than 1,000 values in one file; JSON may hold 100,000"
