"""What one run trains on and is tested on, by its mode."""

from __future__ import annotations

from dataclasses import dataclass

from meshtrain.errors import UserError
from meshtrain.spec.training_keys import MODES_FROM_BASE, Mode
from meshtrain.training.config import TrainingConfig, target_split
from meshtrain.training.data import (
    HELD_OUT_FOLDS,
    Participant,
    Split,
    class_count,
    keep_share,
    load_participant,
    pool,
    refuse_shared_images,
    split_folds,
)
from meshtrain.training.loop import Pool


@dataclass(frozen=True, slots=True)
class RunSamples:
    """The samples of one run."""

    target: Pool | None
    """The target's, to train on."""
    base: Pool | None
    """Those of the base's participants, to train on."""
    test: Pool
    sample_shape: tuple[int, ...]
    """(F,) or (C, H, W)."""
    classes: int

    @property
    def target_n(self) -> int:
        return 0 if self.target is None else int(self.target.y.size)

    @property
    def base_n(self) -> int:
        return 0 if self.base is None else int(self.base.y.size)


def load_samples(config: TrainingConfig) -> RunSamples:
    """Loads the participants that a run needs, and splits them.

    A base trains on nine tenths of its participants' samples, in the order of
    their names, and is tested on the rest. A target is tested on its fold and
    trains on its share of the other folds; full fine-tuning adds the samples
    that the base was trained on.

    Args:
        config: of any mode.

    Raises:
        UserError: data is missing, malformed, too little, or would leak.
        RecipeMismatchError: it is other data than when the job was made.
    """
    if config.mode is Mode.BASE_ONLY:
        splits = _base_splits(config)
        x, y = pool([split.train for split in splits])
        test_x, test_y = pool([split.test for split in splits])
        classes = class_count(config.source, [half for s in splits for half in (s.train, s.test)])
        return RunSamples(None, Pool(x, y), Pool(test_x, test_y), x.shape[1:], classes)

    wanted = target_split(config)
    if config.source == "digits" and config.mode in MODES_FROM_BASE:
        refuse_shared_images(wanted.target, (*config.participants, *config.trained_before))
    target = _load(config, wanted.target)
    loaded = [target]
    split = split_folds(target, fold=wanted.fold, folds=wanted.folds)
    base_pool = None
    if config.mode is Mode.FULL_FINE_TUNING:
        base = [half.train for half in _base_splits(config)]
        loaded += base
        pool(loaded)  # refuses shapes that differ
        base_pool = Pool(*pool(base))
    target_pool = None
    if config.mode is not Mode.BASE_ALONE:
        kept = keep_share(split.train, wanted.data_share)
        target_pool = Pool(kept.x, kept.y)
    return RunSamples(
        target=target_pool,
        base=base_pool,
        test=Pool(split.test.x, split.test.y),
        sample_shape=target.x.shape[1:],
        classes=class_count(config.source, loaded),
    )


def _base_splits(config: TrainingConfig) -> list[Split]:
    return [
        split_folds(_load(config, name), fold=0, folds=HELD_OUT_FOLDS)
        for name in sorted(config.participants)
    ]


def _load(config: TrainingConfig, name: str) -> Participant:
    promised = config.data_digests.get(name)
    if promised is None:
        raise UserError(
            f"data_digests names no digest for participant {name}, so nobody can tell whether "
            "this is the data that the job was made for. Submit the job again."
        )
    return load_participant(
        name, source=config.source, folder=config.folder, promised_digest=promised
    )
