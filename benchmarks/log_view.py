"""Opens a very long log in the dashboard: how soon it is seen, searched, and what it costs.

    python benchmarks/log_view.py [--lines 10000000] [--json FILE]

A real mesh on loopback runs a job that prints the lines; they travel to the master as
any log does. Then the screen of that job is opened, in a process of its own and without
a terminal, and driven by keys; each time is from the key to the drawn screen. Beside it,
in the same run: `less` in a pseudo-terminal, on the same file on the master's disk, with
line numbers switched off as most who read logs do; a reader that needs the file here.

first paint   the screen is opened → the last lines are drawn
to start/end  g, G
to a hit      a search from the first line for one in the line at nine tenths
counted       opened → every line has a number; nothing waits for that
key           page down in the middle → drawn, median and worst of 200, and the CPU of one
memory        resident at most, of the whole process, and what the log added to it

Exit code 0: all was measured. 1: the mesh or a peer failed. 2: wrong use.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import platform
import pty
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "daemon"), str(ROOT / "tui")]

COLUMNS, ROWS = 120, 40
KEYS = 200
PATIENCE_S = 300.0
WORDS = "loss 0.123456 accuracy 0.9876 lr 0.001"
NEEDLE = "gradient overflow, step skipped"


def needle_line(lines: int) -> int:
    """The line that is searched for, from 1."""
    return lines * 9 // 10


def memory_max_bytes(pid: int) -> int:
    """What a process has had in memory at most."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


# --- the dashboard, in a process of its own ----------------------------------------------


