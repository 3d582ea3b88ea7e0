"""What is asked of a host's place in the mesh: master, clock, peers, ports, keys, membership.

Each check looks at nothing but its reading, so that any mesh can be played.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from meshtrain.cli.doctor_findings import Finding, fail, ok, warn
from meshtrain.core.member import Member, Members
from meshtrain.wire.messages import PROTOCOL_VERSION

CLOCK_WARN_S = 1.0
CLOCK_FAIL_S = 60.0
"""Tokens expire and files rest by the clock: past this, people are misled."""
SECRET_FILE_MODE = 0o600
SECRET_FOLDER_MODE = 0o700


class MasterReading(msgspec.Struct, frozen=True):
    """What the master said, or why it said nothing."""

    address: str
    error: str = ""
    version: str = ""
    protocol: int | None = None
    round_trip_s: float = 0.0
    clock_ahead_s: float | None = None
    """How far the master's clock is ahead of ours, known to half a round trip."""


def check_master(master: MasterReading, own_version: str) -> Finding:
    """Whether the master answers, in the same words."""
    name = "master"
    if master.error:
        return fail(
            name,
            master.error,
            "see that it runs and its ports are let through: meshtrain doctor --as master there",
        )
    told = f"{master.address} answers in {1000 * master.round_trip_s:.0f} ms"
    if master.protocol is not None and master.protocol != PROTOCOL_VERSION:
        older = "on this host" if master.protocol > PROTOCOL_VERSION else "on the master"
        return fail(
            name,
            f"{told}, but speaks protocol {master.protocol}, this host {PROTOCOL_VERSION}",
            f"upgrade meshtrain {older}",
        )
    if master.version != own_version:
        return warn(
            name,
            f"{told}; it runs meshtrain {master.version}, this host {own_version}",
            "bring both to the same version when it suits",
        )
    return ok(name, f"{told}, meshtrain {master.version}")


def check_clock(master: MasterReading) -> Finding:
    """Whether both clocks show the same time."""
    ahead_s = master.clock_ahead_s
    if ahead_s is None:
        return ok("clock", "not compared: the master didn't say its time")
    bound_s = master.round_trip_s / 2
    way = "ahead of" if ahead_s >= 0 else "behind"
    told = f"the master's is {abs(ahead_s):.1f} s {way} ours (±{bound_s:.1f} s)"
    mend = "turn on time synchronisation on both hosts: timedatectl set-ntp true, or chrony"
    beyond_s = max(0.0, abs(ahead_s) - bound_s)
    if beyond_s > CLOCK_FAIL_S:
        return fail("clock", told, mend)
    if beyond_s > CLOCK_WARN_S:
        return warn("clock", told, mend)
    return ok("clock", told)


def check_time_sync(synchronised: bool | None) -> Finding:
    """Whether something keeps this host's clock right."""
    if synchronised is None:
        return ok("time sync", "this system doesn't say")
    if synchronised:
        return ok("time sync", "the clock is synchronised")
    return warn(
        "time sync", "nothing keeps the clock right", "timedatectl set-ntp true, or run chrony"
    )


class PortState(Enum):
    FREE = "free"
    ANSWERS = "answers"
    """Something listens there."""
    CLOSED = "closed"
    """Nothing listens there, or it can't be reached."""
    REFUSED = "refused"
    """The address can't be bound."""


class PortReading(msgspec.Struct, frozen=True):
    name: str
    host: str
    port: int
    state: PortState
    reason: str = ""


def check_own_ports(ports: Sequence[PortReading], *, running: bool) -> Finding:
    """Whether a daemon of this host listens where it should, or could."""
    bad = []
    for port in ports:
        if running and port.state is not PortState.ANSWERS:
            bad.append(f"{port.name} {port.port} doesn't answer")
        if not running and port.state is PortState.ANSWERS:
            bad.append(f"{port.name} {port.port} is taken by another program")
        if port.state is PortState.REFUSED:
            bad.append(f"{port.name} {port.host}:{port.port} can't be bound: {port.reason}")
    numbers = ", ".join(str(port.port) for port in ports)
    if not bad:
        return ok("ports", f"{numbers} {'listen' if running else 'are free'}")
    mend = (
        "see its log, and restart it"
        if running
        else "end the other program (ss -ltnp tells which), or choose ports in the settings"
    )
    return fail("ports", "; ".join(bad), mend)


def check_far_ports(ports: Sequence[PortReading]) -> Finding:
    """Whether the ports of a master on another host can be reached from here."""
    shut = [port for port in ports if port.state is not PortState.ANSWERS]
    numbers = ", ".join(str(port.port) for port in ports)
    if not shut:
        return ok("master's ports", f"{numbers} can be reached")
    told = ", ".join(f"{p.name} {p.port} ({p.reason or p.state.value})" for p in shut)
    hosts = sorted({port.host for port in shut})
    return fail(
        "master's ports",
        f"can't be reached: {told}",
        f"let TCP through from this host to {', '.join(hosts)}: {numbers}",
    )


class PeerReading(msgspec.Struct, frozen=True):
    node_id: str
    url: str
    error: str = ""


