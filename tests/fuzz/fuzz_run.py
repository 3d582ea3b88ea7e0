"""Runs the fuzz targets with a coverage-guided fuzzer (atheris), one after the other.

    python tests/fuzz/fuzz_run.py [--runs N] [--seed S] [TARGET ...]

N inputs are shared out among the targets. An input that raises, takes longer than
a second of the processor or makes memory grow ends the run; it is kept in
tests/fuzz/corpus, where `make test` runs it from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NICE = 19
RSS_LIMIT_MB = 2048
HANG_S = 60
"""Of the clock on the wall, for an input that never ends."""
LEARNT = ROOT / ".fuzz"
"""Inputs that reached something new, kept from run to run."""

sys.path[:0] = [str(HERE), str(ROOT / "tests" / "unit"), str(ROOT), str(ROOT / "daemon")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what reads bytes from outside.")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs over all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cover", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    if arguments.child:
        return fuzz(arguments.child, arguments.runs, arguments.seed)
    if arguments.cover:
        return cover(arguments.cover)
    return run_all(arguments.targets, arguments.runs, arguments.seed)


def run_all(names: list[str], runs: int, seed: int) -> int:
    from fuzz_all import TARGETS

    unknown = set(names) - {target.name for target in TARGETS}
    if unknown:
        print(f"no target is called {', '.join(unknown)}; known: {[t.name for t in TARGETS]}")
        return 2
    chosen = [target for target in TARGETS if not names or target.name in names]
    whole = sum(target.share for target in chosen)
    os.nice(NICE)
    print(f"{'target':10} {'inputs':>9} {'seconds':>8} {'per s':>7} {'edges':>6} {'lines':>12}")
    failed = total = 0
    for target in chosen:
        count = max(round(runs * target.share / whole), 100)
        began_s = time.monotonic()
        child = _again("--child", target.name, "--runs", str(count), "--seed", str(seed))
        took_s = time.monotonic() - began_s
        told = child.stdout
        done = re.search(r"Done (\d+) runs", told)
        edges = re.findall(r"cov: (\d+)", told)
        if child.returncode or not done:
            failed += 1
            print(told[max(told.find("=== Uncaught"), len(told) - 20_000) :][:4000])
            print(
                f"{target.name}: went wrong; its input is kept in {HERE / 'corpus' / target.name}"
            )
            continue
        total += int(done[1])
        lines = _again("--cover", target.name).stdout.strip()
        print(
            f"{target.name:10} {int(done[1]):9,} {took_s:8.1f} {int(done[1]) / took_s:7.0f} "
            f"{edges[-1] if edges else '-':>6} {lines:>12}  "
            f"{'; '.join(re.findall(r'slowest input.*', told))}",
            flush=True,
        )
    print(f"{total:,} inputs, {failed} targets went wrong")
    return 1 if failed else 0


def _again(*arguments: str) -> subprocess.CompletedProcess[str]:
    """This program once more, in a process that may die."""
    from fuzz_scratch import SCRATCH_VARIABLE, new_scratch

    scratch = new_scratch()
    try:
        return subprocess.run(
            [sys.executable, __file__, *arguments],
            cwd=ROOT,
            env={**os.environ, SCRATCH_VARIABLE: str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fuzz(name: str, runs: int, seed: int) -> int:
    """One target, in this process; never returns from the fuzzer."""
    import atheris

    with atheris.instrument_imports(include=["meshtrain", "meshtrain_daemon"]):
        from fuzz_all import BY_NAME
        from fuzz_base import CORPUS, Watched
    from fuzz_scratch import scratch_folder

    target = BY_NAME[name]
    learnt = LEARNT / name
    seeds = scratch_folder() / "seeds"
    kept = CORPUS / name
    for folder in (learnt, seeds, kept):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (seeds / f"{number:04d}").write_bytes(data)
    options = []
    if target.words:
        words = scratch_folder() / "words"
        lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        words.write_text("".join(f'"{line}"\n' for line in lines))
        options.append(f"-dict={words}")
    atheris.Setup(
        [
            name,
            str(learnt),
            str(seeds),
            str(kept),
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={target.size_max}",
            f"-timeout={HANG_S}",
            f"-rss_limit_mb={RSS_LIMIT_MB}",
            f"-artifact_prefix={kept}/",
            *options,
        ],
        Watched(target, runs),
    )
    atheris.Fuzz()
    return 0


def cover(name: str) -> int:
    """Which lines of a target's modules the seeds and what was learnt reach, by a trace."""
    import importlib

    from fuzz_all import BY_NAME

    target = BY_NAME[name]
    files = {}
    for module in target.modules:
        file = importlib.import_module(module).__file__
        assert file is not None
        files[file] = _lines_of(compile(Path(file).read_text(), file, "exec"))
    seen: dict[str, set[int]] = {file: set() for file in files}

    def trace(frame: FrameType, event: str, value: Any) -> Any:
        lines = seen.get(frame.f_code.co_filename)
        if lines is None:
            return None
        lines.add(frame.f_lineno)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    inputs = [*target.seeds(), *(path.read_bytes() for path in (LEARNT / name).glob("*"))]
    try:
        for data in inputs:
            target.one(data)
    finally:
        sys.settrace(None)
    reached = sum(len(lines & seen[file]) for file, lines in files.items())
    print(f"{reached}/{sum(map(len, files.values()))}")
    return 0


def _lines_of(code: CodeType) -> set[int]:
    """The lines of all functions below, without those that run at the import."""
    lines: set[int] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x2:
                lines |= {line for _, _, line in constant.co_lines() if line} - {
                    constant.co_firstlineno
                }
            lines |= _lines_of(constant)
    return lines


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
