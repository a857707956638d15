"""What the commands write: checked before any work, drawn before anything is written, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scimeta.files import (
    PRIOR,
    STATE,
    TABLE,
    Format,
    check_path,
    is_standard_output,
    is_stream,
    write_atomically,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Name = str | None
"""Of a file, as the user typed it; None where none was asked for."""


def check_outputs(
    inputs: Iterable[Name],
    tables: Iterable[Name] = (),
    plot: Name = None,
    *,
    prior: Name = None,
    learned: Name = None,
    checkpoint: Name = None,
) -> IO[str]:
    """Return where what is printed for people goes: standard error where standard output takes one of the files.

    Args:
        inputs: what is read, which nothing may replace.
        tables, plot, prior, learned, checkpoint: what is written, in its own format each.

    Raises, before any work:
        ValueError: a file would replace what is read or another, has the suffix of another format, is no picture.
        OSError: it cannot be written, see :func:`scimeta.files.check_path`.
    """
    asked = [(table, TABLE) for table in tables]
    asked += [(prior, PRIOR), (learned, STATE), (checkpoint, STATE), (plot, None)]
    outputs: list[tuple[str, Format | None]] = [(path, format) for path, format in asked if path is not None]
    read = {Path(path).resolve() for path in inputs if path and not is_stream(path)}
    written: set[Path] = set()
    for path, format in outputs:
        place = Path(path).resolve()
        if place in read:
            raise ValueError(f"{path} would replace what is read; name another file")
        if place in written and not is_stream(path):
            raise ValueError(f"{path} is named for two things to write; name another file for one of them")
        written.add(place)
        check_path(path, format, again=path == checkpoint)
    if plot is not None:
        _check_picture(plot)
    return sys.stderr if any(is_standard_output(path) for path, _ in outputs) else sys.stdout


def picture(draw: Callable[[], Axes], path: Name) -> bytes | None:
    """Return the picture as the file type of the path; drawn before anything is written. None without a path."""
    if path is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, buffer = draw().figure, io.BytesIO()
    figure.savefig(buffer, dpi=150, format=Path(path).suffix[1:] or "png")
    plt.close(figure)
    return buffer.getvalue()


def say(text: object, report: IO[str] | None = None) -> None:
    """Print; that a reader such as head has seen enough does not keep files from being written."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=report, flush=True)


def write(path: Name, content: bytes | None, what: str, report: IO[str] | None = None) -> None:
    """Write the file, and say so in the report; nothing without a path."""
    if path is None or content is None:
        return
    with contextlib.suppress(BrokenPipeError):  # of standard output only
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    if not is_standard_output(path):
        say(f"{what}: {path}", report)


def write_table(path: Name, table: Callable[[], pd.DataFrame], what: str, report: IO[str] | None = None) -> None:
    """Write a table as CSV, separated by tabs where the suffix is .tsv, and say so; nothing without a path."""
    if path is not None:
        separator = "\t" if Path(path).suffix.lower() == ".tsv" else ","
        write(path, table().to_csv(index=False, sep=separator).encode(), what, report)


def _check_picture(path: str) -> None:
    """Raise unless the suffix is of a picture that matplotlib draws; a pipe without one takes PNG."""
    from matplotlib.backend_bases import FigureCanvasBase

    if is_standard_output(path):
        raise ValueError(f"--plot {path}: a picture does not go to standard output; name a file, such as plot.png")
    suffix = Path(path).suffix.lower()
    if suffix[1:] not in FigureCanvasBase.get_supported_filetypes() and not (is_stream(path) and not suffix):
        raise ValueError(f"--plot {path}: name a .png, .pdf or .svg, such as {Path(path).stem}.png")
