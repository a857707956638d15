"""Maps as text: rows of symbols, from a string or a file."""

from __future__ import annotations

import re
from pathlib import Path

PLAIN = "#. ~^v<>"
"""Symbols that are not places: walls, free cells, slippery ones and one-way ones."""


def map_rows(text_or_path: str | Path) -> tuple[list[str], str]:
    """Return the rows of a map and its name, "city" where it has no file; as :func:`read_city` says.

    >>> map_rows("\\n...\\n.#.\\n    ")
    (['...', '.#.'], 'city')
    """
    path = _as_path(text_or_path)
    if path is not None:
        return _rows(_text(path)), path.stem
    text = str(text_or_path)
    if is_name(text):
        raise ValueError(
            f"read_city: there is no such map, {text_or_path!r}: give rows of symbols, a path that ends in .txt or "
            ".map, or a layout, as LAYOUTS['town'](); a map that is one row of letters must begin with a line break"
        )
    return _rows(text), "city"


def is_name(text: str) -> bool:
    """Return whether a string is a name rather than a map: one line with a word in it, and no path of a map.

    A word is three letters or more, at least two of them different; v, which may be an arrow, does not count.

    >>> [text for text in ("streets", "streets.text", "streets.txt", "L..P", "PPP", "\\nabc") if is_name(text)]
    ['streets', 'streets.text']
    """
    if "\n" in text or _as_path(text) is not None:
        return False
    return any(len(set(word) - {"v"}) > 1 for word in re.findall(r"[^\W\d_]{3,}", text))


def _as_path(text_or_path: str | Path) -> Path | None:
    """Return the path of a file, or None where the map itself was given."""
    if isinstance(text_or_path, Path):
        return text_or_path
    one_line = "\n" not in text_or_path and text_or_path.strip(PLAIN)
    return Path(text_or_path) if one_line and text_or_path.endswith((".txt", ".map")) else None


def _text(path: Path) -> str:
    """Return what a file says, without the mark that some editors put before it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"read_city: {path} is not a text file in UTF-8 ({error.reason}); save the map as one"
        ) from None


def _rows(text: str) -> list[str]:
    """Return the rows without empty ones above and below, nor the indent before the quotes that close a string."""
    rows = text.splitlines()
    if len(rows) > 1 and rows[-1].isspace() and not text.endswith("\n"):
        rows.pop()
    filled = [number for number, row in enumerate(rows) if row]
    return rows[filled[0] : filled[-1] + 1] if filled else []
