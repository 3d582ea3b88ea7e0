"""A matrix of parameters, and the cells that it expands to.

    matrix:
      lr: [0.001, 0.01]
      fold: {range: [0, 5, 1]}             # 0 1 2 3 4: as Python's range, 5 is left out
      exclude: [{lr: 0.01, fold: 4}]       # cells that match every pair given go
      include: [{lr: 0.1}]                 # values off the lists; axes not named run over theirs

Cells come in the order written, the last axis fastest, then the included ones.
With include alone, each entry is one cell, and all entries name the same axes.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import xxhash

from meshtrain.errors import UserError
from meshtrain.spec.kinds import check_scalar, is_number
from meshtrain.spec.problems import Path, hint, shown, shown_name

CELLS_MAX_DEFAULT = 100_000
AXES_MAX = 32
EDITS_MAX = 1000
"""How many entries exclude and include may each have."""
VALUE_TEXT_LEN_MAX = 64
NAME_LEN_MAX = 200
"""A cell's name is part of a folder's name, and file systems stop at 255 bytes."""

Scalar = str | int | float | bool
Report = Callable[[str, Path], None]
AxisCheck = Callable[[str], Callable[[Any], Any]]

_ODD = re.compile(r"[^A-Za-z0-9._+-]")


class Axis(msgspec.Struct, frozen=True):
    """One parameter that varies, and its values in the order written."""

    name: str
    values: tuple[Scalar, ...]


class Matrix(msgspec.Struct, frozen=True):
    """A matrix that was checked; `cells` never fails on it."""

    axes: tuple[Axis, ...] = ()
    exclude: tuple[dict[str, Scalar], ...] = ()
    include: tuple[dict[str, Scalar], ...] = ()

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The names of the axes, in the order written."""
        if self.axes:
            return tuple(axis.name for axis in self.axes)
        return tuple(self.include[0]) if self.include else ()

    def values_of(self, axis_name: str) -> list[Scalar]:
        """Every value that some cell may have on this axis."""
        values = [value for axis in self.axes if axis.name == axis_name for value in axis.values]
        return values + [entry[axis_name] for entry in self.include if axis_name in entry]


class Cell(NamedTuple):
    """One point of a matrix: its part of a job's name, and its values."""

    name: str
    values: dict[str, Scalar]


