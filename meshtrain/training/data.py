"""Participants and their samples: where they come from, and how they are split.

Shape suffixes: N samples; F features; C channels, H height, W width.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meshtrain.errors import RecipeMismatchError, UserError
from meshtrain.ids import digest
from meshtrain.spec.recipe import builtin_data_digest
from meshtrain.training.digits import CLASSES as DIGIT_CLASSES
from meshtrain.training.digits import digits_of, hand_of

FILE_SIZE_BYTES_MAX = 16 * 2**30
"""Of one participant's file, packed and unpacked."""
CLASSES_MAX = 10_000
HELD_OUT_FOLDS = 10
"""A base trains on nine tenths of its participants' samples and is tested on the rest."""

Samples = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Participant:
    """One person's labelled samples, in canonical order."""

    name: str
    x: Samples
    """(N, F) or (N, C, H, W)."""
    y: Labels
    """(N,)"""

    def take(self, positions: Positions) -> Participant:
        """The same participant with only some of the samples."""
        return Participant(self.name, self.x[positions], self.y[positions])


def file_digest(path: Path) -> str:
    """The digest of a folder participant: the xxh3-128 of its file's bytes.

    Args:
        path: the `.npz` file.
    """
    return digest(path.read_bytes())


def load_participant(
    name: str, *, source: str, folder: str | None, promised_digest: str
) -> Participant:
    """Loads one participant and checks that it is the data that the job was made for.

    Args:
        name: the participant's name.
        source: `digits` or `folder`.
        folder: for `folder`, where the `.npz` files are.
        promised_digest: the digest recorded with the job.

    Raises:
        UserError: the data is missing or malformed.
        RecipeMismatchError: it is other data than when the job was made.
    """
    if source == "digits":
        found = builtin_data_digest(source, name)
        x, y = digits_of(name)
        where = "the built-in digits"
    else:
        path = Path(folder or "") / f"{name}.npz"
        content = _read_limited(path)
        found = digest(content)
        x, y = _parse_npz(content, path)
        where = str(path)
    if found != promised_digest:
        raise RecipeMismatchError(
            f"the data of participant {name} is not what this job was made for: "
            f"{where} has the digest {found}, the job names {promised_digest}. "
            "Bring the old data back, or submit the job again for the new data."
        )
    return in_canonical_order(Participant(name, x, y))


def refuse_shared_images(target: str, participants: tuple[str, ...]) -> None:
    """Refuses a target whose digits are also those of a participant of the base.

    Args:
        target: the target's name.
        participants: the base's participants.

    Raises:
        UserError: a participant holds the same images as the target.
    """
    for participant in participants:
        if hand_of(participant) == hand_of(target):
            raise UserError(
                f"target {target} and participant {participant} hold the same built-in images, "
                "so the target's test images would leak into the base. Names that end in "
                "01 to 08 never share images."
            )


@dataclass(frozen=True, slots=True)
class Split:
    """One participant's samples, parted."""

    train: Participant
    test: Participant


def split_folds(participant: Participant, *, fold: int, folds: int) -> Split:
    """Parts the samples into test fold and training rest, stratified by class.

    The samples of each class are dealt out to the folds in turn, so both the
    folds' sizes and their counts of a class differ by at most one.

    Args:
        participant: all its samples.
        fold: the test fold, from 0.
        folds: how many folds there are.

    Raises:
        UserError: there are too few samples to test and train on.
    """
    by_class = np.argsort(participant.y, kind="stable")
    test = np.zeros(participant.y.size, dtype=bool)
    test[by_class[fold::folds]] = True
    if not test.any() or test.all():
        raise UserError(
            f"participant {participant.name} has {participant.y.size} samples: too few for fold "
            f"{fold} of {folds}. Use fewer folds, or give it more data."
        )
    return Split(
        train=participant.take(np.flatnonzero(~test)),
        test=participant.take(np.flatnonzero(test)),
    )


def keep_share(participant: Participant, share: float) -> Participant:
    """Keeps a share of the samples, stratified; a larger share holds the smaller ones.

    At least one sample of each class is kept, so a very small share keeps more
    than its due.

    Args:
        participant: the samples to choose from.
        share: above 0, up to 1.
    """
    count = participant.y.size
    place_in_class = np.empty(count, dtype=np.int64)
    class_size = np.empty(count, dtype=np.int64)
    classes = np.unique(participant.y)
    for label in classes:
        members = np.flatnonzero(participant.y == label)
        place_in_class[members] = np.arange(members.size)
        class_size[members] = members.size
    # First one of each class, then all classes evenly.
    evenness = (place_in_class + 0.5) / class_size
    order = np.lexsort((participant.y, evenness, place_in_class > 0))
    kept = min(count, max(round(share * count), classes.size))
    return participant.take(np.sort(order[:kept]))


