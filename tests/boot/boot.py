"""Boots a Debian with a master and a worker under systemd, and hurts them; see `make boot-test`.

It asks of the units and the daemons together what no test of a part can: that
they get ready, come back when killed or stuck, keep their jobs over a restart
and an upgrade, and leave nothing behind. Takes 3 minutes, the first time 6.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import container as c

OLD, NEW = "0.1.0", "0.1.1"
UNITS = {"master": "meshtrain-master.service", "worker": "meshtrain-worker.service"}
MESHTRAIN = "meshtrain"
STATE = "/var/lib/meshtrain"
WAITING_JOB = (
    "sh -c 'echo $$ > /tmp/{name}.pid; while [ ! -e /tmp/{name}.go ]; do sleep 0.1; done; "
    "echo went on; exit {code}'"
)
SHORT_WATCHDOG_S = 4


class Host:
    """The booted host, in the words of its checks."""

    def __init__(self, container: c.Container) -> None:
        self.container = container
        self.run = container.run
        self.wait_until = container.wait_until

    def show(self, role: str, name: str) -> str:
        """A property of a role's unit."""
        return self.run(f"systemctl show {UNITS[role]} -p {name} --value").strip()

    def is_stopped(self, role: str) -> bool:
        return self.show(role, "ActiveState") == "inactive"

    def main_pid(self, role: str) -> str:
        return self.show(role, "MainPID")

    def wait_ready(self, role: str, former_pid: str = "") -> None:
        """Waits until a role's daemon has told that it is ready, and isn't the former one."""

        def ready() -> bool:
            if self.show(role, "ActiveState") != "active":
                return False
            return self.main_pid(role) not in ("0", former_pid)

        self.wait_until(f"the {role} is ready", ready)

    def wait_welcomed(self) -> None:
        self.wait_until(
            "the worker is welcomed", lambda: "welcomed by" in self.show("worker", "StatusText")
        )

    def submit(self, name: str, code: int = 0) -> None:
        """A job that waits for a sign, and ends with an exit code of its own."""
        command = WAITING_JOB.format(name=name, code=code)
        text = json.dumps({"name": name, "command": command, "retries": 0})
        self.run(f"cat > /tmp/{name}.json <<'END'\n{text}\nEND")
        self.run(f"{MESHTRAIN} submit /tmp/{name}.json")
        self.wait_until(f"{name} runs", lambda: self.exists(f"/tmp/{name}.pid"))

    def exists(self, path: str) -> bool:
        return self.run(f"test -e {path} && echo yes", check=False).strip() == "yes"

    def pid_of(self, name: str) -> str:
        return self.run(f"cat /tmp/{name}.pid").strip()

    def lives(self, name: str) -> bool:
        return self.exists(f"/proc/{self.pid_of(name)}")

    def let_go(self, name: str) -> dict[str, Any]:
        """Gives the sign, waits for the end, and returns what the master has of the job."""
        self.run(f"touch /tmp/{name}.go")

        def ended() -> bool:
            return self.job(name)["state"] in ("succeeded", "failed", "cancelled")

        self.wait_until(f"{name} ends", ended)
        return self.job(name)

    def job(self, name: str) -> dict[str, Any]:
        (row,) = json.loads(self.run(f"{MESHTRAIN} jobs {name} --json"))
        assert isinstance(row, dict)
        return row

    def expect_untouched(self, name: str, pid: str) -> None:
        """A job goes on as the same process, in its first and only attempt, to its end."""
        self.expect(self.pid_of(name) == pid, f"{name} was started again")
        self.expect(self.lives(name), f"{name} is gone")
        self.wait_welcomed()
        job = self.let_go(name)
        self.expect(job["state"] == "succeeded", f"{name} ended as {job}")
        self.expect(self.pid_of(name) == pid, f"{name} was started again")
        log = self.run(f"{MESHTRAIN} logs {name}")
        self.expect("went on" in log, f"its log is {log!r}")

    def may_protect(self) -> bool:
        """Whether systemd may lower oom_score_adj: it has CAP_SYS_RESOURCE, unless we lack it."""
        bounds = self.run("grep CapBnd /proc/1/status").split()[-1]
        return bool(int(bounds, 16) >> 24 & 1)

    def expect(self, holds: bool, told: str) -> None:
        if not holds:
            raise c.FailedError(told)


