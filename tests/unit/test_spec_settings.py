"""Where settings come from, which source wins, and how mistakes are told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from meshtrain.errors import SettingsError
from meshtrain.spec.home import default_home
from meshtrain.spec.settings import (
    MasterSettings,
    Settings,
    WorkerSettings,
    default_node_name,
)
from meshtrain.spec.settings_loading import master_settings, worker_settings

CONFIGS = Path(__file__).parents[2] / "configs"
COMMENTED = re.compile(r"# ([a-z_]+ = .+)")


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return file


def test_every_setting_has_a_default() -> None:
    assert master_settings() == MasterSettings()
    assert worker_settings(env={}) == WorkerSettings()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, "lease_s = 41\nheartbeat_s = 1\ntick_s = 1.5\n")
    env = {"MESHTRAIN_LEASE_S": "42", "MESHTRAIN_HEARTBEAT_S": "2", "LEASE_S": "9"}
    settings = master_settings(file, env, {"lease_s": 43.0, "heartbeat_s": None})
    assert (settings.lease_s, settings.heartbeat_s, settings.tick_s) == (43.0, 2.0, 1.5)
    assert settings.inbox_scan_s == 10.0


@pytest.mark.parametrize(
    ("name", "written", "text", "value"),
    [
        ("home", '"/srv/m"', "/srv/m", Path("/srv/m")),
        ("home", '"~/m"', "~/m", Path.home() / "m"),
        ("node_name", '"gpu-1"', "gpu-1", "gpu-1"),
        ("master", '"10.0.0.1:7000"', "10.0.0.1:7000", "10.0.0.1:7000"),
        ("master", '"[::1]:7000"', "[::1]:7000", "[::1]:7000"),
        ("http_host", '"::1"', "::1", "::1"),
        ("http_port", "0", "0", 0),
        ("cpu_slots", "3", "3", 3),
        ("gpus", '"auto"', "auto", "auto"),
        ("gpus", "[0, 2]", "0, 2", (0, 2)),
        ("gpus", "[]", ",", ()),
        ("labels", '{room = "b", card = "rtx 4090"}', "room=b, card=rtx 4090",
         {"room": "b", "card": "rtx 4090"}),
        ("warm_training", "false", "false", False),
        ("warm_training", "true", "1", True),
        ("kill_grace_s", "0", "0", 0.0),
        ("kill_grace_s", "2.5", "2.5", 2.5),
        ("jobs_on_stop", '"leave"', "leave", "leave"),
        ("gpu_locks", '"/srv/locks"', "/srv/locks", Path("/srv/locks")),
        ("job_users", '["alice", "b-1"]', "alice, b-1", ("alice", "b-1")),
        ("job_users", "[]", ",", ()),
    ],
)  # fmt: skip
def test_each_source_can_say_each_kind_of_value(
    tmp_path: Path, name: str, written: str, text: str, value: Any
) -> None:
    from_file = worker_settings(toml(tmp_path, f"{name} = {written}"))
    from_env = worker_settings(env={f"MESHTRAIN_{name.upper()}": text})
    assert getattr(from_file, name) == getattr(from_env, name) == value
    assert getattr(worker_settings(flags={name: value}), name) == value


def test_sizes_are_written_with_units(tmp_path: Path) -> None:
    for written, size in (('"512MiB"', 2**29), ('"1.5GB"', 1_500_000_000), ("77", 77)):
        file = toml(tmp_path, f"code_size_max_bytes = {written}")
        assert master_settings(file).code_size_max_bytes == size
    env = {"MESHTRAIN_CODE_SIZE_MAX_BYTES": "64MiB"}
    assert master_settings(env=env).code_size_max_bytes == 2**26


def told(load: Any, *sources: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*sources)
    return str(caught.value)


def test_a_mistake_in_the_file_names_its_line(tmp_path: Path) -> None:
    file = toml(tmp_path, 'tick_s = 1\n\nlaese_s = 3\nhttp_port = "x"\n')
    assert told(master_settings, file).splitlines() == [
        f'{file}, line 4: http_port: "x" is not a whole number',
        f'{file}, line 3: laese_s: unknown setting; did you mean "lease_s"?',
        "Mend it and start again.",
    ]
    file = toml(tmp_path, "tick_s = 1\ntick_s = \n")
    message = told(master_settings, file)
    assert message.startswith(f"{file}, line 2: not TOML: ")
    assert message.endswith("\nMend the file and start again.")
    file = toml(tmp_path, "a = nan")
    assert told(master_settings, file).startswith(f"{file}, line 1: expected a finite number")


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert told(master_settings, missing) == (
        f"{missing} can't be read: No such file or directory. Check its path."
    )
    file = tmp_path / "odd.toml"
    file.write_bytes(b"tick_s = 1\nhost = '\xff'\n")
    assert told(master_settings, file).startswith(f"{file}, line 2: byte 0xff is not UTF-8")
    file.write_bytes(b"")
    assert master_settings(file) == MasterSettings()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("cpu_slots", "many", '"many" is not a whole number'),
        ("cpu_slots", "-1", "-1 is out of range: a whole number from 0 to 65536"),
        ("cpu_slots", "1" * 100, "is not a whole number"),
        ("http_port", "65536", "65536 is out of range"),
        ("home", "state", '"state" is not an absolute path: it begins with / or ~'),
        ("master", "gpu1", '"gpu1" is not an address: write "127.0.0.1:7470"'),
        ("master", "gpu1:99999", "is not an address"),
        ("gpus", "all", '"all" is not "auto" or a list of GPU indexes such as [0, 1]'),
        ("gpus", "9" * 5000, "is not \"auto\" or a list"),
        ("gpus", "-1", "is not \"auto\" or a list"),
        ("labels", "a b=c", '"a b" is not a name'),
        ("warm_training", "maybe", 'expected true or false, got "maybe"'),
        ("kill_grace_s", "nan", "nan is not a number"),
        ("node_name", "../x", '"../x" is not a name'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_environment_names_the_variable(
    name: str, text: str, problem: str
) -> None:
    variable = f"MESHTRAIN_{name.upper()}"
    message = told(worker_settings, None, {variable: text})
    assert message.startswith(f"environment variable {variable}: {name}: ")
    assert problem in message
    assert message.endswith("\nMend it and start again.")


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    assert told(master_settings, None, None, {"control_port": 99999}) == (
        "flag --control-port: control_port: 99999 is out of range: a whole number from 0 to 65535\n"
        "Mend it and start again."
    )


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    file = toml(tmp_path, "heartbeat_s = 20")
    assert told(master_settings, file) == (
        f"{file}, line 1: lease_s (30 s) must be at least twice heartbeat_s (20 s), "
        "or one lost message loses a job. Raise lease_s."
    )
    env = {"MESHTRAIN_HTTP_PORT": "7470"}
    assert told(master_settings, None, env) == (
        "environment variable MESHTRAIN_HTTP_PORT: http_port and control_port are both 7470. "
        "Give each its own port."
    )
    ports = {"control_port": 0, "bulk_port": 0, "feed_port": 0, "http_port": 0}
    assert master_settings(flags=ports).http_port == 0


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert master_settings(env={"MESHTRAIN_LEASE_S": ""}).lease_s == 30.0


def test_folders_lie_in_home_unless_they_are_given() -> None:
    settings = master_settings(flags={"home": Path("/m")})
    assert settings.inbox_folder == Path("/m/inbox")
    assert settings.results_folder == Path("/m/results")
    settings = master_settings(flags={"home": Path("/m"), "inbox": "/in", "results": "/out"})
    assert (settings.inbox_folder, settings.results_folder) == (Path("/in"), Path("/out"))


def test_home_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert default_home() == Path("/x/state/meshtrain")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_home() == Path.home() / ".local/state/meshtrain"


@pytest.mark.parametrize(
    ("host", "name"),
    [("gpu1.lab", "gpu1.lab"), ("Jo's PC", "Jo-s-PC"), ("-x", "x"), ("é", "node"), ("", "node")],
)
def test_a_nodes_name_is_made_of_the_hosts(
    monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert default_node_name() == name


@pytest.mark.parametrize(
    ("name", "model"), [("master.toml", MasterSettings), ("worker.toml", WorkerSettings)]
)
def test_the_settings_files_load_and_show_every_setting(
    tmp_path: Path, name: str, model: type[Settings]
) -> None:
    load = master_settings if model is MasterSettings else worker_settings
    assert load(CONFIGS / name) == model()
    text = (CONFIGS / name).read_text()
    shown: dict[str, list[Any]] = {}
    for line in COMMENTED.findall(text):
        for key, value in tomllib.loads(line).items():
            shown.setdefault(key, []).append(value)
    assert set(shown) == set(model.model_fields)
    for key, values in shown.items():
        for value in values:
            load(toml(tmp_path, ""), None, {key: value})
        default = model.model_fields[key].default
        first = getattr(load(None, None, {key: values[0]}), key)
        if default is not None and model.model_fields[key].default_factory is None:
            assert first == default, f"{name} shows {first} for {key}; its default is {default}"


def test_prices_are_a_number_or_a_table_by_label_in_files_and_in_the_environment() -> None:
    variable = "MESHTRAIN_PRICE_PER_GPU_HOUR"
    table = {"gpu=a100": 2.5, "default": 0.3}
    assert (
        master_settings(None, {variable: "gpu=a100:2.5, default:0.3"}).price_per_gpu_hour == table
    )
    assert master_settings(None, None, {"price_per_gpu_hour": table}).price_per_gpu_hour == table
    assert master_settings(None, {variable: "0.5"}).price_per_gpu_hour == {"default": 0.5}
    assert worker_settings(None, {variable: "0.5"}).price_per_gpu_hour == 0.5
    for wrong, told in (
        ("a100:2", "is no label"),
        ("gpu=a100:cheap", "not a number"),
        ("gpu=a100:-1", "out of range"),
        (":3", "is no label"),
    ):
        with pytest.raises(SettingsError, match=told):
            master_settings(None, {variable: wrong})
