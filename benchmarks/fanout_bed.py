"""The testbed: hosts in network namespaces on a bridge, each behind a link of a given rate.

    host: cable ═ tbf ══ port: switch ══ port ═ tbf ═ cable: host

What a host sends is held to the rate at its own end of the cable, what it
receives at the switch's end. The namespaces have no names: each lives as long
as a small process in it that reads the benchmark's pipe. So they vanish, with
their cards and limits, however the benchmark ends, and can't be mixed up with
anybody else's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fanout_figures import card_bytes

NET = "10.213.9"
"""Nobody else sees it: the switch is in a namespace of its own."""
_CABLE = "cable"
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
"""What a namespace may set; more of them only the machine's owner may allow."""
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_BRIDGE_CALLS = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_BURST_KB = 128
"""Above the 64 KiB that the kernel hands down at once, so that it needn't cut them up."""
_QUEUE_MS = 25
_HTB_QUEUE_PACKETS = 500
_COMMAND_LIMIT_S = 30
_HOLDER = "echo up; exec cat"

SHAPERS = ("tbf", "htb")


class BedError(Exception):
    """Raised when the testbed can't be made here; says why and what mends it."""


class Bed:
    """A switch and hosts with cables to it; to be used in a `with`.

    Args:
        names: of the hosts.
        rate_mbit: of each link, each way.
        congestion: TCP's congestion control; empty leaves the machine's own.

    Raises:
        BedError: when it can't be made.
    """

    def __init__(self, names: Sequence[str], rate_mbit: float, congestion: str = "") -> None:
        self.rate_mbit = rate_mbit
        self.congestion = congestion
        self.shaper = ""
        self._names = list(names)
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._switch: subprocess.Popen[str] | None = None

    def __enter__(self) -> Bed:
        if problem := why_not():
            raise BedError(problem)
        allowed = _ALLOWED.read_text().split()
        if self.congestion and self.congestion not in allowed:
            raise BedError(
                f"TCP's {self.congestion!r} may not be set in a namespace here; {_ALLOWED} has "
                f"{', '.join(allowed)}: choose one of them, or add it there"
            )
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets all namespaces go."""
        holders = [*self._holders.values(), *([self._switch] if self._switch else [])]
        self._holders, self._switch = {}, None
        for holder in holders:
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                holder.wait(_COMMAND_LIMIT_S)
            if holder.returncode is None:
                holder.kill()
                holder.wait()
            holder.stdout.close()

    def inside(self, name: str) -> list[str]:
        """What to put before a command that is to run on a host."""
        return _enter(self._holders[name])

    def address(self, name: str) -> str:
        """A host's address."""
        return f"{NET}.{self._number(name)}"

    def card_bytes(self, name: str) -> tuple[int, int]:
        """Bytes that a host's card has received and sent."""
        text = Path(f"/proc/{self._holders[name].pid}/net/dev").read_text()
        return card_bytes(text, _CABLE)

    def set_rate(self, name: str, rate_mbit: float) -> None:
        """Give a host's link another rate, both ways."""
        assert self._switch is not None
        for holder, device in (
            (self._holders[name], _CABLE),
            (self._switch, f"port{self._number(name)}"),
        ):
            _run(_enter(holder), *shaping(device, rate_mbit, self.shaper))

    def _number(self, name: str) -> int:
        return self._names.index(name) + 1

    def _build(self) -> None:
        self._switch = _hold()
        switch = _enter(self._switch)
        self.shaper = _choose_shaper(switch)
        _run(
            switch,
            "ip link add bridge type bridge",
            "ip link set bridge up",
            # Where the kernel has it: bridged packets needn't pass a firewall that has no rules.
            f"if [ -e {_BRIDGE_CALLS} ]; then echo 0 > {_BRIDGE_CALLS}; fi",
        )
        for name in self._names:
            holder = self._holders[name] = _hold()
            number, host = self._number(name), _enter(holder)
            port = f"port{number}"
            _run(
                switch,
                f"ip link add {port} type veth peer name {_CABLE} netns {holder.pid}",
                f"ip link set {port} master bridge up",
            )
            _run(
                host,
                f"ip addr add {NET}.{number}/24 dev {_CABLE}",
                f"ip link set {_CABLE} up",
                "ip link set lo up",
                # What one row's connections learnt must not help the next row's.
                "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save",
            )
            if self.congestion:
                setting = "/proc/sys/net/ipv4/tcp_congestion_control"
                _run(host, f"echo {self.congestion} > {setting}")
            self.set_rate(name, self.rate_mbit)


def why_not() -> str:
    """Why the testbed can't be made here; empty where it can."""
    if sys.platform != "linux":
        return "the fan-out needs network namespaces, which are of Linux"
    if os.geteuid() != 0:
        return "the fan-out makes network namespaces and needs root: run it with sudo"
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"there is no `{tool}`: apt-get install -y {package}"
    return ""


def shaping(device: str, rate_mbit: float, shaper: str) -> list[str]:
    """The commands that hold what a card sends to a rate, whatever it was held to before."""
    clear = f"tc qdisc del dev {device} root 2> /dev/null || true"
    begin = f"tc qdisc add dev {device} root"
    if shaper == "tbf":
        bucket = f"tbf rate {rate_mbit}mbit burst {_BURST_KB}kb latency {_QUEUE_MS}ms"
        return [clear, f"{begin} {bucket}"]
    rate = f"rate {rate_mbit}mbit ceil {rate_mbit}mbit burst {_BURST_KB}kb cburst {_BURST_KB}kb"
    return [
        clear,
        f"{begin} handle 1: htb default 1",
        f"tc class add dev {device} parent 1: classid 1:1 htb {rate}",
        f"tc qdisc add dev {device} parent 1:1 pfifo limit {_HTB_QUEUE_PACKETS}",
    ]


def _choose_shaper(switch: list[str]) -> str:
    """The first that this kernel has, tried on a card that is gone afterwards."""
    problems = []
    for shaper in SHAPERS:
        try:
            _run(
                switch,
                "ip link add trial type veth peer name lairt",
                *shaping("trial", 100, shaper),
            )
        except BedError as error:
            problems.append(f"{shaper}: {error}")
        else:
            return shaper
        finally:
            with contextlib.suppress(BedError):
                _run(switch, "ip link del trial")
    raise BedError(
        "links can't be held to a rate here: the kernel has neither tbf nor htb "
        f"(CONFIG_NET_SCH_TBF, CONFIG_NET_SCH_HTB). {'; '.join(problems)}"
    )


def _hold() -> subprocess.Popen[str]:
    """A process in a network namespace of its own, which ends when our end of its pipe does."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", _HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A Ctrl-C goes to the benchmark, which ends all in order.
        start_new_session=True,
    )
    assert holder.stdout is not None
    told = holder.stdout.readline().strip()
    if told != "up":
        holder.kill()
        holder.wait()
        raise BedError(f"network namespaces are not allowed here: {told}")
    return holder


def _enter(holder: subprocess.Popen[str]) -> list[str]:
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]


def _run(inside: list[str], *commands: str) -> None:
    """Runs commands in one namespace; raises BedError at the first that fails."""
    told = subprocess.run(
        [*inside, "sh", "-ec", "\n".join(commands)],
        capture_output=True,
        text=True,
        timeout=_COMMAND_LIMIT_S,
        check=False,
    )
    if told.returncode:
        raise BedError(f"`{'; '.join(commands)}` failed: {told.stderr.strip()}")
