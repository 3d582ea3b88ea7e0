"""`meshtrain top`: draws a dashboard of one mesh, of several, of a recording, or in a browser."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtrain.errors import UserError
from meshtrain_tui.app import Top
from meshtrain_tui.fleet import Fleet
from meshtrain_tui.fleet_app import FleetTop
from meshtrain_tui.keymap import KeyAction, key_actions, keymap
from meshtrain_tui.launch import (
    draws_in_browser,
    mesh_at,
    serve_web,
    session_arguments,
    way_to,
)
from meshtrain_tui.replay_app import ReplayTop
from meshtrain_tui.screens.bases import BaseTree
from meshtrain_tui.screens.job import Job
from meshtrain_tui.screens.registry import SCREENS
from meshtrain_tui.settings import default_file, read_settings
from meshtrain_tui.themes import checked_theme
from meshtrain_tui.widgets.curves import CurveField
from meshtrain_tui.widgets.heat import HeatMap
from meshtrain_tui.widgets.job_body import JobBody
from meshtrain_tui.widgets.log_pane import LogPane
from meshtrain_tui.widgets.log_view import LogView
from meshtrain_tui.widgets.sweeps import SweepsPanel
from meshtrain_tui.widgets.table import PageTable


def command(
    master: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="MESHTRAIN_MASTER",
            help="Control address of the master, or the folder that its mesh was joined in; "
            "several show several meshes. Else the one of this host, or the mesh joined.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            envvar="MESHTRAIN_HOME",
            help="Folder that our keys and the master are in.",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="MESHTRAIN_TOP_SETTINGS",
            help="Keys, theme and density: else ~/.config/meshtrain/top.yaml, where it is.",
        ),
    ] = None,
    readonly: Annotated[
        bool, typer.Option("--readonly", help="Offer nothing that changes the mesh.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Play what `meshtrain record` wrote; ask no master."),
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Serve it to browsers.")] = False,
    web_host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to serve: only this host, unless another address is given.",
        ),
    ] = "127.0.0.1",
    web_port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 takes any that is free."),
    ] = 7480,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Close out who has the web token of before.")
    ] = False,
) -> None:
    """Watch the mesh, and steer it: nodes, sweeps, jobs, what was saved, and what happens.

    \b
    Examples:
      meshtrain top --master 127.0.0.1:7470
      meshtrain top --readonly
      meshtrain top --master gpu1:7470 --master 10.0.1.2:7470
      meshtrain top --replay monday.mesh
      meshtrain top --web
    """
    masters: list[str] = master or []
    named: list[str | None] = [*masters] or [None]
    if replay is None:
        for one in named:
            way_to(one, home)
    liked = read_settings(settings)
    if readonly:
        liked = liked.model_copy(update={"readonly": True})
    keys = keymap(liked.keys, known_keys(), settings or default_file())
    checked_theme(liked.theme)
    if web:
        serve_web(
            session_arguments(masters, home, settings, replay, readonly=readonly),
            host=web_host,
            port=web_port,
            home=home,
            new_token=new_token,
        )
        return
    if not draws_in_browser() and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "meshtrain top draws on a terminal, and this is none: run it in one, or use "
            "`meshtrain jobs` and `meshtrain nodes` for text"
        )
    if replay is not None:
        ReplayTop.of(replay, settings=liked, keys=keys).run()
        return
    with ExitStack() as lines:
        meshes = [mesh_at(one, home, lines) for one in named]
        if len(meshes) > 1:
            FleetTop(Fleet(meshes), settings=liked, keys=keys).run()
            return
        (mesh,) = meshes
        Top(
            mesh.address,
            mesh.open_source,
            ask_inbox=mesh.ask_inbox,
            ask=mesh.ask,
            submit=mesh.submit,
            settings=liked,
            keys=keys,
        ).run()


def known_keys() -> dict[str, KeyAction]:
    """All actions whose keys can be changed, by name."""
    owners: list[Any] = [Top, FleetTop, ReplayTop, PageTable, HeatMap, BaseTree, SweepsPanel]
    owners += [Job, JobBody, LogPane, LogView, CurveField]
    for make in [*(entry.make for entry in SCREENS)]:
        owners += [cls for cls in make.__mro__ if "BINDINGS" in cls.__dict__]
    bindings = [binding for owner in dict.fromkeys(owners) for binding in owner.BINDINGS]
    return key_actions(bindings)