def check_peers(peers: Sequence[PeerReading], *, unseen: int = 0) -> list[Finding]:
    """Whether the other nodes serve their artifacts to this host; a line for each that doesn't.

    Args:
        unseen: nodes that were not tried, since there are so many.
    """
    shut = [peer for peer in peers if peer.error]
    rest = f" ({unseen} more were not tried)" if unseen else ""
    if not peers:
        return [ok("peers", "no other nodes are connected")]
    if not shut:
        return [ok("peers", f"all {len(peers)} can be reached{rest}")]
    findings = [
        fail(
            "peers",
            f"{peer.node_id} at {peer.url}: {peer.error}",
            f"let TCP through to it, and set http_host on {peer.node_id} to an address that "
            "this host can reach",
        )
        for peer in shut
    ]
    reached = f"{len(peers) - len(shut)} of {len(peers)} can be reached{rest}"
    return [*findings, ok("peers", reached)]


class ArchiveReading(msgspec.Struct, frozen=True):
    """How the master's archive stands."""

    url: str
    queued: int = 0
    queued_bytes: int = 0
    done: int = 0
    lost: int = 0
    trouble: str = ""


def check_archive(archive: ArchiveReading) -> Finding:
    """Whether what ends and is trained gets to the archive."""
    name = "archive"
    told = f"{archive.url}: {archive.done} results and bases are there"
    if archive.queued:
        told += f", {archive.queued} wait ({archive.queued_bytes / 1e6:,.0f} MB)"
    if archive.trouble:
        return warn(name, f"{told}; {archive.trouble}", "what waits goes there once it is well")
    if archive.lost:
        return warn(
            name,
            f"{told}; {archive.lost} were gone or damaged on the master before they went",
            "see the master's log for which, and its disk; a restart tries them again",
        )
    return ok(name, told)


class KeyFile(msgspec.Struct, frozen=True):
    name: str
    mode: int
    owner: int
    plain: bool
    """A regular file, and no link."""
    links: int = 1


class Keys(msgspec.Struct, frozen=True):
    """The folder of a host's own keys. `mode` is None where there is none."""

    path: str
    mode: int | None = None
    owner: int = 0
    expected_owner: int = 0
    files: tuple[KeyFile, ...] = ()
    unreadable: str = ""


def check_keys(keys: Keys, *, master: bool) -> Finding:
    """Whether nobody but the daemon can read its keys."""
    name = "keys"
    if keys.unreadable:
        return warn(
            name, f"{keys.path} can't be looked at: {keys.unreadable}", "run the doctor with sudo"
        )
    if keys.mode is None:
        if master:
            return warn(name, f"{keys.path} isn't there yet", "the master makes it at its start")
        return warn(
            name,
            f"{keys.path} isn't there: this host belongs to no mesh with keys",
            "meshtrain token on the master's host, then meshtrain join --node … here",
        )
    if keys.mode & 0o077:
        return fail(
            name,
            f"{keys.path} is open to others (mode {keys.mode:04o})",
            f"chmod {SECRET_FOLDER_MODE:o} {keys.path}, and renew keys that others may have read",
        )
    if keys.owner != keys.expected_owner:
        return fail(
            name,
            f"{keys.path} belongs to user {keys.owner}, its daemon is user {keys.expected_owner}",
            f"chown -R {keys.expected_owner} {keys.path}",
        )
    for file in keys.files:
        path = f"{keys.path}/{file.name}"
        if not file.plain or file.links != 1:
            return fail(name, f"{path} is a link", "put the file itself there")
        if file.mode & 0o077:
            return fail(
                name,
                f"{path} can be read by others (mode {file.mode:04o})",
                f"chmod {SECRET_FILE_MODE:o} {path}, and renew keys that others may have read",
            )
        if file.owner != keys.expected_owner:
            return fail(
                name,
                f"{path} belongs to user {file.owner}, its daemon is user {keys.expected_owner}",
                f"chown {keys.expected_owner} {path}",
            )
    if not keys.files:
        return fail(
            name, f"{keys.path} is empty", "move it away, and join anew (a master: restore it)"
        )
    return ok(name, f"{keys.path}: {len(keys.files)} files, for their owner alone")


class Membership(msgspec.Struct, frozen=True):
    """Who this host says it is, and the list of members that it keeps."""

    own: Member | None
    members: Members | None
    trouble: str = ""


def check_membership(membership: Membership) -> Finding:
    """Whether this host is on the list of members, under its own keys, and not revoked."""
    name = "membership"
    if membership.trouble:
        return fail(
            name, membership.trouble, "restore the file from a backup, or move it away and rejoin"
        )
    own, members = membership.own, membership.members
    join = "meshtrain token on the master's host, then meshtrain join --node … here"
    if own is None:
        return warn(name, "this host has not been enrolled", join)
    who = f"{own.kind.value} {own.name}"
    if members is None:
        return warn(name, f"{who} has keys, and has met no mesh yet", join)
    same = [m for m in members.members if (m.kind, m.name) == (own.kind, own.name)]
    if not same:
        return fail(name, f"{who} is not on the list of members", join)
    listed = same[0]
    if listed.revoked:
        return fail(
            name,
            f"the membership of {who} was revoked",
            f"if that was a mistake: move the keys folder away, then {join}",
        )
    if (listed.curve_key, listed.sign_key) != (own.curve_key, own.sign_key):
        return fail(
            name,
            f"the list has other keys for {who}: another host joined under that name",
            "give this host another node_name, and join anew",
        )
    others = sum(not member.revoked for member in members.members) - 1
    return ok(name, f"{who}, with {others} other members (list {members.version})")
