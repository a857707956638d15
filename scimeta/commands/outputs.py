"""What the commands write: checked before any work, drawn before anything is written, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scimeta.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Name = str | None
"""Of a file, as the user typed it; None where none was asked for."""


def check_outputs(inputs: Iterable[Name], outputs: Iterable[Name], plot: Name = None) -> None:
    """Raise before any work if a file could not be written, would replace what is read or another, or is no picture.

    Raises: FileNotFoundError: a folder that does not exist. ValueError: the rest.
    """
    read, written = {Path(path).resolve() for path in inputs if path}, set()
    for path in filter(None, (*outputs, plot)):
        if not Path(path).parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: the folder {Path(path).parent} does not exist")
        if Path(path).is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; name a file in it")
        if Path(path).resolve() in read:
            raise ValueError(f"{path} would replace what is read; name another file")
        if Path(path).resolve() in written:
            raise ValueError(f"{path} is named for two things to write; name another file for one of them")
        written.add(Path(path).resolve())
    if plot and Path(plot).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot {plot}: name a .png, .pdf or .svg, such as {Path(plot).stem}.png")


def picture(draw: Callable[[], Axes], path: Name) -> bytes | None:
    """Return the picture as the file type of the path; drawn before anything is written. None without a path."""
    if path is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, buffer = draw().figure, io.BytesIO()
    figure.savefig(buffer, dpi=150, format=Path(path).suffix[1:])
    plt.close(figure)
    return buffer.getvalue()


def write(path: Name, content: bytes | None, what: str) -> None:
    """Write the file whole or not at all, and say so; nothing without a path."""
    if path is not None:
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
        print(f"{what}: {path}")