async def look(address: str, job_id: str, lines: int) -> dict[str, Any]:
    """Open the screen of a job, and drive it by keys."""
    from textual import events
    from textual.app import App
    from textual.widgets import Input

    from meshtrain.net.zmq_client import MasterClient
    from meshtrain_tui.asking import row_of
    from meshtrain_tui.standing_line import StandingLine
    from meshtrain_tui.widgets.job_body import JobBody
    from meshtrain_tui.widgets.log_pane import LogPane
    from meshtrain_tui.widgets.log_view import LogView

    figures: dict[str, Any] = {}
    with StandingLine(lambda: MasterClient(address)) as line:
        app: App[None] = App()
        async with app.run_test(size=(COLUMNS, ROWS)) as pilot:
            await pilot.pause()
            figures["before_bytes"] = memory_max_bytes(os.getpid())

            def rows() -> list[str]:
                return [strip.text for strip in app.screen._compositor.render_strips()]

            async def until(shown: Callable[[], bool], begun_s: float) -> float:
                while not shown():
                    if time.perf_counter() - begun_s > PATIENCE_S:
                        raise SystemExit("waited too long for the screen:\n" + "\n".join(rows()))
                    await asyncio.sleep(0.001)
                return time.perf_counter() - begun_s

            async def timed(act: Callable[[], Awaitable[object]], part: str) -> float:
                begun_s = time.perf_counter()
                await act()
                return await until(lambda: any(part in row for row in rows()), begun_s)

            async def open_screen() -> None:
                await app.mount(JobBody(job_id, row_of(line.ask)))

            def press(key: str, typed: str = "") -> Callable[[], Awaitable[object]]:
                """A key as the terminal's driver sends it; before it, a text in the prompt."""

                async def act() -> None:
                    if typed:
                        app.screen.query_one(Input).value = typed
                    app.post_message(events.Key(key, key if len(key) == 1 else None))

                return act

            async def ask_for(key: str, text: str, part: str) -> float:
                """From Enter on; the prompt is opened before."""
                await pilot.press(key)
                return await timed(press("enter", text), part)

            opened_s = time.perf_counter()
            figures["first_paint_s"] = await timed(open_screen, f"step {lines:08d}")
            pane, view = app.screen.query_one(LogPane), app.screen.query_one(LogView)
            figures["to_start_s"] = await timed(press("g"), f"step {1:08d}")
            figures["to_end_s"] = await timed(press("G"), f"step {lines:08d}")
            figures["counted_s"] = await until(lambda: pane._lines == lines, opened_s)
            jump = f"step {lines // 2:08d}"
            figures["to_line_s"] = await ask_for("at", str(lines // 2), jump)
            for name, text in (
                ("to_hit_s", NEEDLE),
                ("to_regex_hit_s", r"overflow, \w+ sk[a-z]pped$"),
            ):
                await timed(press("g"), f"step {1:08d}")
                figures[name] = await ask_for("slash", text, f" {NEEDLE}")
            await pilot.press("at", *"50%", "enter")
            repaints_s = []
            cpu_s = time.process_time()
            for _ in range(KEYS):
                before = view.shown[0].place
                begun_s = time.perf_counter()
                await press("pagedown")()
                await until(lambda b=before: view.shown[0].place != b, begun_s)
                rows()
                repaints_s.append(time.perf_counter() - begun_s)
            figures["key_cpu_s"] = (time.process_time() - cpu_s) / KEYS
            figures["key_median_s"] = statistics.median(repaints_s)
            figures["key_max_s"] = max(repaints_s)
        figures["memory_bytes"] = memory_max_bytes(os.getpid())
    return figures


# --- less ---------------------------------------------------------------------------------


def less(path: Path, lines: int) -> dict[str, Any]:
    """The same with less, as far as it has it."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm", "LESSSECURE": "1", "LESS": "-nG"}
        os.execvp("less", ["less", "-nG", str(path)])
    try:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        begun_s = time.perf_counter()

        def until(part: str, since_s: float) -> float:
            seen = b""
            while part.encode() not in seen:
                if time.perf_counter() - since_s > PATIENCE_S:
                    raise SystemExit(f"less didn't show {part!r} in {PATIENCE_S:.0f} s")
                if select.select([fd], [], [], 0.1)[0]:
                    # Only what it draws last is looked for: its screen is short.
                    seen = (seen + os.read(fd, 65536))[-65536:]
            return time.perf_counter() - since_s

        def press(keys: str, part: str) -> float:
            since_s = time.perf_counter()
            os.write(fd, keys.encode())
            return until(part, since_s)

        figures: dict[str, Any] = {"first_paint_s": until(f"step {1:08d}", begun_s)}
        figures["to_end_s"] = press("G", f"step {lines:08d}")
        figures["to_start_s"] = press("g", f"step {1:08d}")
        figures["to_hit_s"] = press(f"/{NEEDLE}\n", f" {NEEDLE}")
        figures["to_start_s"] = press("g", f"step {1:08d}")
        figures["to_regex_hit_s"] = press("/overflow, [a-z]* sk[a-z]pped$\n", f" {NEEDLE}")
        figures["to_line_s"] = press(f"{lines // 2}g", f"step {lines // 2:08d}")
        figures["memory_bytes"] = memory_max_bytes(pid)
        os.write(fd, b"q")
        return figures
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


# --- the mesh ----------------------------------------------------------------------------


def measure(lines: int, folder: Path) -> dict[str, Any]:
    """A mesh with one job that prints so many lines; then both readers, one after the other."""
    from meshtrain.cli.context import act, ask
    from meshtrain.cli.local_mesh import LocalMesh
    from meshtrain.ids import new_id
    from meshtrain.net.zmq_client import MasterClient
    from meshtrain.wire.messages import Submit

    script = folder / "print.sh"
    script.write_text(
        "awk 'BEGIN { for (i = 1; i <= "
        f'{lines}; i++) printf "step %08d {WORDS}%s\\n", i, '
        f'(i == {needle_line(lines)} ? " {NEEDLE}" : "") }}\'\n'
    )
    with LocalMesh(folder / "mesh", workers=1) as mesh, MasterClient(mesh.address, 60.0) as client:
        begun_s = time.monotonic()
        job_file = {"name": "printing", "command": f"sh {script}"}
        data = json.dumps(job_file).encode()
        (sweep_id, *_) = act(client, Submit(new_id("submit"), "printing.json", data)).done
        while True:
            mesh.check()
            (job,) = ask(client, "jobs", [sweep_id]).rows
            (row,) = ask(client, "log", [job["job_id"]], limit=1).rows
            if row["ended"] and job["state"] == "succeeded":
                break
            if job["state"] in ("failed", "cancelled"):
                raise SystemExit(f"the job that prints {job['state']}: {job['failure']}")
            if time.monotonic() - begun_s > 10 * PATIENCE_S:
                raise SystemExit("the log took too long to come to the master")
            time.sleep(0.2)
        figures: dict[str, Any] = {
            "lines": lines,
            "size_bytes": row["size_bytes"],
            "stored_s": time.monotonic() - begun_s,
        }
        told = subprocess.run(
            [sys.executable, __file__, "--look", mesh.address, job["job_id"], str(lines)],
            stdout=subprocess.PIPE,
            timeout=3 * PATIENCE_S,
            check=True,
        )
        figures["meshtrain top"] = json.loads(told.stdout)
        (log,) = (folder / "mesh").rglob(f"logs/{job['job_id']}/*.log")
        if shutil.which("less"):
            figures["less"] = less(log, lines)
        else:
            print("less is not installed: apt-get install -y less", file=sys.stderr)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures of one run, as they are printed."""
    readers = [name for name in ("meshtrain top", "less") if name in figures]
    rows = [["", *readers]]
    for key, words in (
        ("first_paint_s", "first paint"),
        ("to_start_s", "to the start"),
        ("to_end_s", "to the end"),
        ("counted_s", "every line counted"),
        ("to_line_s", "to a line by number"),
        ("to_hit_s", "to a hit"),
        ("to_regex_hit_s", "to a hit of a regex"),
        ("key_median_s", "page down, median"),
        ("key_max_s", "page down, worst"),
        ("key_cpu_s", "page down, CPU"),
    ):
        cells = [figures[name].get(key) for name in readers]
        rows.append([words, *("–" if cell is None else f"{cell * 1000:,.0f} ms" for cell in cells)])
    own = figures["meshtrain top"]
    added = own["memory_bytes"] - own["before_bytes"]
    memory = [f"{figures[name]['memory_bytes'] / 1e6:,.0f} MB" for name in readers]
    rows.append(["memory at most", *memory])
    rows.append(["of it for the log", f"{added / 1e6:,.0f} MB", *("–" for _ in readers[1:])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path, help="keep all figures in this file")
    parser.add_argument("--look", nargs=3, metavar=("ADDRESS", "JOB", "LINES"), help="one part")
    given = parser.parse_args()
    if given.look:
        address, job_id, lines = given.look
        print(json.dumps(asyncio.run(look(address, job_id, int(lines)))))
        return
    if not 1000 <= given.lines <= 99_999_999:
        parser.error("--lines: from 1,000 to 99,999,999")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given.lines, Path(folder))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{figures['lines']:,} lines, {figures['size_bytes'] / 1e6:,.0f} MB, printed and stored "
        f"in {figures['stored_s']:.1f} s"
    )
    print(table(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
