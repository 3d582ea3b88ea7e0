"""Writers of the built-in digits, and participants from a folder."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from meshtrain.errors import RecipeMismatchError, UserError
from meshtrain.ids import digest
from meshtrain.spec.recipe import builtin_data_digest
from meshtrain.training import data
from meshtrain.training.digits import (
    WRITERS_DISJOINT,
    Style,
    apply_style,
    digits_of,
    hand_of,
    read_originals,
    style_of,
)

UPRIGHT = Style(slant=0.0, rotation_rad=0.0, width=1.0, height=1.0, stroke=0.0)


def images_held(writer: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr("meshtrain.training.digits.style_of", lambda _: UPRIGHT)
    return [image.tobytes() for image in digits_of(writer)[0]]


def test_the_known_writers_share_no_image_and_leave_none_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = [
        image
        for number in range(1, WRITERS_DISJOINT + 1)
        for image in images_held(f"w{number:02}", monkeypatch)
    ]
    assert sorted(held) == sorted(image.tobytes() for image in read_originals()[0])


def test_a_writer_has_every_digit_about_equally_often() -> None:
    images, labels = digits_of("w03")
    assert images.shape == (labels.size, 1, 8, 8)
    assert images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    counts = np.bincount(labels)
    assert counts.size == 10 and counts.max() - counts.min() <= 3


def test_a_name_has_a_style_of_its_own_that_never_changes() -> None:
    assert hand_of("w01") == hand_of("p1") == hand_of("w09")
    assert 0 <= hand_of("ida") < WRITERS_DISJOINT
    assert not np.array_equal(digits_of("w01")[0], digits_of("p01")[0])
    # Pinned: another style is other data, and needs a higher DIGITS_VERSION.
    assert style_of("w01") == pytest.approx((0.3412, 0.2302, 0.9965, 0.843, 0.1239), abs=1e-3)


def test_styles_change_images_as_they_say() -> None:
    images = read_originals()[0][:50]
    np.testing.assert_array_equal(apply_style(images, UPRIGHT), images)
    ink = images.sum()
    assert apply_style(images, UPRIGHT._replace(stroke=0.5)).sum() > ink
    assert apply_style(images, UPRIGHT._replace(stroke=-0.5)).sum() < ink
    assert apply_style(images, UPRIGHT._replace(width=0.5)).sum() < 0.7 * ink
    stem = np.zeros((1, 8, 8), dtype=np.float32)
    stem[0, :, 4] = 1
    leaning = apply_style(stem, UPRIGHT._replace(slant=0.5))[0]
    columns = np.arange(8)
    assert abs(leaning[0] @ columns - leaning[7] @ columns) > 2


def test_a_target_that_shares_images_with_the_base_is_refused() -> None:
    data.refuse_shared_images("w08", ("w01", "w07"))
    with pytest.raises(UserError, match="w09 and participant w01 hold the same"):
        data.refuse_shared_images("w09", ("w02", "w01"))


def test_digits_are_loaded_under_their_digest_only() -> None:
    promised = builtin_data_digest("digits", "w01")
    loaded = data.load_participant("w01", source="digits", folder=None, promised_digest=promised)
    assert loaded.y.size in (224, 225)
    with pytest.raises(RecipeMismatchError, match="data of participant w01"):
        data.load_participant("w01", source="digits", folder=None, promised_digest="0" * 32)


def load_from(folder: Path, name: str = "anna") -> data.Participant:
    path = folder / f"{name}.npz"
    promised = data.file_digest(path) if path.is_file() else ""
    return data.load_participant(
        name, source="folder", folder=str(folder), promised_digest=promised
    )


def test_a_folder_participant_is_its_file(tmp_path: Path) -> None:
    x = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(2, 5, 6)
    np.savez(tmp_path / "anna.npz", x=x, y=np.array([1, 0], dtype=np.int8))
    loaded = load_from(tmp_path)
    assert loaded.x.shape == (2, 1, 5, 6)
    assert sorted(loaded.y.tolist()) == [0, 1]
    np.testing.assert_allclose(np.sort(loaded.x.ravel()), np.sort(x.ravel()) / 255, rtol=1e-6)
    assert data.file_digest(tmp_path / "anna.npz") == digest((tmp_path / "anna.npz").read_bytes())


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anna.npz"
    np.savez(path, x=np.zeros((4, 3)), y=np.zeros(4, dtype=int))
    promised = data.file_digest(path)
    np.savez(path, x=np.ones((4, 3)), y=np.zeros(4, dtype=int))
    with pytest.raises(RecipeMismatchError, match=r"anna\.npz has the digest"):
        data.load_participant(
            "anna", source="folder", folder=str(tmp_path), promised_digest=promised
        )


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 4))}, "holds no array y"),
        ({"x": np.zeros((3, 4)), "y": np.zeros(2, dtype=int)}, "3 samples but 2 labels"),
        ({"x": np.zeros((3, 4)), "y": np.zeros(3)}, "whole numbers"),
        ({"x": np.zeros((3, 4)), "y": np.zeros((3, 1), dtype=int)}, r"shape \[3, 1\]"),
        ({"x": np.zeros(3), "y": np.zeros(3, dtype=int)}, r"x .*shape \[3\]"),
        ({"x": np.zeros((0, 4)), "y": np.zeros(0, dtype=int)}, "no side empty"),
        ({"x": np.full((3, 4), np.nan), "y": np.zeros(3, dtype=int)}, "not finite"),
        ({"x": np.zeros((3, 4)), "y": np.array([0, -1, 2])}, "from -1 to 2"),
        ({"x": np.zeros((3, 4)), "y": np.array([0, 1, 10**6])}, "below 10000"),
        ({"x": np.array([["a"]]), "y": np.zeros(1, dtype=int)}, "must hold numbers"),
        ({"x": np.array([[None]]), "y": np.zeros(1, dtype=int)}, "plain arrays.*[Oo]bject"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "anna.npz", **arrays)
    with pytest.raises(UserError, match=says) as refused:
        load_from(tmp_path)
    assert "anna.npz" in str(refused.value)


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*anna\.npz"):
        load_from(tmp_path)
    (tmp_path / "anna.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError, match=r"no \.npz file"):
        load_from(tmp_path)
    np.save(tmp_path / "anna.npy", np.zeros(3))
    (tmp_path / "anna.npz").write_bytes((tmp_path / "anna.npy").read_bytes())
    with pytest.raises(UserError, match=r"no \.npz file"):
        load_from(tmp_path)
    (tmp_path / "dora.npz").mkdir()
    with pytest.raises(UserError, match="can't be read"):
        load_from(tmp_path, "dora")


def test_a_file_that_unpacks_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FILE_SIZE_BYTES_MAX", 10_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1_000_000))
    (tmp_path / "anna.npz").write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="unpacks to 1000000 bytes"):
        load_from(tmp_path)
    (tmp_path / "anna.npz").write_bytes(bytes(10_001))
    with pytest.raises(UserError, match="has 10001 bytes"):
        load_from(tmp_path)


def test_too_few_samples_for_the_folds_are_refused() -> None:
    three = data.Participant("p", np.zeros((3, 1), np.float32), np.zeros(3, np.int64))
    with pytest.raises(UserError, match="too few for fold 3 of 5"):
        data.split_folds(three, fold=3, folds=5)


def test_participants_of_different_shapes_are_not_pooled() -> None:
    flat = data.Participant("flat", np.zeros((3, 4), np.float32), np.zeros(3, np.int64))
    image = data.Participant("image", np.zeros((3, 1, 2, 2), np.float32), np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"image have the shape \[1, 2, 2\], those of flat \[4\]"):
        data.pool([flat, image])
