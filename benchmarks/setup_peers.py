"""Makes `.peers`, the environment of the systems that the benchmarks measure beside meshtrain.

    python benchmarks/setup_peers.py

It is made anew when the pins changed, and left alone when they didn't.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"


def install(target: Path) -> bool:
    """Installs the pinned peers into `target`; returns False when they were there already."""
    pins = (PEERS / "requirements.txt").read_text() + (PEERS / "constraints.txt").read_text()
    stamp = target / "pins.txt"
    if stamp.exists() and stamp.read_text() == pins:
        return False
    venv.create(target, clear=True, with_pip=True)
    subprocess.run(
        [
            *(str(target / "bin" / "python"), "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--requirement", str(PEERS / "requirements.txt")),
            *("--constraint", str(PEERS / "constraints.txt")),
        ],
        check=True,
    )
    stamp.write_text(pins)
    return True


def main() -> int:
    """Installs the peers and says what is still missing; the exit code is 1 if anything is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", type=Path, default=ROOT / ".peers", help="where to put it")
    target = parser.parse_args().target
    try:
        made = install(target)
    except subprocess.CalledProcessError as error:
        print(f"pip couldn't install the peers (exit code {error.returncode})", file=sys.stderr)
        return 1
    print(f"{target}: {'installed' if made else 'was up to date'}")
    if shutil.which("redis-server") is None:
        print(
            "redis-server is missing; on Debian: apt-get install -y redis-server", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
