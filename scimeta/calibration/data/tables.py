"""Reading curves from tables, with every complaint about a cell naming its row and column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.categories import MISSING
from scimeta.calibration.data.curves import REPEATED, Curve, Curves, shortened
from scimeta.calibration.data.delimited import NUMBER, Table, read_delimited, squeezed
from scimeta.calibration.data.units import same_unit, split_unit

if TYPE_CHECKING:
    import pandas as pd

_COMMA_NUMBER = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)
_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat", "-"}
_INFINITE = {"inf", "infinity"}


def read_curves(
    source: str | Path | IO | pd.DataFrame | Table,
    *,
    x: str = "time",
    y: str = "fraction",
    by: str | None = "specimen",
    sigma: str | None = None,
    conditions: Sequence[str] = (),
    replicates: bool = False,
) -> Curves:
    """Return the curves of a table with one row a measurement, one curve a specimen, in order of appearance.

    Text tables may be separated by commas, semicolons or tabs, and have decimal commas where the separator is not a
    comma. Blank lines are skipped, and so are lines that start with #. Units stand in the header: ``time [s]``. Asking
    for "time" finds "time [s]"; asking for "time [s]" finds no column in another unit, and states the unit of a plain
    "time". Nothing in a file is executed or unpickled.

    Args:
        source: path of a text table, ``-`` for the standard input, an open file, a pandas DataFrame, or what
            ``read_delimited`` returned.
        x: column of the abscissa.
        y: column of the measured ordinate.
        by: column that names the specimen; None if the whole table is one specimen.
        sigma: column of the standard deviations of y, in the unit of y; a blank cell means that it is not known.
        conditions: columns that hold one number, or one text, for a whole specimen. Curves keep them under their names
            with the units that the header or the caller gives, so that a prior learned in degC does not take K. A
            column whose cells all read as numbers is one of numbers, unless it is a pandas category.
        replicates: True if one specimen may have several independent readings at one x; otherwise they are refused,
            see :class:`Curve`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a table, a column is missing, or a cell is not what it should be; names the column
            and the row as a spreadsheet numbers it (for a DataFrame, by its index).

    >>> import io
    >>> file = io.StringIO("specimen;time [s];fraction\\nA;10;0,1\\nA;20;0,4\\nB;10;0,2")
    >>> curves = read_curves(file)
    >>> curves, curves["A"].y
    (Curves(2 specimens, 3 points: fraction against time [s]), array([0.1, 0.4]))
    """
    if isinstance(conditions, str):
        raise TypeError(f"conditions must be a list of column names; pass [{conditions!r}]")
    table = _from_frame(source) if hasattr(source, "iloc") else read_delimited(source)
    used = {name: _find(table, name, by) for name in (x, y, *([] if sigma is None else [sigma]), *conditions)}
    if used[x] == used[y]:
        raise table.error(f"x and y are both column {table.header[used[x]]!r}; name two columns")
    specimens = [Path(table.name).stem] * len(table.rows) if by is None else _texts(table, _find(table, by, by))
    if not len(table.rows):
        raise table.error("there are no rows below the header; add the measurements")
    texts = {name: cells for name in conditions if (cells := _levels(table, used[name])) is not None}
    comma = _has_decimal_commas(table, [i for name, i in used.items() if name not in texts])
    numbers = {name: _numbers(table, i, comma, blank=name == sigma) for name, i in used.items() if name not in texts}
    values = numbers | texts
    labels = {name: str(Axis(*_name_and_unit(table.header[used[name]], name))) for name in conditions}
    axes = [Axis(*_name_and_unit(table.header[used[name]], name)) for name in (x, y)]
    if sigma is not None:
        _check_sigma(table, values[sigma], used[sigma], axes[1])
    position: dict[str, int] = {}
    code = np.array([position.setdefault(name, len(position)) for name in specimens])
    for name in conditions:
        _check_constant(table, code, values[name], used[name], list(position))
    order = np.lexsort((values[x], code))
    if not replicates:
        _refuse_repeated(table, order, code, values, (x, y), list(position))
    parts = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    return Curves(
        [
            Curve(
                name,
                values[x][rows],
                values[y][rows],
                None if sigma is None else values[sigma][rows],
                {labels[condition]: values[condition][rows[0]] for condition in conditions},
                replicates,
                *(axis.unit for axis in axes),
            )
            for name, rows in zip(position, parts, strict=True)
        ],
        *axes,
    )


def _from_frame(frame: pd.DataFrame) -> Table:
    from pandas.api import types

    columns: list[list[str] | np.ndarray] = []
    for i in range(frame.shape[1]):
        series = frame.iloc[:, i]
        if types.is_float_dtype(series.dtype) or types.is_integer_dtype(series.dtype):
            columns.append(series.to_numpy(dtype=np.float64, na_value=np.nan))
        else:
            missing = series.isna()
            columns.append(["" if no else str(value) for no, value in zip(missing, series, strict=True)])
    categories = [i for i, dtype in enumerate(frame.dtypes) if isinstance(dtype, types.CategoricalDtype)]
    header = [squeezed(str(name)) for name in frame.columns]
    return Table("table", header, columns, frame.index, True, frozenset(categories))


def _find(table: Table, wanted: str, by: str | None) -> int:
    """Return the position of a column: by its whole header, or by its name and a unit that does not contradict."""
    asked = squeezed(str(wanted))
    exact = [i for i, header in enumerate(table.header) if header == asked]
    name, unit = split_unit(asked)
    near = [i for i, header in enumerate(table.header) if header.startswith(name) and split_unit(header)[0] == name]
    fits = [i for i in near if not unit or not split_unit(table.header[i])[1] or _agree(table.header[i], unit)]
    found = exact or fits
    if len(found) == 1:
        return found[0]
    present = ", ".join(map(repr, table.header)) if len(table.header) <= 20 else shortened(table.header)
    if found:
        same = "; ".join(f"{table.header[i]!r} (column {i + 1})" for i in found)
        raise table.error(f"several columns answer to {wanted!r}: {same}; rename one or ask for it with its unit")
    if near:
        raise table.error(
            f"there is no column {wanted!r}, but {table.header[near[0]]!r}; ask for {name!r}, then convert"
        )
    names = {split_unit(header)[0].lower(): header for header in table.header}
    close = difflib.get_close_matches(name.lower(), names, 1)
    guess = f"; did you mean {names[close[0]]!r}?" if close else ""
    if wanted == by:
        guess += f"{'' if close else ';'} pass by=None if the whole table is one specimen"
    raise table.error(f"there is no column {wanted!r}; the table has {present}{guess}")


def _agree(header: str, unit: str) -> bool:
    return same_unit(split_unit(header)[1], unit)


def _name_and_unit(header: str, wanted: str) -> tuple[str, str]:
    """Return name and unit of an axis; the caller's unit stands where the table gives none."""
    name, unit = split_unit(header)
    return name, unit or split_unit(squeezed(str(wanted)))[1]


