"""What the master makes of the names and shares that a sweep reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.listing import list_share
from meshtrain.core.manifest import artifact_id
from meshtrain.core.named_input import NamedInput, Versions
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.errors import NotFoundError, UserError
from meshtrain.spec.jobs import InputData
from meshtrain.wire.messages import Query
from meshtrain_daemon.master.inputs import (
    answer_inputs,
    checked_name,
    demand_held,
    find_inputs,
    published_manifest,
)

VOC_1 = NamedInput("voc", 1, "a" * 32, 10, 2)
VOC_2 = NamedInput("voc", 2, "b" * 32, 20, 3)
COCO = NamedInput("coco", 1, "c" * 32)
KNOWN: Mapping[str, Versions] = {"voc": (VOC_1, VOC_2), "coco": (COCO,)}


def find(*references: str, **sent: InputData) -> dict[str, InputData]:
    return find_inputs(references, KNOWN, sent)


def test_a_name_is_its_newest_version_unless_one_is_said() -> None:
    assert find("voc", "voc@1") == {"voc": VOC_2.data, "voc@1": VOC_1.data}
    assert VOC_2.data == InputData("voc@2", "b" * 32, size_bytes=20, files_count=3)


def test_what_its_sender_found_counts_though_there_is_a_newer_one() -> None:
    assert find("voc", voc=VOC_1.data) == {"voc": VOC_1.data}
    assert find("voc", voc=InputData("voc@1", "a" * 32, size_bytes=5)) == {"voc": VOC_1.data}


def test_p11_what_is_sent_as_a_data_set_and_is_no_reference_is_refused_and_no_bug() -> None:
    with pytest.raises(UserError, match=r"what was sent as voc: .* Submit again"):
        find("voc", voc=InputData("!!bad", "a" * 32))


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("cocoa", 'no data set is called "cocoa"; did you mean "coco"?'),
        ("zebra", "Publish one: meshtrain publish PATH --name zebra"),
        ("voc@3", "voc has no version 3: it has versions 1 to 2"),
        ("coco@2", "coco has no version 2: it has version 1"),
    ],
)
def test_p11_what_is_not_there_is_told_with_what_is(reference: str, told: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find(reference)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (InputData("voc@1", "b" * 32), "other data than what was sent"),
        (InputData("coco@1", "c" * 32), "was sent as what voc is"),
        (InputData("voc@9", "b" * 32), "did you mean|has no version"),
    ],
)
def test_p11_what_was_sent_must_be_what_the_master_knows(sent: InputData, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find("voc", voc=sent)


def test_a_share_is_listed_here_unless_its_sender_did(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"12")
    path = str(tmp_path)
    (found,) = find_inputs([path], {}, {}).values()
    assert found == InputData(path, list_share(path).digest, True, 2, 1)
    sent = InputData(path, "0" * 32, True, 5, 5)
    assert find_inputs([path], {}, {path: sent}) == {path: sent}
    for wrong in (
        InputData("/other", "0" * 32, True),
        InputData(path, "0" * 32),
        InputData(path, "../x", True),
        InputData(path, "0" * 32, True, -1),
    ):
        with pytest.raises(UserError, match="listing of"):
            find_inputs([path], {}, {path: wrong})
    with pytest.raises(UserError, match=r"can't be listed on the master's host.*No such file"):
        find_inputs([f"{path}/nowhere"], {}, {})


def test_a_data_set_that_nobody_has_is_told_before_anything_starts() -> None:
    state = Scheduler(SchedulerConfig(), Loaded(named_inputs=(VOC_1,))).state
    with pytest.raises(UserError, match="voc@1 is on no host that is there"):
        demand_held(state, {"voc": VOC_1.data})
    demand_held(state, {"/mnt": InputData("/mnt", "0" * 32, True)})
    state.held_by_master.add(VOC_1.artifact_id)
    demand_held(state, {"voc": VOC_1.data})


def test_the_newest_version_of_each_is_listed_first() -> None:
    state = Scheduler(SchedulerConfig(), Loaded(named_inputs=(VOC_1, COCO, VOC_2))).state
    state.held_by_master.add(VOC_2.artifact_id)

    def listed(*names: str, offset: int = 0) -> list[str]:
        rows, total = answer_inputs(state, Query("q", "inputs", names, offset), None)
        found = list(rows)
        assert total == len(found) + offset
        return [f"{row['reference']} {' '.join(row['holders'])}".strip() for row in found]

    assert listed() == ["coco@1", "voc@2 master", "voc@1"]
    assert listed(offset=1) == ["voc@2 master", "voc@1"]
    assert listed("voc", "voc") == ["voc@2 master", "voc@1"]
    assert listed("voc@1") == ["voc@1"]
    for wrong in ("vox", "voc@7", "a/b"):
        with pytest.raises(UserError):
            listed(wrong)


def test_p11_only_what_came_whole_gets_a_name_and_only_a_name(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w").write_bytes(b"1")
    manifest = store.add_tree(tmp_path / "data")
    assert published_manifest(store, artifact_id(manifest)) == manifest
    for wrong in ("0" * 32, "../../etc", "", "x" * 10_000):
        with pytest.raises(UserError, match="didn't arrive whole"):
            published_manifest(store, wrong)
    assert checked_name("pascal5i") == "pascal5i"
    for wrong in ("", "a/b", "a@2", "x" * 65, "-a"):
        with pytest.raises(UserError, match="can't be called so"):
            checked_name(wrong)
