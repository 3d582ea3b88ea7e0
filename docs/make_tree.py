"""Writes the tree of files into the README, a line each, from the files' own first lines.

python docs/make_tree.py            writes it
python docs/make_tree.py --check    exits with 1 when the README's is out of date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN = (
    "<!-- tree: made by docs/make_tree.py -->\n<details>\n"
    "<summary>Every file, a line each</summary>\n\n```\n"
)
END = "```\n\n</details>\n<!-- end of the tree -->"
FOLDERS = ("meshtrain", "daemon", "tui", "benchmarks", "docs")
WIDTH = 34
#: What has no first line of its own to be taken from.
OTHERS = {
    "configs/master.toml": "every setting of the master, with its default",
    "configs/worker.toml": "every setting of a worker, with its default",
    "configs/examples/": "sweeps to start from; few_shot/ runs a program of its own",
    "tests/unit/ property/ conformance/": "fast: pure parts, properties, both stores by one suite",
    "tests/sim/": "the scheduler and agents on a virtual clock, under bad weather",
    "tests/e2e/ tui/": "real processes on loopback; the dashboard under a pilot",
    "tests/rules/": "the project's own rules, as tests",
    "constraints.txt": "every version, pinned",
    "Makefile  .ci/run": "the commands; what must pass before a change lands",
}


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = text.split("\n\n")[0].replace("\n", " ").strip()
    sentence = line.split(". ")[0].split(": `")[0]
    return sentence.rstrip(".:").replace("`", "")


def tree() -> str:
    """The whole tree as text."""
    lines: list[str] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py"), key=_place):
            if not path.read_text(encoding="utf-8").strip():
                continue
            name = path.relative_to(ROOT)
            depth = len(name.parts) - 1
            _open_folders(lines, name)
            lines.append(_line("  " * depth + name.name, first_line(path)))
    lines.extend(_line(name, told) for name, told in OTHERS.items())
    return "\n".join(lines) + "\n"


def _place(path: Path) -> tuple[object, ...]:
    """Files before folders, then by name."""
    parts = path.relative_to(ROOT).parts
    return tuple((0 if i == len(parts) - 1 else 1, part) for i, part in enumerate(parts))


def _open_folders(lines: list[str], name: Path) -> None:
    for depth in range(1, len(name.parts)):
        folder = "/".join(name.parts[:depth]) + "/"
        shown = "  " * (depth - 1) + name.parts[depth - 1] + "/"
        if folder not in _opened:
            _opened.add(folder)
            lines.append(shown)


_opened: set[str] = set()


def _line(name: str, told: str) -> str:
    return f"{name.ljust(WIDTH)}  {told}" if told else name


def main() -> int:
    """Write or check; returns the exit code."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin = text.index(BEGIN) + len(BEGIN)
    end = text.index(END)
    made = text[:begin] + tree() + text[end:]
    if "--check" in sys.argv[1:]:
        if made != text:
            print("the tree in README.md is out of date: python docs/make_tree.py")
        return int(made != text)
    readme.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
