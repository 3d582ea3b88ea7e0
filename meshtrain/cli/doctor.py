"""`meshtrain doctor`: check this host as a master, a worker or a client, and say the mend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import meshtrain
from meshtrain.cli import doctor_host, doctor_mesh, doctor_network, doctor_probes
from meshtrain.cli.context import Cli, cli_of
from meshtrain.cli.doctor_findings import Finding, Level, fail, ok
from meshtrain.cli.output import hanging, painted, print_json, say
from meshtrain.cli.unit_files import SETTINGS, Role, service
from meshtrain.cli.working import working
from meshtrain.errors import SettingsError
from meshtrain.net.address import split_address
from meshtrain.spec.home import default_home
from meshtrain.spec.settings import MasterSettings, WorkerSettings
from meshtrain.spec.settings_loading import master_settings, worker_settings

DAEMON_USERS = {Role.MASTER: "meshtrain-master", Role.WORKER: "meshtrain-worker"}
_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_LOCKS = {Role.MASTER: ("state", "lock"), Role.WORKER: ("worker.lock",)}


class As(StrEnum):
    """What a host is to the mesh."""

    MASTER = "master"
    WORKER = "worker"
    CLIENT = "client"


def command(
    ctx: typer.Context,
    role: Annotated[
        list[As] | None,
        typer.Option(
            "--as",
            metavar="master|worker|client",
            help="What this host is; by default what it looks like.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings file; by default the one in /etc/meshtrain."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this host: disks, drivers, limits, keys, clock, ports, peers. Exit 1 if one fails.

    \b
    Examples:
      meshtrain doctor
      meshtrain doctor --as worker --config /etc/meshtrain/worker.toml
      sudo meshtrain doctor --json
    """
    cli = cli_of(ctx)
    roles = list(dict.fromkeys(role or guessed_roles(Path("/"), cli.home or default_home())))
    with working("looking at this host and the mesh"):
        findings = {each: list(examine(each, cli, config)) for each in roles}
    if as_json:
        print_json(
            [
                {"as": each, "check": f.check, "level": f.level, "told": f.told, "mend": f.mend}
                for each, lines in findings.items()
                for f in lines
            ]
        )
    else:
        _print(findings)
    if any(f.level is Level.FAIL for lines in findings.values() for f in lines):
        raise typer.Exit(1)


def guessed_roles(root: Path, home: Path) -> list[As]:
    """What a host looks like: by what is installed, else by what has run, else a client."""
    installed = [As(role) for role in Role if (root / SETTINGS / f"{role}.toml").is_file()]
    if installed:
        return installed
    run = [As(role) for role in Role if home.joinpath(*_LOCKS[role]).exists()]
    return run or [As.CLIENT]


def examine(role: As, cli: Cli, config: Path | None) -> Iterator[Finding]:
    """All findings on this host in one role."""
    if role is As.CLIENT:
        yield ok("meshtrain", meshtrain.__version__)
        yield from _examine_mesh(cli, cli.address, own_name="")
        yield doctor_mesh.check_time_sync(doctor_probes.time_synchronised())
        return
    settings = None
    try:
        settings = _settings(Role(role), config)
    except SettingsError as error:
        yield fail("settings", str(error), "mend the file; see meshtrain/configs for all settings")
        return
    yield ok("meshtrain", f"{meshtrain.__version__}, home {settings.home}")
    yield from _examine_host(Role(role), settings)
    if isinstance(settings, MasterSettings):
        yield from _examine_master(cli, settings)
    else:
        yield from _examine_mesh(
            cli, cli.master or settings.master or cli.address, settings.node_name
        )


def _settings(role: Role, config: Path | None) -> MasterSettings | WorkerSettings:
    file = config
    if file is None:
        installed = Path("/", SETTINGS, f"{role}.toml")
        file = installed if installed.is_file() else None
    load = master_settings if role is Role.MASTER else worker_settings
    return load(file, os.environ)


def _examine_host(role: Role, settings: MasterSettings | WorkerSettings) -> Iterator[Finding]:
    home = settings.home
    master = role is Role.MASTER
    probed = doctor_probes
    unit = probed.systemd(service(role))
    folder = probed.folder(home, DAEMON_USERS[role] if unit.unit_state else "")
    yield doctor_host.check_home(folder)
    disk = probed.disk(home)
    yield doctor_host.check_disk(disk)
    yield doctor_host.check_inodes(disk)
    yield doctor_host.check_file_system(probed.file_system(home), master=master)
    owner = home.stat().st_uid if folder.exists else os.geteuid()
    keys = probed.keys(home / "keys", owner)
    yield doctor_mesh.check_keys(keys, master=master)
    if keys.mode is not None:
        yield doctor_mesh.check_membership(
            probed.membership(home / "keys" / "member.json", home / "members.json")
        )
    yield doctor_host.check_systemd(unit, runs_jobs=not master)
    if unit.version is not None and not unit.unit_state:
        yield doctor_host.check_linger(probed.linger())
    yield doctor_host.check_limits(probed.limits(probed.holder_of(home.joinpath(*_LOCKS[role]))))
    yield doctor_mesh.check_time_sync(probed.time_synchronised())
    if master:
        return
    gpus = probed.gpus()
    yield doctor_host.check_gpus(gpus)
    yield doctor_host.check_torch(probed.torch(), gpus)
    memory = probed.memory()
    yield doctor_host.check_shm(memory)
    yield doctor_host.check_swap(memory)


def _examine_master(cli: Cli, settings: MasterSettings) -> Iterator[Finding]:
    named = (
        ("control", settings.control_port),
        ("bulk", settings.bulk_port),
        ("feed", settings.feed_port),
        ("http", settings.http_port),
    )
    fixed = [(name, port) for name, port in named if port]
    running = doctor_probes.holder_of(settings.home.joinpath(*_LOCKS[Role.MASTER])) is not None
    ports = doctor_network.own_ports(settings.host, fixed)
    yield doctor_mesh.check_own_ports(ports, running=running)
    if running:
        yield from _examine_mesh(cli, cli.address, own_name="master")


def _examine_mesh(cli: Cli, address: str, own_name: str) -> Iterator[Finding]:
    reading, row, nodes = doctor_network.master(cli, address)
    yield doctor_mesh.check_master(reading, meshtrain.__version__)
    if reading.error:
        return
    yield doctor_mesh.check_clock(reading)
    host, _ = split_address(address)
    yield doctor_mesh.check_far_ports(doctor_network.far_ports(host, row))
    peers, unseen = doctor_network.peers(nodes, own_name)
    yield from doctor_mesh.check_peers(peers, unseen=unseen)
    archive = doctor_network.archive(cli, address)
    if archive is not None:
        yield doctor_mesh.check_archive(archive)


def _print(findings: dict[As, list[Finding]]) -> None:
    width = max(len(f.check) for lines in findings.values() for f in lines)
    for role, lines in findings.items():
        say(painted(f"as {role}", bold=True))
        for finding in lines:
            level = painted(f"{finding.level:<4}", _COLOURS[finding.level])
            beside = " " * (width + 10)
            told = [*hanging(finding.told, beside)]
            if finding.mend:
                told += [*hanging(f"→ {finding.mend}", beside, "  ")]
            say(f"  {level}  {finding.check:<{width}}  {told[0].lstrip()}")
            for line in told[1:]:
                say(line)
    everything = [f for lines in findings.values() for f in lines]
    failed = sum(f.level is Level.FAIL for f in everything)
    warned = sum(f.level is Level.WARN for f in everything)
    say(f"{len(everything)} checks: {failed} failed, {warned} to look at")
