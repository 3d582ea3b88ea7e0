"""The stream of jobs: what is given to the mesh, and what must come of it.

Each command notes its own end: it writes its attempt into its result, and as
its last act a line `JOB ATTEMPT` into one ledger of the whole run. What the
mesh says of a job is held against that.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import msgspec

from meshtrain.core.job import JobState

TOKEN_FILE = "token"
STEPS_FILE = "steps"
BASE_FILE = "base"
"""In the result of a job that starts from a base: who made that base."""
RECIPES_MAX = 6
LINES_MAX = 20_000
CANCEL_AFTER_S = (0.5, 4.0)


class Kind(StrEnum):
    """What jobs are like."""

    SHORT = "short"
    LINES = "lines"
    FORKS = "forks"
    SLOW = "slow"
    BASES = "bases"
    RESUMES = "resumes"
    CANCELLED = "cancelled"
    TRAINING = "training"


WEIGHTS: dict[Kind, float] = {
    Kind.SHORT: 4,
    Kind.LINES: 3,
    Kind.FORKS: 2,
    Kind.SLOW: 2,
    Kind.BASES: 3,
    Kind.RESUMES: 2,
    Kind.CANCELLED: 1,
    Kind.TRAINING: 0.2,
}


class Submission(msgspec.Struct, frozen=True):
    """A job file, and what must come of it."""

    name: str
    kind: Kind
    data: bytes
    """The job file, as JSON."""
    jobs: int
    log: bytes | None = None
    """What each of its jobs prints; None where that isn't looked at."""
    metrics: bytes = b""
    """What each of its jobs measures."""
    steps: int | None = None
    """How many steps each of its jobs has to count, over all its attempts."""
    writes_token: bool = True
    end: JobState = JobState.SUCCEEDED
    cancel_after_s: float | None = None
    by_inbox: bool = False

    @property
    def file_name(self) -> str:
        return f"{self.name}.json"


def kinds_here() -> tuple[Kind, ...]:
    """The kinds of jobs that this host can run."""
    has_torch = find_spec("torch") is not None
    return tuple(kind for kind in Kind if kind is not Kind.TRAINING or has_torch)


