"""From dropped bytes to a sweep: the same content is one sweep, and no bytes do harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.errors import UserError
from meshtrain.ids import digest
from meshtrain.spec.jobs import CodeDigests, SweepSpec
from meshtrain.spec.problems import JobFileError
from meshtrain_daemon.master import intake
from meshtrain_daemon.master.intake import Submission, data_digests, sweep_of

ECHO = b"name: x\ncommand: echo {n}\nmatrix: {n: [1, 2]}\n"
CODE = CodeDigests(digest(b"code"), {"a.py": digest(b"a")})
WITH_CODE = b"name: x\ncode: .\ncommand: python a.py\n"


def sweep(
    data: bytes, name: str = "x.yaml", known: tuple[str, ...] = (), **fields: object
) -> SweepSpec:
    submission = Submission(name, data, **fields)  # type: ignore[arg-type]
    return sweep_of(submission, cells_max=100, known_sweeps=known)


def test_the_same_content_is_the_same_sweep_and_again_is_another() -> None:
    first = sweep(ECHO)
    assert sweep(ECHO).sweep_id == first.sweep_id
    assert len(first.jobs) == 2
    again = sweep(ECHO, again=True, known=(first.sweep_id,))
    third = sweep(ECHO, again=True, known=(first.sweep_id, again.sweep_id))
    assert len({first.sweep_id, again.sweep_id, third.sweep_id}) == 3
    assert {j.job_id for j in first.jobs}.isdisjoint(j.job_id for j in again.jobs)


def test_running_again_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everything(tuple[str, ...]):
        def __contains__(self, item: object) -> bool:
            return True

    monkeypatch.setattr(intake, "AGAIN_MAX", 3)
    with pytest.raises(UserError, match="change its name"):
        sweep(ECHO, again=True, known=Everything())


def test_code_that_did_not_come_along_is_asked_for() -> None:
    with pytest.raises(UserError, match="drop a folder that holds the job file"):
        sweep(WITH_CODE)
    assert sweep(WITH_CODE, code={".": CODE}).jobs
    changed = CodeDigests(digest(b"other"), {"a.py": digest(b"b")})
    one, other = (sweep(WITH_CODE, code={".": code}).sweep_id for code in (CODE, changed))
    assert one != other


REFUSED = [
    ("laughs.yaml", b"a: &a [x]\nb: [*a, *a]\n"),
    ("self.yaml", b"a: &a\n  b: *a\n"),
    ("deep.yaml", b"[" * 100_000),
    ("deep.json", b"[" * 100_000),
    ("deep.toml", b"a=" + b"[" * 100_000),
    ("tag.yaml", b"!!python/object/apply:os.system ['true']"),
    ("nul.yaml", b"name: \0"),
    ("utf16.yaml", "name: x".encode("utf-16")),
    ("surrogate.json", b'{"name": "\\ud800", "command": "true"}'),
    ("digits.json", b'{"name":"x","command":"echo {a}","matrix":{"a":[' + b"9" * 9000 + b"]}}"),
    ("nan.yaml", b"name: x\ncommand: echo {a}\nmatrix: {a: [.nan]}\n"),
    ("many.yaml", b"name: x\ncommand: echo {a}\nmatrix: {a: {range: [0, 1000]}}\n"),
    ("data.yaml", b"name: x\ndata: {folder: ../../etc}\ncommand: 'true'\n"),
    ("environment.json", b'{"name":"x","command":"true","env":{"A=B":"1"}}'),
    ("empty.yaml", b""),
    ("null.json", b"null"),
    ("no suffix", b"name: x"),
    ("bytes.yaml", bytes(range(256))),
]


@pytest.mark.parametrize(("name", "data"), REFUSED, ids=[name for name, _ in REFUSED])
def test_no_bytes_do_more_than_be_refused_with_their_place(name: str, data: bytes) -> None:
    with pytest.raises(JobFileError) as caught:
        sweep(data, name)
    assert "Nothing was started" in str(caught.value)
    assert "Mend the file" in str(caught.value)


def test_the_data_of_each_participant_is_hashed(tmp_path: Path) -> None:
    for who in ("p1", "p2"):
        (tmp_path / f"{who}.npz").write_bytes(who.encode())
    found = data_digests(str(tmp_path), ("p1", "p2"))
    assert found == {who: digest(who.encode()) for who in ("p1", "p2")}


@pytest.mark.parametrize("there", ["nothing", "a folder", "a device"])
def test_data_that_can_not_be_read_is_told_with_its_place(tmp_path: Path, there: str) -> None:
    path = tmp_path / "p1.npz"
    if there == "a folder":
        path.mkdir()
    elif there == "a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="the data of p1 can't be read") as caught:
        data_digests(str(tmp_path), ("p1",))
    assert str(path) in str(caught.value)
    assert "one .npz file for each participant" in str(caught.value)
