"""One host of a libtorrent swarm, with settings for a LAN, or the maker of the torrent.

    python fanout_torrent.py make FILE TORRENT PIECE_BYTES

Without arguments it is commanded as `fanout_voice` says. It runs in the peers'
environment. Peers are told of each other; there is no tracker, DHT or local
discovery, and no encryption. The end is the last piece checked, the cache flushed,
the file brought onto the disk, and its final name made. (A second name, not another
one: the swarm is served from the first one meanwhile.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import fanout_voice as voice
import libtorrent as lt

_ALERT_WAIT_MS = 50
_PE_DISABLED = 2
_PREFER_TCP = 0
_KIB = 1 << 10


def settings(host: str, port: int) -> dict[str, Any]:
    """Those for fast links and few peers; what isn't named stays as libtorrent has it."""
    return {
        "listen_interfaces": f"{host}:{port}",
        "outgoing_interfaces": host,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "mixed_mode_algorithm": _PREFER_TCP,
        "in_enc_policy": _PE_DISABLED,
        "out_enc_policy": _PE_DISABLED,
        "allow_multiple_connections_per_ip": True,
        "connection_speed": 500,
        "torrent_connect_boost": 255,
        "smooth_connects": False,
        "tick_interval": 100,
        "unchoke_interval": 1,
        # Where a whole swarm is a handful, a minute without a peer is long.
        "min_reconnect_time": 1,
        "connections_limit": 500,
        "unchoke_slots_limit": -1,
        "allowed_fast_set_size": 0,
        "max_out_request_queue": 1500,
        "max_allowed_in_request_queue": 2000,
        "request_queue_time": 1,
        "send_buffer_low_watermark": 1024 * _KIB,
        "send_buffer_watermark": 3072 * _KIB,
        "send_buffer_watermark_factor": 150,
        "max_queued_disk_bytes": 64 << 20,
        "aio_threads": 4,
        "hashing_threads": 1,
        "alert_mask": lt.alert.category_t.status_notification
        | lt.alert.category_t.storage_notification
        | lt.alert.category_t.error_notification
        | lt.alert.category_t.peer_notification,
    }


class Member:
    """One member of the swarm; `run` serves, and fetches when told to, until the input ends."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._banned: set[str] = set()
        self._session = lt.session(settings(order["host"], order["port"]))
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(order["torrent"])
        params.save_path = order["folder"]
        params.flags = lt.torrent_flags.paused | lt.torrent_flags.disable_pex
        if not order["fetches"]:
            # Taken at its word, as our store takes what lies in it.
            params.have_pieces = [True] * params.ti.num_pieces()
            params.verified_pieces = [True] * params.ti.num_pieces()
            params.flags |= lt.torrent_flags.no_verify_files
        self._path = Path(order["folder"]) / params.ti.name()
        self._handle = self._session.add_torrent(params)

    def run(self) -> None:
        """As the class says."""
        self._wait_for(lt.torrent_checked_alert)
        if not self._order["fetches"]:
            self._handle.resume()
            if not self._handle.status().is_seeding:
                raise SystemExit(f"it doesn't seed {self._path}")
        voice.say("ready")
        word = voice.hear()
        if word == "go" and self._order["fetches"]:
            self._handle.resume()
            for host, port in self._order["peers"]:
                self._handle.connect_peer((host, port))
            self._wait_for(lt.torrent_finished_alert)
            self._finish()
        while word:
            word = voice.hear()

    def _finish(self) -> None:
        self._handle.flush_cache()
        self._wait_for(lt.cache_flushed_alert)
        voice.fsync(self._path)
        final = Path(self._order["final"])
        final.hardlink_to(self._path)
        voice.fsync(final.parent)
        failed_bytes = self._handle.status().total_failed_bytes
        voice.done(final, failed_bytes=failed_bytes, banned=sorted(self._banned))

    def _wait_for(self, kind: type) -> None:
        while True:
            self._session.wait_for_alert(_ALERT_WAIT_MS)
            came = False
            for alert in self._session.pop_alerts():
                if isinstance(alert, lt.peer_ban_alert):
                    self._banned.add(str(alert.ip[0]))
                elif isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
                    raise SystemExit(alert.message())
                came = came or isinstance(alert, kind)
            if came:
                return


def make(file: Path, torrent: Path, piece_bytes: int) -> None:
    """Writes the torrent of one file; of the first version, whose pieces are hashed by SHA-1."""
    made = lt.create_torrent(lt.list_files(str(file)), piece_bytes, flags=lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(file.parent))
    made.set_creation_date(int(time.time()))
    torrent.write_bytes(lt.bencode(made.generate()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        Member(voice.order()).run()