def _texts(table: Table, column: int) -> list[str]:
    """Return the specimens' names."""
    cells = table.columns[column]
    if isinstance(cells, np.ndarray):
        cells = ["" if np.isnan(v) else str(int(v)) if v.is_integer() else str(v) for v in cells.tolist()]
    texts = [cell.strip() for cell in cells]
    if "" in texts:
        raise table.error("the name is blank; write the specimen's name in every row", texts.index(""), column)
    return texts


def _levels(table: Table, column: int) -> np.ndarray | None:
    """Return (rows,) texts of a condition that is text; None of one that is numbers."""
    cells, category = table.columns[column], column in table.categories
    if isinstance(cells, np.ndarray):
        return None
    texts = [squeezed(cell) for cell in cells]
    is_text = np.array([cell not in MISSING and (category or not _reads_as_number(cell)) for cell in texts])
    if not is_text.any():
        return None
    if not is_text.all():
        row, other = int(is_text.argmin()), int(is_text.argmax())
        if texts[row] in MISSING:
            raise table.error("the value is missing; fill it in or delete the row", row, column)
        raise table.error(
            f"{texts[row]!r} is a number, but {texts[other]!r} in row {table.rows[other]} is text; a condition is "
            "numbers or text in all rows: correct the odd one, or write a word before the number",
            row,
            column,
        )
    return np.array(texts, dtype=object)


def _reads_as_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell) or _COMMA_NUMBER.fullmatch(cell)) or not np.isnan(_odd(cell))


