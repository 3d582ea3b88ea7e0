"""Whether more of a metric is better, and how that is known."""

from __future__ import annotations

import re

import msgspec

from meshtrain.spec.jobs import Better, ResultsSpec

_LOWER_IS_BETTER = frozenset(
    [
        *("loss", "losses", "err", "error", "errors", "mse", "rmse", "mae", "mape"),
        *("nll", "ppl", "perplexity", "entropy", "crossentropy", "brier", "ece"),
        *("cer", "wer", "ter", "eer", "fid", "kid", "hd95", "hausdorff", "regret"),
        *("latency", "duration", "time", "runtime", "seconds"),
    ]
)
_HIGHER_IS_BETTER = frozenset(
    [
        *("acc", "accuracy", "accuracies", "precision", "recall", "sensitivity", "specificity"),
        *("f1", "f2", "fscore", "auc", "auroc", "auprc", "roc", "ap", "map", "ndcg", "mrr"),
        *("iou", "miou", "jaccard", "dice", "kappa", "mcc", "r2", "corr", "correlation"),
        *("bleu", "rouge", "meteor", "psnr", "ssim", "score", "scores", "reward", "return"),
        *("throughput", "likelihood", "hits", "purity", "ari", "nmi"),
    ]
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[0-9]+")
_LETTERS = re.compile(r"[a-z0-9]+")


class Direction(msgspec.Struct, frozen=True):
    """Which way a metric is better."""

    higher: bool
    because: str
    """How that is known, after `higher is better`."""

    @property
    def text(self) -> str:
        """`lower is better, as its name says`."""
        return f"{'higher' if self.higher else 'lower'} is better, {self.because}"


def words_of(name: str) -> list[str]:
    """The words of a metric's name in lower case: `val.topAccuracy` has val, top and accuracy."""
    return [word.lower() for word in _WORDS.findall(name)]


def higher_is_better(metric: str) -> bool:
    """False for a metric whose name says loss, error, time and the like."""
    return not _LOWER_IS_BETTER & _all_words(metric)


def direction_of(metric: str, spec: ResultsSpec) -> Direction:
    """The direction of `metric`: what the job file says of its own, else what its name says."""
    words = _all_words(metric)
    is_the_files = spec.metric is None or metric == spec.metric or _ends_in(metric, spec.metric)
    if spec.better is not None and is_the_files:
        return Direction(spec.better is Better.HIGHER, "as the job file says")
    if words & _LOWER_IS_BETTER:
        return Direction(False, "as its name says")
    if words & _HIGHER_IS_BETTER:
        return Direction(True, "as its name says")
    return Direction(True, "which is only assumed: results.better in the job file says it")


def _all_words(metric: str) -> set[str]:
    """Its words, and those that only a change of case parts: mIoU is miou too."""
    return {*words_of(metric), *_LETTERS.findall(metric.lower())}


def _ends_in(metric: str, wanted: str) -> bool:
    return metric.endswith("." + wanted)
