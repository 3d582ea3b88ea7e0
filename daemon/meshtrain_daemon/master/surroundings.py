"""What answers to people's questions need beside the scheduler's state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from meshtrain.core.job import Attempt, Job, Sweep
from meshtrain.core.member import Member
from meshtrain.net.zmq_client import Ports
from meshtrain.results.metrics import Metrics
from meshtrain.security.read_tokens import Reader
from meshtrain_daemon.master.archiving import Archiving
from meshtrain_daemon.master.logbook import LogPiece


class Surroundings(Protocol):
    """What answers need beside the scheduler's state."""

    @property
    def ports(self) -> Ports:
        """Where the master listens; its host is the one that it was asked at."""
        ...

    @property
    def https(self) -> bool:
        """Whether artifacts travel by TLS."""
        ...

    @property
    def home(self) -> str:
        """The folder of the master's state."""
        ...

    @property
    def inbox(self) -> str:
        """The watched folder."""
        ...

    @property
    def version(self) -> str: ...

    @property
    def members(self) -> Sequence[Member]:
        """Who belongs to the mesh, and who did."""
        ...

    @property
    def readers(self) -> Sequence[Reader]:
        """The tokens that let programs read."""
        ...

    def results_folder(self, sweep: Sweep) -> str:
        """Where the merged results of the sweep lie."""
        ...

    @property
    def archiving(self) -> Archiving:
        """The archive, if there is one."""
        ...

    def metrics_of(self, job: Job) -> Metrics:
        """What a job left that succeeded and sent no metrics: why it has none."""
        ...

    def metrics_in(self, artifact_id: str) -> dict[str, float]:
        """The metrics that an artifact holds which lies here; empty where there are none."""
        ...

    def attempts_of(self, job_id: str) -> Sequence[Attempt]:
        """All attempts of a job, oldest first, as the store has them."""
        ...

    def log_is_whole(self, attempt_id: str, stream: str) -> bool:
        """Whether no byte of an attempt that is over is still to come."""
        ...

    def log_size(self, job_id: str, attempt_id: str, stream: str) -> int:
        """Bytes of a stream that are stored; 0 where there is none."""
        ...

    def read_log(
        self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int
    ) -> LogPiece:
        """At most `limit` bytes of a stream from `offset` on, and where to go on."""
        ...

    def log_file(self, job_id: str, attempt_id: str, stream: str) -> Path:
        """Where the bytes of a stream lie; there may be no file."""
        ...
