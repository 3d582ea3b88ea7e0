"""`meshtrain worker`: settings, signals, and the node's daemon."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtrain import failpoints
from meshtrain.artifacts.joining import join_mesh
from meshtrain.core.member import MemberKind
from meshtrain.security.tokens import read_token
from meshtrain.spec.settings_loading import worker_settings
from meshtrain_daemon.bugs import end_on_bugs
from meshtrain_daemon.sdnotify import Supervisor
from meshtrain_daemon.worker.node import WorkerNode


def command(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file, see configs/worker.toml.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder that all state lies in.")
    ] = None,
    master: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Control address of the master.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this node; else the host's name.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", help="Join the mesh that printed this token, then run; - reads it."
        ),
    ] = None,
    cpu_slots: Annotated[
        int | None, typer.Option(metavar="N", help="Jobs without a GPU that run at once.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Indices of the GPUs to use, such as 0,1; else all."),
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port for artifacts; 0 is any.")
    ] = None,
    stop_grace_s: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds that running jobs get when it is stopped."),
    ] = None,
) -> None:
    """Run a node: take jobs from the master, fetch what they need, report what they give.

    Example: meshtrain worker --master 127.0.0.1:7470 --cpu-slots 2
    """
    flags: dict[str, Any] = {
        "home": home.absolute() if home is not None else None,
        "master": master,
        "node_name": name,
        "cpu_slots": cpu_slots,
        "gpus": gpus,
        "http_port": http_port,
        "stop_grace_s": stop_grace_s,
    }
    failpoints.arm(os.environ)
    settings = worker_settings(config, os.environ, flags)
    supervisor = Supervisor.take_from(os.environ)
    if join is not None:
        word = read_token(join)
        asyncio.run(join_mesh(settings.home, word, settings.node_name, MemberKind.NODE))
        say(f"joined the mesh as {settings.node_name}")
    # What a watchdog aborts says where it was stuck.
    faulthandler.enable()
    asyncio.run(_run(WorkerNode(settings, say), supervisor))


async def _run(node: WorkerNode, supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    end_on_bugs(loop)

    def stop(*, hand_back: bool) -> None:
        supervisor.stopping()
        node.stop(hand_back=hand_back)

    # A peer that sends rubbish gets an error; the log is for people.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    loop.add_signal_handler(signal.SIGTERM, functools.partial(stop, hand_back=False))
    # From a terminal, and from a host that goes down: no daemon comes that could adopt.
    loop.add_signal_handler(signal.SIGINT, functools.partial(stop, hand_back=True))
    try:
        await node.run(lambda: supervisor.ready(node.status))
    finally:
        supervisor.close()
    say("worker stopped")


def say(text: str) -> None:
    """A line with the time, on standard error."""
    print(f"{datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)
