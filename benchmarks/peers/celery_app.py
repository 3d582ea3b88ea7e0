"""The Celery application that both its workers and the driver import."""

from __future__ import annotations

import os

from celery import Celery
from process import run_process

_REDIS_URL = os.environ["BENCH_REDIS_URL"]

app = Celery("bench", broker=_REDIS_URL, backend=_REDIS_URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_expires=None,
    worker_prefetch_multiplier=4,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=4,
)


@app.task(name="run")
def run(argv: list[str]) -> int:
    """The task that is measured: one process, its exit status as the result."""
    return run_process(argv)
