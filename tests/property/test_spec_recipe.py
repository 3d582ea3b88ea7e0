"""What changes a recipe's hash, and what never does."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.errors import UserError
from meshtrain.spec.expand import CodeDigests, Digests, expand
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import BaseSpec
from meshtrain.spec.recipe import (
    builtin_data_digest,
    canonical,
    command_recipe,
    explain_mismatch,
    recipe_hash,
    training_recipe,
)
from meshtrain.spec.training_keys import (
    AUGMENTATIONS,
    BASE_DEFAULTS,
    MODELS,
    OPTIMIZERS,
    RECIPE_KEYS,
)

NAMES = st.from_regex(r"[a-s][a-z0-9_-]{0,6}", fullmatch=True)
LRS = st.floats(1e-9, 1000)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "participants": st.lists(NAMES, min_size=1, max_size=6, unique=True),
    "model": st.sampled_from(MODELS),
    "batch_size": st.integers(1, 1_000_000),
    "lr": LRS,
    "augmentation": st.sampled_from(AUGMENTATIONS),
    "epochs": st.integers(1, 1_000_000),
    "seed": st.integers(0, 2**32 - 1),
    "optimizer": st.sampled_from(OPTIMIZERS),
    "weight_decay": st.floats(0, 1000),
}
BASES = st.fixed_dictionaries(
    {key: VALUES[key] for key in ("participants", "model")},
    optional={key: VALUES[key] for key in BASE_DEFAULTS},
)
RESOURCES = st.fixed_dictionaries(
    {}, optional={"gpus": st.integers(0, 8), "gpu_memory": st.just("12GB"), "cpus": st.just(2)}
)
DURATIONS = st.sampled_from(["90s", "2h", 30, 1.5])
UNHASHED = st.fixed_dictionaries(
    {}, optional={"resources": RESOURCES, "timeout": DURATIONS, "checkpoint_every": DURATIONS}
)
AROUND = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "resources": RESOURCES,
        "timeout": DURATIONS,
        "checkpoint_every": DURATIONS,
        "retries": st.integers(0, 100),
        "priority": st.integers(-1000, 1000),
        "target": st.fixed_dictionaries(
            {
                "mode": st.sampled_from(["full_fine_tuning", "target_only_fine_tuning"]),
                "participant": st.sampled_from(["z1", "z2"]),
            },
            optional={"lr": LRS, "seed": VALUES["seed"], "folds": st.integers(2, 9)},
        ),
    },
)


def spelled(value: Any, draw: Any) -> str:
    """`value` as JSON: keys in any order, numbers in any spelling that means the same."""
    if isinstance(value, dict):
        items = draw(st.permutations(list(value.items())))
        return "{" + ", ".join(f"{json.dumps(k)}: {spelled(v, draw)}" for k, v in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(spelled(item, draw) for item in value) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        exact = Decimal(repr(value))
        spellings = [repr(value), f"{exact:f}", f"{exact:e}", f"{exact:E}"]
        if value == int(value):
            spellings += [f"{int(value)}.0", f"{int(value)}e0", f"{int(value)}.000"]
        return str(draw(st.sampled_from(spellings)))
    return json.dumps(value)


def base_of(text: str, name: str = "x.json") -> BaseSpec:
    """The one base of a job file."""
    (base,) = expand(parse_job_file(text.encode(), name), Digests()).bases
    return base


@given(base=BASES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_spelling_order_and_everything_outside_the_recipe_never_change_the_hash(
    base: dict[str, Any], data: st.DataObject
) -> None:
    plain = base_of(json.dumps({"base": base}))
    other = dict(base)
    people = data.draw(st.permutations(base["participants"]))
    other["participants"] = [*people, *people[: data.draw(st.integers(0, 2))]]
    for key, default in BASE_DEFAULTS.items():
        if key not in other and data.draw(st.booleans()):
            other[key] = default
    around = data.draw(AROUND)
    if "target" in around and data.draw(st.booleans()):
        around["matrix"] = {"fold": [0, 1], "target_data_pct": [0.5, 1]}
    tree = {**around, "base": {**other, **data.draw(UNHASHED)}}
    name = data.draw(st.sampled_from(["x.json", "other.yaml"]))
    again = base_of(spelled(tree, data.draw), name)
    assert again.recipe_hash == plain.recipe_hash
    assert canonical(again.recipe) == canonical(plain.recipe)
    assert again.label == plain.label


@given(base=BASES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_change_in_the_recipe_changes_the_hash(
    base: dict[str, Any], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(RECIPE_KEYS))
    now = base.get(key, BASE_DEFAULTS.get(key))

    def differs(value: Any) -> bool:
        return bool(set(value) != set(now) if key == "participants" else value != now)

    changed = {**base, key: data.draw(VALUES[key].filter(differs))}
    plain = base_of(json.dumps({"base": base}))
    assert base_of(json.dumps({"base": changed})).recipe_hash != plain.recipe_hash


@given(
    digests=st.dictionaries(NAMES, st.text("0123456789abcdef", min_size=32, max_size=32)),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_data_of_its_participants_changes_the_hash_and_data_of_others_does_not(
    digests: dict[str, str], data: st.DataObject
) -> None:
    digests["a"] = "0" * 32
    people = data.draw(st.lists(st.sampled_from(sorted(digests)), min_size=1, unique=True))
    job_file = parse_job_file(
        json.dumps({"data": {"folder": "/d"}, "base": {"participants": people, "model": "cnn"}})
        .encode(),
        "x.json",
    )  # fmt: skip

    def hashed(known: dict[str, str]) -> str:
        (base,) = expand(job_file, Digests(data=known)).bases
        return base.recipe_hash

    person = data.draw(st.sampled_from(sorted(digests)))
    edited = {**digests, person: "f" * 31 + "e"}
    assert (hashed(edited) != hashed(digests)) == (person in people)
    assert hashed({**digests, "stranger-": "f" * 32}) == hashed(digests)


CODE_FILES = ["train_base.py", "models/net.py", "models/deep/layer.py", "notes.md", "src/run.py"]


@given(
    named=st.none()
    | st.lists(
        st.sampled_from(["train_base.py", "models", "models/", "./models/net.py", "models/deep"]),
        min_size=1,
        unique=True,
    ),
    edited=st.sampled_from(CODE_FILES),
)
@settings(deadline=None)
def test_code_that_the_recipe_names_changes_the_hash_and_other_code_does_not(
    named: list[str] | None, edited: str
) -> None:
    base: dict[str, Any] = {"command": "python train_base.py --out {output}"}
    if named is not None:
        base["code"] = named
    job_file = parse_job_file(json.dumps({"code": ".", "base": base}).encode(), "x.json")

    def hashed(files: dict[str, str], artifact_id: str) -> str:
        (made,) = expand(job_file, Digests(code={".": CodeDigests(artifact_id, files)})).bases
        return made.recipe_hash

    files = {path: f"{index:032x}" for index, path in enumerate(CODE_FILES)}
    paths = [path.removeprefix("./").rstrip("/") for path in named or ()]
    is_named = named is None or any(
        edited == path or edited.startswith(f"{path}/") for path in paths
    )
    before = hashed(files, "1" * 32)
    assert (hashed({**files, edited: "e" * 32}, "2" * 32) != before) == is_named
    renamed = {("renamed" if path == edited else path): digest for path, digest in files.items()}
    if named is None:
        assert hashed(renamed, "2" * 32) != before
    assert hashed(files, "2" * 32) == before


@pytest.mark.parametrize(
    "change",
    [
        {"command": "python other.py"},
        {"params": {"width": 2}},
        {"params": {"width": "1"}},
        {"params": {"width": True}},
        {"params": {"width": 1, "depth": 1}},
        {"env": {"MODE": "slow"}},
        {"code_digests": {"a.py": "d1"}},
        {"code_digests": {"b.py": "d0"}},
        {"inputs": {"photos": "d2"}},
    ],
)
def test_every_part_of_a_commands_recipe_is_hashed(change: dict[str, Any]) -> None:
    parts: dict[str, Any] = {
        "command": "python a.py",
        "params": {"width": 1},
        "env": {"MODE": "fast"},
        "code_digests": {"a.py": "d0"},
        "inputs": {"photos": "d1"},
    }
    assert recipe_hash(command_recipe(**parts)) != recipe_hash(command_recipe(**parts | change))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def exact(value: Any) -> Any:
    """A document with its numbers as exact decimals, tagged so that none equals a bool."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", Decimal(repr(value)))
    return value