# --- the checks, in their order ------------------------------------------------------------------


def installs(host: Host) -> None:
    """`meshtrain install` puts both in place, keeps an edited file, and gets them ready."""
    host.run(f"{MESHTRAIN} install --systemd --master --worker")
    host.run("printf 'cpu_slots = 2\\n' >> /etc/meshtrain/worker.toml")
    host.run(f"{MESHTRAIN} install --systemd --master --start")
    host.wait_ready("master")
    joins(host)
    host.run(f"{MESHTRAIN} install --systemd --worker --start")
    host.expect(host.exists("/etc/meshtrain/worker.toml.new"), "no .new beside the edited file")
    host.expect("cpu_slots = 2" in host.run("cat /etc/meshtrain/worker.toml"), "edit was lost")
    for role in UNITS:
        host.wait_ready(role)
        host.expect(host.show(role, "StatusText") != "", f"the {role} has no status")
    host.wait_welcomed()
    complaints = host.run(
        "journalctl -b -o cat --no-pager | grep -iE 'unknown (key|lvalue)|failed to parse'",
        check=False,
    )
    host.expect(complaints == "", f"systemd complains: {complaints}")


def joins(host: Host) -> None:
    """The worker, and root as a person, get keys of their own by tokens from the master's host."""

    def token(kind: str) -> str:
        admin = f"runuser -u meshtrain-master -- {MESHTRAIN} --home {STATE}/master"
        return str(json.loads(host.run(f"{admin} token {kind} --json"))["token"])

    worker = f"runuser -u meshtrain-worker -- {MESHTRAIN} --home {STATE}/worker"
    host.run(f"{worker} join --node {token('')}")
    host.run(f"{MESHTRAIN} join {token('--person')}")


def keeps_strangers_out(host: Host) -> None:
    """Who is in the group drops files, whatever their umask; who isn't sees nothing."""
    host.run("useradd -m -G meshtrain ann; useradd -m bob")
    inbox = "/var/lib/meshtrain/master/inbox"
    text = json.dumps({"name": "dropped", "command": "echo from ann"})
    host.run(f"umask 077; echo '{text}' > {inbox}/ann.json", user="ann")
    host.wait_until("it was accepted", lambda: host.exists(f"{inbox}/accepted/ann.json"))
    host.wait_until("it ran", lambda: host.job("dropped")["state"] == "succeeded")
    # What is private keeps its mode when it is copied: it is refused, in words that ann can read.
    host.run(f"cd; umask 077; echo '{text}' > own.json; cp own.json {inbox}", user="ann")
    verdict = f"{inbox}/rejected/own.json.error.txt"
    host.wait_until("it was rejected", lambda: host.exists(verdict))
    host.expect("read" in host.run(f"cat {verdict}", user="ann"), "it doesn't say why")
    for path in (f"{inbox}/bob.json", "/var/lib/meshtrain/worker/x", "/var/lib/meshtrain/master/x"):
        host.run(f"! touch {path}", user="bob")
    host.run("! ls /var/lib/meshtrain/master/results", user="bob")
    host.run(f"! {MESHTRAIN} nodes", user="bob")
    host.run("ls /var/lib/meshtrain/master/results/dropped", user="ann")
    host.run("! ls /var/lib/meshtrain/master/state", user="ann")
    # A job is the worker's user: the master's state is closed to it.
    host.run("! ls /var/lib/meshtrain/master", user="meshtrain-worker")


def doctor_finds_nothing_broken(host: Host) -> None:
    """The doctor has warnings at most on a host that was just installed."""
    rows = json.loads(host.run(f"{MESHTRAIN} doctor --json"))
    host.expect({row["as"] for row in rows} == {"master", "worker"}, f"it examined {rows}")
    failed = [row for row in rows if row["level"] == "FAIL"]
    host.expect(failed == [], f"the doctor says {failed}")


