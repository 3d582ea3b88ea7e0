"""`meshtrain master`: settings, signals, and the master itself."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtrain import failpoints
from meshtrain.net.zmq_client import Ports
from meshtrain.spec.settings_loading import master_settings
from meshtrain_daemon.bugs import end_on_bugs
from meshtrain_daemon.master.mesh import Master
from meshtrain_daemon.sdnotify import Supervisor


def command(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file, see configs/master.toml.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder that all state lies in.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; off loopback with --secure only."
        ),
    ] = None,
    secure: Annotated[
        bool | None,
        typer.Option("--secure/--no-secure", help="Let members with keys in, and nobody else."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Host that others reach it at, as tokens tell."),
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Port for nodes and commands; 0 is any free one."),
    ] = None,
    bulk_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port for logs and metrics.")
    ] = None,
    feed_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port for dashboards.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port for artifacts.")
    ] = None,
    lease_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Seconds that a node may be silent and keep its jobs."
        ),
    ] = None,
    heartbeat_s: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds between a node's signs of life."),
    ] = None,
    inbox: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder watched for job files.")
    ] = None,
    inbox_rest_s: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds that a dropped file must have rested."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of merged results.")
    ] = None,
) -> None:
    """Run the master: broker, scheduler, job store and inbox.

    Example: meshtrain master --home ~/mesh
    """
    flags: dict[str, Any] = {
        "home": home.absolute() if home is not None else None,
        "host": host,
        "secure": secure,
        "address": address,
        "control_port": control_port,
        "bulk_port": bulk_port,
        "feed_port": feed_port,
        "http_port": http_port,
        "lease_s": lease_s,
        "heartbeat_s": heartbeat_s,
        "inbox": inbox.absolute() if inbox is not None else None,
        "inbox_rest_s": inbox_rest_s,
        "results": results.absolute() if results is not None else None,
    }
    failpoints.arm(os.environ)
    settings = master_settings(config, os.environ, flags)
    supervisor = Supervisor.take_from(os.environ)
    # What a watchdog aborts says where it was stuck.
    faulthandler.enable()
    asyncio.run(_run(Master(settings, say), settings.inbox_folder, supervisor))


async def _run(master: Master, inbox: Path, supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    end_on_bugs(loop)

    def stop() -> None:
        supervisor.stopping()
        master.stop()

    # A peer that sends rubbish gets an error; the log is for people.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def ready(ports: Ports) -> None:
        say(
            f"master ready: control {ports.control}, bulk {ports.bulk}, feed {ports.feed}, "
            f"http {ports.http}; drop job files into {inbox}"
        )
        supervisor.ready(master.status)

    try:
        await master.run(ready)
    finally:
        supervisor.close()
    say("master stopped")


def say(text: str) -> None:
    """A line with the time, on standard error."""
    print(f"{datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)
