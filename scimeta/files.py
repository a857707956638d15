"""Writing files: a regular file whole or not at all; a pipe, a device or standard output is written through."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, NamedTuple

FilePath = str | PathLike[str]

_DESCRIPTOR = re.compile(r"/dev/(std\w+|fd/\d+)|/proc/\w+/fd/\d+")  # what a process has open, under a name
_PATIENCE = 10.0  # s, for a program that reads from a named pipe


class Format(NamedTuple):
    """What is written to a file: in words, the suffixes that say so (the first is advised), whether it is text."""

    what: str
    suffixes: tuple[str, ...]
    text: bool = True


TABLE = Format("a table", (".csv", ".txt", ".tsv"))
PRIOR = Format("a prior", (".json",))
STATE = Format("what was learned", (".safetensors",), text=False)


def write_atomically(path: FilePath, write: Callable[[Path], object], format: Format | None = None) -> Path:
    """Return ``path`` after ``write`` has made its new content, whole or not at all.

    A link stays a link: the file behind it is replaced, and keeps its owner and permission bits. A pipe or a device is
    opened and written; ``-``, /dev/stdout and the like are the standard output, /dev/stderr the standard error.

    Args:
        path: the file to make or replace.
        write: writes the content to the temporary path that it is given, with the same suffix.
        format: what is written; None for any.

    Raises:
        OSError: the path cannot be written, see :func:`check_path`, or the writing failed.
        ValueError: the suffix belongs to another format.
    """
    check_path(path, format)
    name = os.fspath(path)
    stream = _standard(name)
    if stream is None and not _written_through(name):
        _replace(name, write)
        return Path(path)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, f"content{Path(name).suffix}")
        write(temporary)
        content = temporary.read_bytes()
    if stream is not None:
        _pour(stream, content)
    else:
        _write_through(name, content)
    return Path(path)


def check_path(path: FilePath, format: Format | None = None, *, again: bool = False) -> None:
    """Raise if a file could not be written, so that nobody works for hours in vain.

    Args:
        path: as a user named it.
        format: what would be written; None for any.
        again: whether it will be read again, as a checkpoint is, which rules out pipes and devices.

    Raises:
        IsADirectoryError, FileNotFoundError, PermissionError, OSError: it is a folder, its own does not exist, either
            is read-only, or it is no file that could be written.
        ValueError: the suffix belongs to another format, or a format that is no text would go to standard output.
    """
    name = os.fspath(path)
    if not name:
        raise ValueError("the name of a file to write is empty")
    through = _standard(name) is not None or _written_through(name)
    if through and again:
        raise ValueError(f"cannot write {name}: it is to be read again, which a pipe or a device does not allow")
    if _standard(name) is not None and format is not None and not format.text:
        raise ValueError(
            f"cannot write {name}: {format.what} is binary, and standard output takes text; name a file, such as "
            f"{format.what.split()[-1]}{format.suffixes[0]}"
        )
    if through:
        return
    target = _behind(name)
    folder = target.parent if os.path.islink(name) else Path(name).parent
    if target.is_dir() or name.endswith(os.sep):
        raise IsADirectoryError(f"cannot write {name}: it is a folder; name a file in it")
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {name}: the folder {folder} does not exist")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {name}: it is no file, no pipe and no terminal; name a file")
    for place, what in ((folder, f"the folder {folder} is"), (target, "it is")):
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(f"cannot write {name}: {what} read-only")
    if format is not None and (suffix := Path(name).suffix) and suffix.lower() not in format.suffixes:
        stem = Path(name).stem
        instead = stem if Path(stem).suffix.lower() in format.suffixes else f"{stem}{format.suffixes[0]}"
        raise ValueError(f"cannot write {name}: {format.what} is not written as {suffix}; name it {instead}")


def is_standard_output(path: FilePath) -> bool:
    """Whether a path is ``-`` or another name of the standard output, such as /dev/stdout."""
    return _standard(os.fspath(path)) is sys.stdout


def is_stream(path: FilePath) -> bool:
    """Whether a path is ``-``, a pipe, a terminal or a device, and not a file that stays."""
    return os.fspath(path) == "-" or _written_through(os.fspath(path))


def _standard(name: str) -> IO[str] | None:
    """Return the standard stream that a name stands for, whatever it was redirected to; None for another."""
    if name == "-":
        return sys.stdout
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            if os.path.realpath(name) != os.devnull and os.path.samestat(os.stat(name), os.fstat(descriptor)):
                return stream
    return None


def _written_through(name: str) -> bool:
    """Whether a name is of a pipe, a terminal or such a device, or of what is open already."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or bool(_DESCRIPTOR.fullmatch(os.path.abspath(name)))


def _behind(name: str) -> Path:
    """Return the file at the end of the links of a name, which need not exist."""
    target = Path(os.path.realpath(name))
    if target.is_symlink():
        raise OSError(f"cannot write {name}: its links lead in a circle")
    return target


def _replace(name: str, write: Callable[[Path], object]) -> None:
    target = _behind(name)
    temporary = target.with_name(f".scimeta-{secrets.token_hex(8)}{Path(name).suffix}")
    try:
        with _naming(name):
            temporary.touch(exist_ok=False)  # with the permissions that the umask leaves
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                old = target.stat()
                with contextlib.suppress(OSError, AttributeError):  # not ours to give, or not on this system
                    os.chown(temporary, old.st_uid, old.st_gid)
                temporary.chmod(stat.S_IMODE(old.st_mode))
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_through(name: str, content: bytes) -> None:
    """Write to a pipe or a device; wait a while for whoever reads from a named pipe."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
    until = time.monotonic() + _PATIENCE
    with _naming(name):
        while True:
            try:
                descriptor = os.open(name, flags)
                break
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                if time.monotonic() > until:
                    raise OSError("no program reads from this pipe; start the reader first") from error
                time.sleep(0.02)
        os.set_blocking(descriptor, True)
        with open(descriptor, "wb") as file:
            file.write(content)


def _pour(stream: IO[str], content: bytes) -> None:
    stream.flush()
    binary = getattr(stream, "buffer", None)  # a notebook's output has none
    if binary is None:
        stream.write(content.decode("utf-8"))
    else:
        binary.write(content)
        binary.flush()
    stream.flush()


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """What the system refuses is said of the file that the user named, not of a temporary one."""
    try:
        yield
    except OSError as error:
        kind = OSError if isinstance(error, BrokenPipeError) else type(error)
        raise kind(f"cannot write {name}: {error.strerror or error}") from error