@given(DOCUMENTS)
@settings(deadline=None)
def test_the_canonical_form_loses_nothing_and_has_one_spelling(document: Any) -> None:
    form = canonical(document)

    def tagged(text: str) -> tuple[str, Decimal]:
        assert "e" not in text.lower()
        assert not (text.endswith("0") and "." in text)
        return "number", Decimal(text)

    read = json.loads(form, parse_float=tagged, parse_int=tagged)
    assert read == exact(document)
    assert form.isascii()
    assert canonical(json.loads(json.dumps(document))) == form
    # A job travels as MessagePack, where a recipe's numbers keep their kind.
    if min(_ints(document), default=0) >= -(2**63) and max(_ints(document), default=0) < 2**64:
        packed = msgspec.msgpack.encode(document)
        assert recipe_hash(msgspec.msgpack.decode(packed)) == recipe_hash(document)


def _ints(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _ints(item)]
    return [value] if isinstance(value, int) else []


@given(DOCUMENTS, DOCUMENTS)
@settings(deadline=None)
def test_two_documents_hash_alike_only_when_they_are_the_same(ours: Any, theirs: Any) -> None:
    assert (recipe_hash(ours) == recipe_hash(theirs)) == (exact(ours) == exact(theirs))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1e-3, 0.001), (64, 64.0), (0, -0.0), (1e22, 10**22), (1.5e300, int(Decimal("1.5e300")))],
)
def test_numbers_are_what_they_are_worth(one: float, other: float) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (False, 0),
        (None, False),
        ("1", 1),
        ("0.001", 0.001),
        ("1e-3", "0.001"),
        ("true", True),
        ("null", None),
        ([], {}),
        ([1, 2], [2, 1]),
        ("\u00e9", "e\u0301"),
        (0.1, 0.1 + 2**-56),
        (2**53, 2**53 + 1),
    ],
)
def test_different_things_stay_different(one: Any, other: Any) -> None:
    assert recipe_hash(one) != recipe_hash(other)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(number: float) -> None:
    for document in (number, [1, number], {"base": {"lr": number}}):
        with pytest.raises(UserError, match="write a finite number"):
            canonical(document)