def class_count(source: str, participants: list[Participant]) -> int:
    """How many classes a fresh model for these participants tells apart.

    Args:
        source: `digits` or `folder`.
        participants: all whose data the run loads.
    """
    if source == "digits":
        return DIGIT_CLASSES
    return max(int(participant.y.max()) for participant in participants) + 1


def pool(participants: list[Participant]) -> tuple[Samples, Labels]:
    """The samples of several participants behind each other.

    Args:
        participants: at least one.

    Raises:
        UserError: their samples have different shapes.
    """
    first = participants[0]
    for other in participants[1:]:
        if other.x.shape[1:] != first.x.shape[1:]:
            raise UserError(
                f"the samples of participant {other.name} have the shape "
                f"{list(other.x.shape[1:])}, those of {first.name} {list(first.x.shape[1:])}. "
                "All participants of a run need samples of one shape."
            )
    return (
        np.concatenate([participant.x for participant in participants]),
        np.concatenate([participant.y for participant in participants]),
    )


def in_canonical_order(participant: Participant) -> Participant:
    """The participant with its samples ordered by their digests.

    Folds and shares then depend on the samples alone, not on the order of a file.

    Args:
        participant: its samples in any order.
    """
    keys = [
        digest(np.ascontiguousarray(sample).tobytes() + int(label).to_bytes(4, "little"))
        for sample, label in zip(participant.x, participant.y, strict=True)
    ]
    return participant.take(np.argsort(np.array(keys), kind="stable"))


def _read_limited(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > FILE_SIZE_BYTES_MAX:
            raise UserError(
                f"{path} has {size_bytes} bytes, above the limit of {FILE_SIZE_BYTES_MAX}. "
                "Train on such data with a command job instead."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}: a participant of a data folder is a file NAME.npz with the "
            "arrays x and y. Put it there on this node, or mend the name in the job file."
        ) from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Mend the path.") from None


def _parse_npz(content: bytes, path: Path) -> tuple[Samples, Labels]:
    mend = "Write it with numpy.savez(path, x=samples, y=labels)."
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            unpacked_bytes = sum(entry.file_size for entry in packed.infolist())
        if unpacked_bytes > FILE_SIZE_BYTES_MAX:
            raise UserError(
                f"{path} unpacks to {unpacked_bytes} bytes, above the limit of "
                f"{FILE_SIZE_BYTES_MAX}. Train on such data with a command job instead."
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays.files]
            if missing:
                raise UserError(f"{path} holds no array {' and no '.join(missing)}. {mend}")
            x, y = arrays["x"], arrays["y"]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise UserError(f"{path} is no .npz file of plain arrays: {error}. {mend}") from None
    return _checked_samples(x, path), _checked_labels(y, len(x) if x.ndim else 0, path)


def _checked_samples(x: npt.NDArray[Any], path: Path) -> Samples:
    if x.dtype.kind not in "fiub":
        raise UserError(f"x in {path} holds {x.dtype}: it must hold numbers.")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise UserError(
            f"x in {path} has the shape {list(x.shape)}: it must be (N, features), "
            "(N, height, width) or (N, channels, height, width), with no side empty."
        )
    samples = x.astype(np.float32)
    if x.dtype == np.uint8:
        samples /= 255.0
    if not np.isfinite(samples).all():
        raise UserError(f"x in {path} holds values that are not finite. Remove or replace them.")
    return samples[:, np.newaxis] if x.ndim == 3 else samples


def _checked_labels(y: npt.NDArray[Any], samples: int, path: Path) -> Labels:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise UserError(
            f"y in {path} has the shape {list(y.shape)} and holds {y.dtype}: it must be (N,) whole "
            "numbers, the class of each sample."
        )
    if y.size != samples:
        raise UserError(f"{path} holds {samples} samples but {y.size} labels: one each is needed.")
    if y.min() < 0 or y.max() >= CLASSES_MAX:
        raise UserError(
            f"y in {path} reaches from {y.min()} to {y.max()}: classes are numbered from 0, "
            f"below {CLASSES_MAX}."
        )
    return y.astype(np.int64)