def jobs_are_shut_in(host: Host) -> None:
    """A job has a cgroup of its own, none of the daemon's variables, and dies before it."""
    host.submit("shut-in")
    pid = host.pid_of("shut-in")
    group = host.run(f"cat /proc/{pid}/cgroup").strip().splitlines()[-1]
    host.expect(f"/{UNITS['worker']}/" in group, f"it is in {group}")
    variables = host.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "INVOCATION_ID"):
        host.expect(name not in variables, f"it has {name}")
    score = host.run(f"cat /proc/{pid}/oom_score_adj").strip()
    host.expect(score == "0", f"its oom_score_adj is {score}")
    daemon = host.run(f"cat /proc/{host.main_pid('worker')}/oom_score_adj").strip()
    if host.may_protect():
        host.expect(daemon == "-250", f"the daemon's is {daemon}")
    no_new = host.run(f"grep NoNewPrivs /proc/{pid}/status").split()[-1]
    host.expect(no_new == "1", "it may gain privileges")
    host.let_go("shut-in")


def worker_is_killed(host: Host) -> None:
    """kill -9 of the worker: systemd starts it again, the job goes on as the same process."""
    host.submit("killed")
    pid, daemon = host.pid_of("killed"), host.main_pid("worker")
    host.run(f"kill -9 {daemon}")
    host.wait_ready("worker", daemon)
    host.expect_untouched("killed", pid)


def true_exit_code_arrives(host: Host) -> None:
    """A job that ends while no daemon runs is told as it ended."""
    host.submit("coded", code=7)
    daemon = host.main_pid("worker")
    host.run(f"systemctl stop {UNITS['worker']}")
    host.expect(host.lives("coded"), "stopping the daemon ended its job")
    host.run("touch /tmp/coded.go")
    host.wait_until("it ends", lambda: not host.lives("coded"))
    host.run(f"systemctl start {UNITS['worker']}")
    host.wait_ready("worker", daemon)
    host.wait_until("it is told", lambda: host.job("coded")["state"] == "failed")
    host.expect("7" in json.dumps(host.job("coded")), f"told as {host.job('coded')}")


def master_is_killed(host: Host) -> None:
    """kill -9 of the master: it comes back, and the job that ran meanwhile counts."""
    host.submit("orphaned")
    pid, daemon = host.pid_of("orphaned"), host.main_pid("master")
    host.run(f"kill -9 {daemon}")
    host.wait_ready("master", daemon)
    host.expect_untouched("orphaned", pid)


def watchdog_bites(host: Host) -> None:
    """A daemon whose loop is stuck is ended and started again; its job goes on."""
    for unit in UNITS.values():
        folder = f"/etc/systemd/system/{unit}.d"
        text = f"[Service]\\nWatchdogSec={SHORT_WATCHDOG_S}\\nTimeoutAbortSec=5\\n"
        host.run(f"mkdir -p {folder}; printf '{text}' > {folder}/watchdog.conf")
    host.run(f"systemctl daemon-reload; systemctl restart {' '.join(UNITS.values())}")
    host.wait_welcomed()
    host.submit("watched")
    pid = host.pid_of("watched")
    for role in UNITS:
        daemon = host.main_pid(role)
        host.run(f"kill -STOP {daemon}")
        host.wait_ready(role, daemon)
        said = host.run(f"journalctl -b -u {UNITS[role]} -o cat --no-pager")
        host.expect("Watchdog timeout" in said, f"the {role} was restarted for another reason")
        host.expect("most recent call first" in said, f"the {role} didn't say where it was stuck")
    host.expect_untouched("watched", pid)
    for unit in UNITS.values():
        host.run(f"rm -r /etc/systemd/system/{unit}.d")
    host.run("systemctl daemon-reload")


def restart_keeps_jobs(host: Host) -> None:
    """`systemctl restart` with a job running: the same process goes on."""
    host.submit("restarted")
    pid = host.pid_of("restarted")
    for role, unit in UNITS.items():
        daemon = host.main_pid(role)
        host.run(f"systemctl restart {unit}")
        host.wait_ready(role, daemon)
    host.expect_untouched("restarted", pid)


