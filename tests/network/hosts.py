"""Hosts of a network of their own: namespaces, joined by a switch, each with its cable.

    host ──cable── switch ──cable── host …

A cable can be pulled. One way alone is cut by what the sender believes: it
sends to a card that nobody has, and its packets go nowhere; no firewall is
needed for that, nor anything of the kernel that may not be there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from daemons import PORTS
from free_ports import free_ports
from mesh import Mesh

from meshtrain.wire import messages as msg

MASTER = "master"
NOBODY_S_CARD = "02:00:00:00:de:ad"
NET = "10.213.7"
"""Nobody else sees it: each switch is in a namespace of its own."""
NAME_PREFIX = "mesht"
_CLONE_NEWNET = 0x40000000
WIRES = Path(__file__).with_name("wires.py")
STOP_TIMEOUT_S = 10.0


def why_not() -> str:
    """Why hosts can't be made here; empty where they can."""
    if sys.platform != "linux":
        return "network namespaces are of Linux"
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    name = f"{NAME_PREFIX}-{secrets.token_hex(3)}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    try:
        run("ip", "-n", name, "link", "add", "test", "type", "bridge")
        run("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"no bridge or cable can be made here: {error.stderr.strip()}"
    finally:
        run("ip", "netns", "del", name)
    return ""


def run(*words: str) -> str:
    """Run a command; raises CalledProcessError with what it said."""
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout


class Hosts:
    """A switch, and hosts with cables to it.

    Args:
        names: of the hosts; the first one gets the address .1.
    """

    def __init__(self, *names: str) -> None:
        self._mark = secrets.token_hex(3)
        self._made: list[str] = []
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self.switch = self._namespace("switch")
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "bridge", "up")
        for name, number in self._numbers.items():
            host = self._namespace(name)
            port = f"port{number}"
            run(*("ip", "link", "add", "cable", "netns", host, "type", "veth"),
                *("peer", "name", port, "netns", self.switch))  # fmt: skip
            run("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", host, "addr", "add", f"{NET}.{number}/24", "dev", "cable")
            run("ip", "-n", host, "link", "set", "cable", "up")
            run("ip", "-n", host, "link", "set", "lo", "up")

    def _namespace(self, name: str) -> str:
        full = f"{NAME_PREFIX}-{self._mark}-{name}"
        run("ip", "netns", "add", full)
        self._made.append(full)
        return full

    def namespace(self, name: str) -> str:
        return f"{NAME_PREFIX}-{self._mark}-{name}"

    def address(self, name: str) -> str:
        return f"{NET}.{self._numbers[name]}"

    def pull(self, name: str) -> None:
        """Pull a host's cable out of the switch."""
        run("ip", "-n", self.switch, "link", "set", f"port{self._numbers[name]}", "down")

    def plug(self, name: str) -> None:
        """Put it in again."""
        run("ip", "-n", self.switch, "link", "set", f"port{self._numbers[name]}", "up")

    def deafen(self, listener: str, speaker: str) -> None:
        """What one host sends to another is lost; not what comes back."""
        run(*("ip", "-n", self.namespace(speaker), "neigh", "replace", self.address(listener)),
            *("lladdr", NOBODY_S_CARD, "nud", "permanent", "dev", "cable"))  # fmt: skip

    def hear(self, listener: str, speaker: str) -> None:
        """What one host sends to another arrives again."""
        run(*("ip", "-n", self.namespace(speaker), "neigh", "del", self.address(listener)),
            *("dev", "cable"))  # fmt: skip

    def close(self) -> None:
        """Remove all of it; what still runs in it is killed."""
        while self._made:
            name = self._made.pop()
            with contextlib.suppress(subprocess.SubprocessError):
                for pid in run("ip", "netns", "pids", name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(subprocess.SubprocessError):
                run("ip", "netns", "del", name)


class HostsMesh(Mesh):
    """A mesh whose daemons are each on a host of their own.

    Args:
        hosts: has the master, and a host for each node.
        nodes: their names.
    """

    def __init__(
        self, folder: Path, hosts: Hosts, nodes: tuple[str, ...], *, lease_s: float
    ) -> None:
        super().__init__(folder, lease_s=lease_s, heartbeat_s=lease_s / 8)
        self.hosts = hosts
        self.nodes = nodes
        self.http_ports = dict(zip(nodes, free_ports(len(nodes)), strict=True))
        self._wires: dict[str, subprocess.Popen[str]] = {}
        self._asker = ThreadPoolExecutor(1, "asker", _enter, (hosts.namespace(MASTER),))

    def start_all(self) -> None:
        """The wires, the master, the workers."""
        for host in (MASTER, *self.nodes):
            self._wire(host)
        self.start_master()
        for node in self.nodes:
            self.start_worker(node, MESHTRAIN_HTTP_PORT=str(self.http_ports[node]))
        self.wait_connected(*self.nodes)

    def command_prefix(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self.hosts.namespace(name)]

    def ask(self, message: msg.FromPerson) -> msg.Done | msg.Answer:
        # Connections belong to the namespace of the thread that makes them.
        return self._asker.submit(super().ask, message).result()

    def close(self) -> None:
        try:
            super().close()
        finally:
            for wire in self._wires.values():
                wire.kill()
                wire.wait()
            self._asker.shutdown()
            self.hosts.close()

    # --- the wires -----------------------------------------------------------------------

    def _wire(self, host: str) -> None:
        """Join a host's loopback to the others', port by port."""
        own = self._ports_of(host)
        words = [f"in-{port}={self.hosts.address(host)}:{port}=127.0.0.1:{port}" for port in own]
        for other in (MASTER, *self.nodes):
            if other != host:
                words += [
                    f"{other}-{port}=127.0.0.1:{port}={self.hosts.address(other)}:{port}"
                    for port in self._ports_of(other)
                ]
        wire = self._wires[host] = subprocess.Popen(
            [*self.command_prefix(host), sys.executable, str(WIRES), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert wire.stdout is not None
        assert wire.stdout.readline() == "ready\n", f"the wires of {host} are not up"

    def _ports_of(self, host: str) -> list[int]:
        if host == MASTER:
            return [self.ports[name] for name in PORTS if name != "feed"]
        return [self.http_ports[host]]

    def spoil(self, host: str, do: str, *arguments: Any) -> None:
        """Command all links of a host, as `chaos.link.Link` takes it: delay, lose, limit, heal."""
        wire = self._wires[host]
        assert wire.stdin is not None and wire.stdout is not None
        command = {"names": [], "do": do, "with": arguments}
        wire.stdin.write(msgspec.json.encode(command).decode() + "\n")
        wire.stdin.flush()
        assert wire.stdout.readline() == "done\n"


def _enter(namespace: str) -> None:
    """Move this thread, and the threads that it begins, into a network namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