def _has_decimal_commas(table: Table, columns: list[int]) -> bool:
    """Return True if numbers are written with decimal commas; raise if some are and others have points."""
    if not table.comma:
        return False
    first: dict[str, tuple[int, int]] = {}
    for column in columns:
        cells = table.columns[column]
        if isinstance(cells, list):
            for sign, pattern in ((",", _COMMA_NUMBER), (".", NUMBER)):
                row = next(
                    (i for i, cell in enumerate(cells) if sign in cell and pattern.fullmatch(cell.strip())), None
                )
                if row is not None:
                    first.setdefault(sign, (row, column))
    if len(first) == 2:
        (row, column), (other, its) = first[","], first["."]
        raise table.error(
            f"{table.columns[column][row]!r} has a comma, but {table.columns[its][other]!r} in row {table.rows[other]} "
            "has a point; write all numbers in one way, without separators between thousands",
            row,
            column,
        )
    return "," in first


def _numbers(table: Table, column: int, comma: bool, *, blank: bool) -> np.ndarray:
    """Return (rows,) finite float64; with ``blank``, NaN where a cell holds nothing."""
    cells = table.columns[column]
    values = cells if isinstance(cells, np.ndarray) else _parsed(cells, comma)
    good = np.isfinite(values)
    if good.all():
        return values
    for row in np.flatnonzero(~good):
        shown = str(cells[row]).strip()
        if np.isinf(values[row]):
            raise table.error(f"{shown} is infinite; correct it or delete the row", row, column)
        if shown.lower() not in _MISSING:
            raise table.error(f"{shown!r} is not a number", row, column)
        if not blank:
            raise table.error("the value is missing; fill it in or delete the row", row, column)
    return values


def _parsed(cells: list[str], comma: bool) -> np.ndarray:
    """Return (rows,) float64, NaN for a cell that is no number."""
    joined = "".join(cells)
    if joined.isascii() and "_" not in joined:  # what float() reads beyond plain numbers
        try:
            return np.array(cells, dtype=np.float64)
        except ValueError:
            pass
    texts = (cell.strip().replace(",", ".") if comma else cell.strip() for cell in cells)
    return np.array([float(text) if NUMBER.fullmatch(text) else _odd(text) for text in texts], dtype=np.float64)


def _odd(text: str) -> float:
    """Return what stands for a cell that is no plain number: an infinity or NaN."""
    return float(text) if text.lower().lstrip("+-") in _INFINITE else np.nan


def _check_sigma(table: Table, sigma: np.ndarray, column: int, y: Axis) -> None:
    bad = sigma <= 0
    if bad.any():
        row = int(bad.argmax())
        raise table.error(f"sigma is {sigma[row]:g}; it must be positive, or blank if not known", row, column)
    unit = split_unit(table.header[column])[1]
    if unit and y.unit and not same_unit(unit, y.unit):
        raise table.error(f"sigma is in {unit}, {y.name} in {y.unit}; give both in one unit", column=column)


def _check_constant(table: Table, code: np.ndarray, values: np.ndarray, column: int, names: list[str]) -> None:
    """Raise if a condition changes within a specimen."""
    first = np.unique(code, return_index=True)[1][code]
    differs = values != values[first]
    if differs.any():
        row = int(differs.argmax())
        raise table.error(
            f"{_shown(values[row])}, but {_shown(values[first[row]])} in row {table.rows[first[row]]} of the same "
            f"specimen {names[code[row]]!r}; a condition holds for a whole specimen: give the parts names of their own",
            row,
            column,
        )


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _refuse_repeated(
    table: Table,
    order: np.ndarray,
    code: np.ndarray,
    values: dict[str, np.ndarray],
    axes: tuple[str, str],
    names: list[str],
) -> None:
    x, y = (values[name] for name in axes)
    repeated = np.flatnonzero((np.diff(x[order]) == 0) & (np.diff(code[order]) == 0))
    if not len(repeated):
        return
    i, j = sorted(order[repeated[0] : repeated[0] + 2])
    where = f"rows {table.rows[i]} and {table.rows[j]}: specimen {names[code[i]]!r} has two readings"
    if y[i] == y[j]:
        problem = f"{where} of {y[i]:g} at {axes[0]} = {x[i]:g}; delete one, or pass replicates=True if both were taken"
    else:
        problem = f"{where} at {axes[0]} = {x[i]:g}; {REPEATED}"
    raise table.error(problem)
