"""Whom a job runs as, when it names an account of the host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection

from meshtrain.errors import UserError
from meshtrain_daemon.worker.launch import Account

#: what it takes to start, own, end and clear up after others' processes (capabilities(7))
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}


class JobUserError(UserError):
    """Raised when a job can't run as the account that it names."""


class JobUser:
    """An account that a job runs as.

    Args:
        name: as the job names it.
        allowed: the accounts that the settings allow.

    Raises:
        JobUserError: it isn't allowed, isn't there, or the daemon may not switch to it.
    """

    def __init__(self, name: str, allowed: Collection[str]) -> None:
        if name not in allowed:
            raise JobUserError(
                f"the job wants to run as {name!r}, and this node's settings don't allow it; "
                f"add {name!r} to job_users there, or leave `user` out of the job file"
            )
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise JobUserError(
                f"the job wants to run as {name!r}, and this node has no such account; make it, "
                "or let the job run on nodes that have it"
            ) from None
        missing = missing_capabilities()
        if missing:
            raise JobUserError(
                f"the job wants to run as {name!r}, and this node's daemon may not switch "
                f"accounts (it lacks {', '.join(missing)}); run it as root, or give it these"
            )
        self.name = name
        self.home = entry.pw_dir
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        self.account = Account(entry.pw_uid, entry.pw_gid, groups)

    @property
    def environment(self) -> dict[str, str]:
        """What a login would set."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def own(self, path: str) -> None:
        """Give the account a folder with all that is in it; links are not followed.

        A file with another name elsewhere stays ours: it is the store's too.
        """
        account = self.account
        for folder, _, files in os.walk(path):
            os.chown(folder, account.uid, account.gid, follow_symlinks=False)
            for name in files:
                file = f"{folder}/{name}"
                if os.lstat(file).st_nlink > 1:
                    continue
                os.chown(file, account.uid, account.gid, follow_symlinks=False)

    def own_alone(self, folder: str) -> None:
        """Give the account a folder, and nothing in it: that may be the account's own already."""
        os.chown(folder, self.account.uid, self.account.gid, follow_symlinks=False)

    def let_in(self, path: str) -> None:
        """Let it make files of its own in a folder, and touch none of the others there."""
        os.chown(path, -1, self.account.gid)
        os.chmod(path, 0o1770)  # noqa: PTH101


def is_own_user(name: str) -> bool:
    """Whether this is the account that the daemon itself runs as."""
    try:
        return pwd.getpwnam(name).pw_uid == os.geteuid()
    except KeyError:
        return False


def missing_capabilities(status: str = "/proc/self/status") -> list[str]:
    """What this process lacks to run jobs as others."""
    with open(status, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("CapEff:"):
                held = int(line.split()[1], 16)
                return [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    return list(_CAPABILITIES)