def upgrade_keeps_jobs(host: Host) -> None:
    """A newer meshtrain is installed and taken into use with a job running."""
    host.submit("upgraded")
    pid = host.pid_of("upgraded")
    pip = "/opt/meshtrain/bin/pip install -q --no-index --find-links /wheels"
    host.run(f"{pip} 'meshtrain[plots]=={NEW}'")
    host.run(f"{MESHTRAIN} install --systemd --master --worker --start")
    for role in UNITS:
        host.wait_ready(role)
    host.wait_welcomed()
    (node,) = json.loads(host.run(f"{MESHTRAIN} nodes --json"))
    host.expect(node["spec"]["version"] == NEW, f"the worker is {node['spec']['version']}")
    host.expect_untouched("upgraded", pid)


def power_off_hands_back(host: Host) -> None:
    """The host goes down with a job running: after the boot it runs again, and ends well."""
    host.submit("rebooted")
    host.container.power_off()
    host.container.boot()
    for role in UNITS:
        host.wait_ready(role)
    # /tmp is as it was: the pid file is of the first attempt until the second has begun.
    host.wait_until("the job runs again", lambda: host.job("rebooted")["state"] == "running")
    job = host.let_go("rebooted")
    host.expect(job["state"] == "succeeded", f"it ended as {job}")


def leaves_nothing(host: Host) -> None:
    """Stopped and uninstalled: no process, no unit, no cgroup is left; settings and state are."""
    host.run("systemctl stop meshtrain.target")
    for role in UNITS:
        host.wait_until(f"the {role} is stopped", partial(host.is_stopped, role))
    left = host.run("ps -u meshtrain-master,meshtrain-worker -o pid,args --no-headers", check=False)
    host.expect(left.strip() == "", f"left over: {left}")
    host.run(f"{MESHTRAIN} install --systemd --master --worker --uninstall")
    found = host.run(
        "find /usr/local/lib/systemd /usr/local/lib/tmpfiles.d -type f -name 'mesh*'", check=False
    )
    host.expect(found == "", f"left over: {found}")
    known = host.run("systemctl list-units --all --no-legend 'meshtrain*'")
    host.expect("meshtrain" not in known, f"systemd still knows {known}")
    groups = host.run("find /sys/fs/cgroup -type d -name 'meshtrain*'")
    host.expect(groups == "", f"left over: {groups}")
    host.expect(host.exists("/etc/meshtrain/worker.toml"), "settings were removed")
    host.expect(host.exists("/var/lib/meshtrain/master/state"), "state was removed")


CHECKS: list[Callable[[Host], None]] = [
    installs,
    keeps_strangers_out,
    doctor_finds_nothing_broken,
    jobs_are_shut_in,
    worker_is_killed,
    true_exit_code_arrives,
    master_is_killed,
    restart_keeps_jobs,
    watchdog_bites,
    upgrade_keeps_jobs,
    power_off_hands_back,
    leaves_nothing,
]


def main(wanted: list[str]) -> int:
    """Runs the checks, or those named after `installs`; returns the exit code."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    reason = c.why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    cache = c.cache_folder()
    began_s = time.monotonic()
    print("making the base system and the wheels")
    base = c.make_base(cache)
    for version in (OLD, NEW):
        wheels = c.make_wheels(cache, version)
    failed = 0
    with c.Container(base, wheels) as container:
        container.install(OLD)
        container.boot()
        host = Host(container)
        print(f"booted, {time.monotonic() - began_s:.0f} s")
        for check in CHECKS:
            if wanted and check is not installs and check.__name__ not in wanted:
                continue
            check_began_s = time.monotonic()
            name = re.sub("_", " ", check.__name__)
            try:
                check(host)
            except Exception as error:
                failed += 1
                print(f"FAIL  {name}: {error}")
                print(host.run("journalctl -b -o short --no-pager -n 60", check=False))
                if check is installs:
                    break
                # What still waits for its sign must not hold up the rest.
                host.run(f"{MESHTRAIN} cancel '*'", check=False)
            else:
                print(f"ok    {name}, {time.monotonic() - check_began_s:.1f} s")
    print(f"{failed} failed, {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
