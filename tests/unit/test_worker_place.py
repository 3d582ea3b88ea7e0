"""P10: where a node stands, and that it leaves loopback with keys alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from member_keys import ALL, members

from meshtrain.artifacts.fetch import Source
from meshtrain.core.commands import ArtifactSource
from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError, UserError
from meshtrain.security.keys import Identity
from meshtrain.security.loopback import NetworkAwayError
from meshtrain.security.private_file import make_private_home
from meshtrain.security.standing import keep_standing
from meshtrain.spec.settings import WorkerSettings
from meshtrain.spec.settings_loading import worker_settings
from meshtrain_daemon.worker.place import Place, find_place
from meshtrain_daemon.worker.translate import source_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    make_private_home(home)
    return home


def join(home: Path, where: str = "127.0.0.1:7470") -> None:
    Identity.load_or_create(home / "keys", "gpu1", MemberKind.NODE)
    keep_standing(home, members(*ALL, version=7), where)


def settings(home: Path, **flags: Any) -> WorkerSettings:
    return worker_settings(None, {}, {"home": home, **flags})


def test_without_keys_all_is_on_loopback(home: Path) -> None:
    place = find_place(settings(home, node_name="n1"))
    assert (place.name, place.master, place.http_host) == ("n1", "127.0.0.1:7470", "127.0.0.1")
    assert (place.net, place.http, place.members_version) == (None, None, 0)
    assert place.reached_at("http://127.0.0.1:5") == "http://127.0.0.1:5"


def test_P10_without_keys_nothing_is_served_off_loopback(home: Path) -> None:
    with pytest.raises(SettingsError, match="refuses to bind"):
        find_place(settings(home, http_host="0.0.0.0"))


def test_P10_a_worker_that_must_have_keys_does_not_run_without(home: Path) -> None:
    with pytest.raises(SettingsError, match="has not joined a mesh"):
        find_place(settings(home, secure=True))
    join(home)
    assert find_place(settings(home, secure=True)).name == "gpu1"


def test_a_node_is_what_it_joined_as_wherever_its_master_moved(home: Path) -> None:
    join(home)
    place = find_place(settings(home))
    assert (place.name, place.master, place.members_version) == ("gpu1", "127.0.0.1:7470", 7)
    assert place.net is not None
    assert place.http is not None
    assert find_place(settings(home, master="127.0.0.1:9")).master == "127.0.0.1:9"
    with pytest.raises(SettingsError, match="joined the mesh as 'gpu1'"):
        find_place(settings(home, node_name="gpu2"))


@pytest.mark.parametrize(
    ("listens", "serves"), [("0.0.0.0", "https://0.0.0.0:5"), ("::", "https://[::]:5")]
)
def test_a_node_that_listens_everywhere_is_reached_as_the_master_sees_it(
    listens: str, serves: str
) -> None:
    place = Place("n1", "127.0.0.1:7470", listens)
    assert place.reached_at(serves) == "https://127.0.0.1:5"


def test_a_network_that_is_not_up_is_tried_again_and_a_wrong_name_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(home, "gpu-lab.invalid:7470")

    def fails(code: int) -> None:
        def look_up(*args: object, **more: object) -> object:
            raise socket.gaierror(code, "no answer")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    fails(socket.EAI_AGAIN)
    with pytest.raises(NetworkAwayError, match="no way leads"):
        find_place(settings(home))
    assert not issubclass(NetworkAwayError, UserError), "a wrong setting is not tried again"
    fails(socket.EAI_NONAME)
    with pytest.raises(SettingsError, match="no way leads"):
        find_place(settings(home))


@pytest.mark.parametrize(
    ("told", "host", "url"),
    [
        ("https://0.0.0.0:7473", "10.0.0.5", "https://10.0.0.5:7473"),
        ("https://[::]:7473", "10.0.0.5", "https://10.0.0.5:7473"),
        ("http://[::]:7473", "fe80::1", "http://[fe80::1]:7473"),
        ("http://10.0.0.7:7473", "10.0.0.5", "http://10.0.0.7:7473"),
    ],
)
def test_a_master_that_listens_everywhere_is_fetched_where_it_is_reached(
    told: str, host: str, url: str
) -> None:
    assert source_of(ArtifactSource("master", told), host) == Source("master", url, True)
    assert source_of(ArtifactSource("n2", "http://n2:1"), host) == Source("n2", "http://n2:1")