def number_text(value: float) -> str:
    """A number as short as it can be written: `0.25`, `64`, `1e-5`."""
    if isinstance(value, int):
        return str(value)
    if value == int(value) and abs(value) < 1e16:
        return str(int(value))
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def scalar_text(value: Scalar) -> str:
    """A value as a person would type it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return number_text(value)


def safe_text(text: str) -> str:
    """`text` with odd characters as %XX; different texts never give the same."""
    safe = _ODD.sub(_percent, text) if text else "%"
    if len(safe) > VALUE_TEXT_LEN_MAX:
        return f"{safe[: VALUE_TEXT_LEN_MAX - 17]}~{xxhash.xxh3_64_hexdigest(text.encode())}"
    return safe


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def point_name(values: Mapping[str, Scalar]) -> str:
    """The readable name of a point: `target_batch_pct=0.25,fold=1`."""
    return _fit(
        ",".join(f"{axis}={safe_text(scalar_text(value))}" for axis, value in values.items())
    )


def _fit(name: str) -> str:
    if len(name) <= NAME_LEN_MAX:
        return name
    return f"{name[: NAME_LEN_MAX - 17]}~{xxhash.xxh3_64_hexdigest(name.encode())}"


def cells_count_max(matrix: Matrix) -> int:
    """How many cells there are before exclude; computed without making any."""
    count = math.prod(len(axis.values) for axis in matrix.axes) if matrix.axes else 0
    for entry in matrix.include:
        count += math.prod(len(axis.values) for axis in matrix.axes if axis.name not in entry)
    return count if matrix.axes or matrix.include else 1


def cells(matrix: Matrix, *, cells_max: int = CELLS_MAX_DEFAULT) -> list[Cell]:
    """All cells, in a stable order; a matrix of nothing is the one cell `1`.

    Raises UserError, before anything is made, when there would be more than `cells_max`.
    """
    count = cells_count_max(matrix)
    if count > cells_max:
        raise UserError(too_many_cells(count, cells_max))
    if not matrix.axes and not matrix.include:
        return [Cell("1", {})]
    found = list(_lattice(matrix))
    if matrix.include:
        found += _included(matrix, {cell.name for cell in found})
    return found


def too_many_cells(count: int, cells_max: int) -> str:
    """What to say of a matrix that is too large."""
    return (
        f"{count:,} cells, and the limit is {cells_max:,}; "
        "split the sweep, or raise cells_max in master.toml"
    )


def _lattice(matrix: Matrix) -> Iterator[Cell]:
    if not matrix.axes:
        return
    names = [axis.name for axis in matrix.axes]
    dropped = _dropped(matrix)
    texts = [
        [f"{axis.name}={safe_text(scalar_text(value))}" for value in axis.values]
        for axis in matrix.axes
    ]
    values = itertools.product(*(axis.values for axis in matrix.axes))
    for point, parts in zip(values, itertools.product(*texts), strict=True):
        if dropped and any(_picked(parts, places) in entries for places, entries in dropped):
            continue
        yield Cell(_fit(",".join(parts)), dict(zip(names, point, strict=True)))


Dropped = list[tuple[tuple[int, ...], set[tuple[str, ...]]]]


def _dropped(matrix: Matrix) -> Dropped:
    """Excluded points, grouped by the axes they name: one look-up per group and cell."""
    place = {axis.name: index for index, axis in enumerate(matrix.axes)}
    groups: dict[tuple[int, ...], set[tuple[str, ...]]] = {}
    for entry in matrix.exclude:
        pairs = sorted(
            (place[name], f"{name}={safe_text(scalar_text(value))}")
            for name, value in entry.items()
        )
        key = tuple(index for index, _ in pairs)
        groups.setdefault(key, set()).add(tuple(text for _, text in pairs))
    return list(groups.items())


def _picked(parts: Sequence[str], places: tuple[int, ...]) -> tuple[str, ...]:
    return tuple([parts[place] for place in places])


def _included(matrix: Matrix, seen: set[str]) -> Iterator[Cell]:
    for entry in matrix.include:
        axes = [
            [
                (axis.name, value)
                for value in ((entry[axis.name],) if axis.name in entry else axis.values)
            ]
            for axis in matrix.axes
        ] or [[pair] for pair in entry.items()]
        if not matrix.axes:
            order = matrix.axis_names
            axes.sort(key=lambda pairs: order.index(pairs[0][0]))
        for point in itertools.product(*axes):
            values = dict(point)
            name = point_name(values)
            if name not in seen:
                seen.add(name)
                yield Cell(name, values)


def read_matrix(
    raw: Any, axis_check: AxisCheck, report: Report, *, cells_max: int = CELLS_MAX_DEFAULT
) -> Matrix:
    """A matrix from a file's tree; every problem goes to `report`, with its path.

    `axis_check(name)` returns the check for the axis's values, or raises
    ValueError when no axis may have that name.
    """
    if raw is None:
        return Matrix()
    if not isinstance(raw, dict):
        report(f"expected axes with lists of values, got {shown(raw)}", ("matrix",))
        return Matrix()
    return _Reading(axis_check, report).read(raw, cells_max)


class _Reading:
    def __init__(self, axis_check: AxisCheck, report: Report) -> None:
        self._axis_check = axis_check
        self._report = report
        self._reported = False

    def read(self, raw: dict[str, Any], cells_max: int) -> Matrix:
        axes: dict[str, Axis] = {}
        if len(raw) > AXES_MAX + 2:
            self._tell(f"{len(raw)} axes; at most {AXES_MAX}", ("matrix",))
            return Matrix()
        for name, written in raw.items():
            if name in ("exclude", "include"):
                continue
            values = self._axis(name, written, ("matrix", name), cells_max)
            if values:
                axes[name] = Axis(name, tuple(values))
        complete = not self._reported
        exclude = self._entries(raw, "exclude", set(raw), axes)
        include = self._entries(raw, "include", set(raw), axes)
        if complete:
            self._check_exclude(exclude, axes)
        if not axes:
            self._check_include_alone(include)
        matrix = Matrix(tuple(axes.values()), tuple(exclude), tuple(include))
        count = cells_count_max(matrix)
        if count > cells_max:
            self._tell(too_many_cells(count, cells_max), ("matrix",))
            return Matrix()
        if not self._reported and not cells(matrix, cells_max=cells_max):
            self._tell("every cell is excluded: nothing is left to run", ("matrix", "exclude"))
        return matrix

    def _tell(self, text: str, path: Path) -> None:
        self._reported = True
        self._report(text, path)

    def _axis(self, name: str, written: Any, path: Path, cells_max: int) -> list[Scalar]:
        try:
            check = self._axis_check(name)
        except ValueError as error:
            self._tell(str(error), path)
            return []
        if isinstance(written, dict):
            return self._range(written, check, path, cells_max)
        if not isinstance(written, list):
            self._tell(
                f"expected a list of values, got {shown(written)}; write [{_as_written(written)}]",
                path,
            )
            return []
        if not written:
            self._tell("the list is empty: an axis needs a value", path)
        values: list[Scalar] = []
        first_at: dict[str, int] = {}
        for index, value in enumerate(written):
            checked = self._value(value, check, (*path, index))
            if checked is None:
                continue
            earlier = first_at.setdefault(scalar_text(checked), index)
            if earlier != index:
                self._tell(
                    f"{shown(value)} is the same as [{earlier}]; give each value once",
                    (*path, index),
                )
            values.append(checked)
        return values

    def _value(self, value: Any, check: Callable[[Any], Any], path: Path) -> Scalar | None:
        try:
            check_scalar(value)
            check(value)
        except ValueError as error:
            self._tell(str(error), path)
            return None
        kept: Scalar = value
        return kept

    def _range(
        self, written: dict[str, Any], check: Callable[[Any], Any], path: Path, cells_max: int
    ) -> list[Scalar]:
        bounds = written.get("range")
        if set(written) != {"range"}:
            wrong = next((key for key in written if key != "range"), "")
            self._tell(
                f"expected {{range: [start, stop, step]}}{hint(wrong, ['range'])}",
                (*path, wrong) if wrong else path,
            )
            return []
        at = (*path, "range")
        if (
            not isinstance(bounds, list)
            or len(bounds) not in (2, 3)
            or not all(is_number(bound) for bound in bounds)
        ):
            self._tell("expected [start, stop, step]: two or three numbers", at)
            return []
        start, stop, step = (Decimal(repr(bound)) for bound in (*bounds, 1)[:3])
        if step == 0:
            self._tell("a step of 0 never arrives", (*at, 2))
            return []
        count = max(0, math.ceil((stop - start) / step))
        if count == 0:
            self._tell("the range is empty; the stop is left out, as in Python", at)
            return []
        if count > cells_max:
            self._tell(too_many_cells(count, cells_max), at)
            return []
        integral = not any(isinstance(bound, float) for bound in bounds)
        values: list[Scalar] = []
        for index in range(count):
            exact = start + index * step
            checked = self._value(int(exact) if integral else float(exact), check, at)
            if checked is None:
                return []
            values.append(checked)
        return values

    def _entries(
        self, raw: dict[str, Any], key: str, known: set[str], axes: dict[str, Axis]
    ) -> list[dict[str, Scalar]]:
        written = raw.get(key)
        if written is None:
            return []
        path: Path = ("matrix", key)
        if not isinstance(written, list) or len(written) > EDITS_MAX:
            self._tell(f"expected a list of at most {EDITS_MAX} cells, got {shown(written)}", path)
            return []
        names = known - {"exclude", "include"}
        entries: list[dict[str, Scalar]] = []
        for index, cell in enumerate(written):
            entry = self._entry(cell, key, (*path, index), names)
            if entry:
                entries.append(entry)
        return [entry for entry in entries if not axes or set(entry) <= set(axes)]

    def _entry(self, cell: Any, key: str, path: Path, names: set[str]) -> dict[str, Scalar]:
        if not isinstance(cell, dict) or not cell:
            self._tell(f"expected a cell such as {{fold: 0}}, got {shown(cell)}", path)
            return {}
        entry: dict[str, Scalar] = {}
        for name, value in cell.items():
            at = (*path, name)
            if name not in names and (names or key == "exclude"):
                self._tell(f"no axis of the matrix{hint(name, names)}", at)
                continue
            try:
                check = self._axis_check(name)
            except ValueError as error:
                self._tell(str(error), at)
                continue
            checked = self._value(value, check, at)
            if checked is not None:
                entry[name] = checked
        return entry if len(entry) == len(cell) else {}

    def _check_exclude(self, exclude: list[dict[str, Scalar]], axes: dict[str, Axis]) -> None:
        texts = {name: {scalar_text(value) for value in axis.values} for name, axis in axes.items()}
        for index, entry in enumerate(exclude):
            for name, value in entry.items():
                if name in texts and scalar_text(value) not in texts[name]:
                    self._tell(
                        f"{shown(value)} is no value of this axis: nothing would be excluded",
                        ("matrix", "exclude", index, name),
                    )

    def _check_include_alone(self, include: list[dict[str, Scalar]]) -> None:
        for index, entry in enumerate(include):
            if set(entry) != set(include[0]):
                names = ", ".join(shown_name(name) for name in include[0])
                self._tell(
                    f"without axis lists, every cell names the same axes: {names}",
                    ("matrix", "include", index),
                )


def _as_written(value: Any) -> str:
    return scalar_text(value) if isinstance(value, str | int | float) else "…"
