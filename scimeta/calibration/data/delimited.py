"""Delimited text as a header and cells, whatever program wrote it."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CELL_ERROR = re.compile(r"#(N/A|REF!|VALUE!|DIV/0!|NUM!|NAME\?|NULL!)")  # spreadsheets' own; not comments
_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "compressed by gzip",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]")


class Table(NamedTuple):
    """A table as text and numbers.

    Attributes:
        name: what errors call it.
        header: the columns' names.
        columns: one a name: a list of texts, or a float64 array with NaN where a value is missing.
        rows: label of every row, as the user sees it.
        comma: True if numbers may have decimal commas.
        categories: positions of columns that are text whatever they look like.
    """

    name: str
    header: list[str]
    columns: list[list[str] | np.ndarray]
    rows: Sequence[Any]
    comma: bool
    categories: frozenset[int] = frozenset()

    def error(self, problem: str, row: int | None = None, column: int | None = None) -> ValueError:
        where = [self.name]
        where += [] if row is None else [f"row {self.rows[row]}"]
        where += [] if column is None else [f"column {self.header[column]!r}"]
        return ValueError(f"{', '.join(where)}: {problem}")


def read_delimited(source: str | Path | IO | Table) -> Table:
    """Return the table that a text file holds, all cells as text; ``-`` is the standard input."""
    if isinstance(source, Table):
        return source
    name, text = _text(source)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    separator = None
    if re.fullmatch("sep=.", lines[0].strip(), re.IGNORECASE):  # Excel's own convention
        separator, lines[0] = lines[0].strip()[-1], ""
    comment = [line.startswith("#") and not _CELL_ERROR.match(line) for line in lines]
    lines = ["" if skip else line for line, skip in zip(lines, comment, strict=True)]
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{name} is empty; expected a header and one row a measurement")
    separator = separator or max("\t;,", key=lambda s: len(next(csv.reader([lines[first]], delimiter=s))))
    table = Table(name, [], [], [], separator != ",")
    # The end of every line matters only where a quoted cell goes on in the next line.
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True, skipinitialspace=True)
    number = 0
    try:
        for number, cells in enumerate(reader, 1):
            if not cells or not "".join(cells).strip():
                continue
            if not table.header:
                table.header.extend(_header(name, number, cells))
                table.columns.extend([] for _ in table.header)
                continue
            for column, cell in zip(table.columns, _row(table, number, cells), strict=True):
                column.append(cell)  # keeping the rows' lists instead makes the garbage collector triple the time
            table.rows.append(number)
    except csv.Error as error:
        raise ValueError(f"{name}, row {number + 1}: {error}; check the quotation marks") from None
    if not table.rows and any(comment):
        raise table.error(f"there are no rows below the header ({sum(comment)} lines start with # and were skipped)")
    return table


def _text(source: str | Path | IO) -> tuple[str, str]:
    """Return name and text of a file."""
    if hasattr(source, "read"):
        name, content = Path(str(getattr(source, "name", "table"))).name, source.read()
    elif isinstance(source, str) and "\n" in source:
        raise ValueError("read_curves takes a path, not the text of a table; pass io.StringIO(text)")
    elif isinstance(source, str | Path) and os.fspath(source) == "-":
        name, content = "standard input", getattr(sys.stdin, "buffer", sys.stdin).read()
    elif isinstance(source, str | Path):
        path = Path(source)
        name = path.name
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path} (looked in {Path.cwd()}); check the path")
        if path.is_dir():
            raise ValueError(f"{path} is a directory; pass the path of a table in it")
        if path.is_block_device() or path.is_socket():
            raise ValueError(f"{path} is a device; pass the path of a table")
        content = path.read_bytes()
    else:
        raise TypeError(f"read_curves takes a path, an open file or a DataFrame; got {type(source).__name__}")
    if isinstance(content, str):
        return name, content.removeprefix("\ufeff")
    return name, _decoded(name, content)


def _decoded(name: str, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # what Excel calls Unicode text
        return content.decode("utf-16", errors="replace")
    kind = next((kind for start, kind in _FORMATS.items() if content.startswith(start)), None)
    if kind or _CONTROL.search(content):
        raise ValueError(f"{name} is {kind or 'not a text file'}; save the table as CSV and read that")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")  # latin-1 as Windows writes it


def _header(name: str, number: int, cells: list[str]) -> list[str]:
    header = [squeezed(cell) for cell in cells]
    if all(NUMBER.fullmatch(cell) for cell in header if cell):
        raise ValueError(f"{name}, row {number}: numbers where the columns' names should be; add a header without #")
    if len(header) == 1:
        raise ValueError(
            f"{name}, row {number}: {header[0]!r} is the only column; separate columns by commas, semicolons or tabs"
        )
    return header


def _row(table: Table, number: int, cells: list[str]) -> list[str]:
    """Return the cells of a row, as many as the header has."""
    size = len(table.header)
    if len(cells) > size and "".join(cells[size:]).strip():
        commas = "" if table.comma else "; if the numbers have decimal commas, separate the columns by semicolons"
        raise ValueError(
            f"{table.name}, row {number}: {len(cells)} cells, but the header has {size}; remove the extra ones{commas}"
        )
    return cells if len(cells) == size else [*cells[:size], *[""] * (size - len(cells))]


def squeezed(text: str) -> str:
    """Return the text with single spaces between words and none around."""
    return " ".join(text.split())