class Stream:
    """Makes submissions, one after the other, always the same for one seed.

    Args:
        ledger: the file that jobs note their ends in; another beside it for bases.
        kinds: which kinds to draw from.
    """

    def __init__(self, seed: int, ledger: Path, kinds: Sequence[Kind]) -> None:
        self._random = random.Random(f"jobs {seed}")
        self._ledger = shlex.quote(str(ledger))
        self._base_ledger = shlex.quote(str(ledger.with_name("bases.ledger")))
        self._kinds = tuple(kinds)
        self._count = 0

    def next(self) -> Submission:
        """The next submission."""
        weights = [WEIGHTS[kind] for kind in self._kinds]
        return self.make(self._random.choices(self._kinds, weights)[0])

    def make(self, kind: Kind) -> Submission:
        """A submission of one kind."""
        self._count += 1
        makers: dict[Kind, Callable[[str], Submission]] = {
            Kind.SHORT: self._short,
            Kind.LINES: self._lines,
            Kind.FORKS: self._forks,
            Kind.SLOW: self._slow,
            Kind.BASES: self._bases,
            Kind.RESUMES: self._resumes,
            Kind.CANCELLED: self._cancelled,
            Kind.TRAINING: self._training,
        }
        made = makers[kind](f"{kind}-{self._count:05d}")
        by_inbox = made.cancel_after_s is None and self._random.random() < 0.2
        return msgspec.structs.replace(made, by_inbox=by_inbox)

    def _end(self) -> str:
        """Shell words that note the job's effective end."""
        return (
            f"echo $MESHTRAIN_ATTEMPT > {{output}}/{TOKEN_FILE}; "
            f"echo $MESHTRAIN_JOB $MESHTRAIN_ATTEMPT >> {self._ledger}"
        )

    def _short(self, name: str) -> Submission:
        count = self._random.randint(1, 6)
        return _command(name, Kind.SHORT, self._end(), count, log=b"")

    def _slow(self, name: str) -> Submission:
        steps = self._random.randint(4, 40)
        work = f"for i in $(seq {steps}); do echo step $i; sleep 0.2; done; {self._end()}"
        log = "".join(f"step {number}\n" for number in range(1, steps + 1)).encode()
        return _command(name, Kind.SLOW, work, self._random.randint(1, 2), log=log)

    def _lines(self, name: str) -> Submission:
        parts = self._random.randint(1, 6)
        count = self._random.randint(1, LINES_MAX // parts)
        work = (
            f"for i in $(seq {parts}); do seq -f 'line %07.0f of this job' "
            f"$(( (i - 1) * {count} + 1 )) $(( i * {count} )); "
            "echo '{{\"step\": '$i'}}' >> $MESHTRAIN_METRICS; sleep 0.1; done; "
        )
        lines = range(1, parts * count + 1)
        log = "".join(f"line {number:07d} of this job\n" for number in lines).encode()
        metrics = "".join(f'{{"step": {part}}}\n' for part in range(1, parts + 1)).encode()
        made = _command(name, Kind.LINES, work + self._end(), 1, log=log)
        return msgspec.structs.replace(made, metrics=metrics)

    def _forks(self, name: str) -> Submission:
        work = (
            "(sleep 900 &); setsid sleep 900 & nohup sh -c 'sleep 900 & sleep 900' "
            "> /dev/null 2>&1 & env -i sleep 900 & sleep 0.5; "
        )
        return _command(name, Kind.FORKS, work + self._end(), self._random.randint(1, 2))

    def _bases(self, name: str) -> Submission:
        recipe = self._random.randrange(RECIPES_MAX)
        base = (
            "sleep 0.3; seq 40000 > {output}/model; echo $MESHTRAIN_ATTEMPT > {output}/made; "
            f"echo $MESHTRAIN_JOB $MESHTRAIN_ATTEMPT >> {self._base_ledger}"
        )
        work = f"tail -n 1 {{base}}/model; cp {{base}}/made {{output}}/{BASE_FILE}; {self._end()}"
        folds = self._random.randint(1, 4)
        document = {
            "name": name,
            "base": {"command": base, "params": {"recipe": str(recipe)}},
            "command": work,
            "matrix": {"fold": list(range(folds))},
        }
        return Submission(name, Kind.BASES, _encode(document), folds, log=b"40000\n")

    def _resumes(self, name: str) -> Submission:
        """Counts steps, and goes on from the last one that was kept of it."""
        steps = self._random.randint(10, 60)
        folder = "$MESHTRAIN_CHECKPOINT"
        work = (
            'i=0; if [ -n "$MESHTRAIN_RESUME" ]; then i=$(cat $MESHTRAIN_RESUME/step-*); fi; '
            f"echo from $i; while [ $i -lt {steps} ]; do i=$((i + 1)); "
            f"echo $i > {folder}/step.tmp; mv {folder}/step.tmp {folder}/step-$i; "
            f"rm -f {folder}/step-$((i - 3)); sleep 0.2; done; "
            f"echo $i > {{output}}/{STEPS_FILE}; {self._end()}"
        )
        document = {"name": name, "command": work, "checkpoint_every": "1s"}
        return Submission(name, Kind.RESUMES, _encode(document), 1, steps=steps)

    def _cancelled(self, name: str) -> Submission:
        made = _command(name, Kind.CANCELLED, "sleep 900 & sleep 900", self._random.randint(1, 3))
        return msgspec.structs.replace(
            made,
            writes_token=False,
            end=JobState.CANCELLED,
            cancel_after_s=self._random.uniform(*CANCEL_AFTER_S),
        )

    def _training(self, name: str) -> Submission:
        document = {
            "name": name,
            "base": {
                "participants": ["w01", "w02"],
                "model": "softmax",
                "epochs": 1,
                "seed": self._random.randrange(3),
            },
            "target": {"mode": "full_fine_tuning", "participant": "w07", "epochs": 1},
            "matrix": {"fold": [0, 1]},
            "results": {"metric": "accuracy", "over": "fold"},
        }
        return Submission(name, Kind.TRAINING, _encode(document), 2, writes_token=False)


def _command(
    name: str, kind: Kind, command: str, count: int, log: bytes | None = None
) -> Submission:
    document = {"name": name, "command": command, "matrix": {"number": list(range(count))}}
    return Submission(name, kind, _encode(document), count, log=log)


def _encode(document: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(document)