def test_what_no_job_file_holds_is_refused() -> None:
    with pytest.raises(UserError, match="key 1 of a recipe is not text"):
        canonical({1: 2})
    with pytest.raises(UserError, match="a set can't be part of a recipe"):
        canonical({"participants": {"a"}})
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    with pytest.raises(UserError, match="nests deeper"):
        canonical(nested)


def test_a_training_recipe_takes_its_participants_as_a_set() -> None:
    """The trainer calls it with what it parsed, in whatever order that is."""
    people = {"b": "d1", "a": "d0", "c": "d2"}
    one, other = (
        training_recipe({"participants": names, "model": "cnn"}, people)
        for names in (["b", "a"], ["a", "b", "a"])
    )
    assert recipe_hash(one) == recipe_hash(other)
    assert one["base"]["participants"] == ["a", "b"]


def test_a_training_recipe_refuses_what_it_does_not_know() -> None:
    people = {"a": "d0"}
    with pytest.raises(UserError, match="lerning_rate can't be part of a recipe; known:"):
        training_recipe({"participants": ["a"], "model": "cnn", "lerning_rate": 1}, people)
    with pytest.raises(UserError, match="a recipe needs model"):
        training_recipe({"participants": ["a"]}, people)
    with pytest.raises(UserError, match="a recipe needs participants"):
        training_recipe({"participants": [], "model": "cnn"}, people)
    with pytest.raises(UserError, match="no data of b was found"):
        training_recipe({"participants": ["a", "b"], "model": "cnn"}, people)
    with pytest.raises(UserError, match="built in is: digits"):
        builtin_data_digest("mnist", "a")


def test_a_mismatch_shows_both_forms_and_where_they_differ() -> None:
    ours = {"base": {"lr": 0.001, "model": "cnn"}}
    theirs = {"base": {"lr": 0.002, "model": "cnn"}, "version": 1}
    told = explain_mismatch(ours, theirs).splitlines()
    assert told[1] == f'  parsed   {recipe_hash(ours)}  {{"base":{{"lr":0.001,"model":"cnn"}}}}'
    assert told[2].startswith(f"  hashed   {recipe_hash(theirs)}  {{")
    assert told[3:] == [
        "  differs  base.lr: 0.001 is not 0.002",
        "  differs  version: only in the hashed recipe",
    ]
