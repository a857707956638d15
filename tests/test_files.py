"""A regular file is replaced whole or not at all; nothing else is ever replaced."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scimeta import files
from scimeta.files import PRIOR, STATE, TABLE, check_path, is_standard_output, write_atomically

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and permission bits")


def put(path: str | Path, text: str = "new", **options: object) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_text(text), **options)


def reading(path: Path) -> tuple[threading.Thread, list[str]]:
    """Return a thread that reads a named pipe to its end, and what it has read."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(path.read_text()), daemon=True)
    thread.start()
    return thread, found


class TestLinks:
    @pytest.mark.parametrize("kind", ["absolute", "relative", "chain"])
    def test_a_link_stays_and_the_file_behind_it_is_new(self, tmp_path: Path, kind: str) -> None:
        there, here = tmp_path / "there", tmp_path / "here"
        there.mkdir(), here.mkdir()
        target, link = there / "shared.csv", here / "link.csv"
        target.write_text("old")
        if kind == "chain":
            (there / "middle").symlink_to("shared.csv")
        link.symlink_to({"absolute": target, "relative": "../there/shared.csv", "chain": there / "middle"}[kind])
        assert put(link) == link
        assert link.is_symlink() and target.is_file() and not target.is_symlink() and target.read_text() == "new"
        assert sorted(path.name for path in (*there.iterdir(), *here.iterdir())) == sorted(
            ["link.csv", "shared.csv", *["middle"] * (kind == "chain")]
        )

    def test_a_link_whose_file_is_not_there_yet_makes_it(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("target")
        put(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"

    def test_a_link_into_a_folder_that_is_not_there_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "gone" / "target")
        with pytest.raises(FileNotFoundError, match=r"cannot write .*link: the folder .*gone does not exist"):
            put(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()

    def test_links_to_folders_and_in_circles_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("folder")
        with pytest.raises(IsADirectoryError, match="link: it is a folder"):
            put(tmp_path / "link")
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(OSError, match="circle"):
            put(tmp_path / "a")
        assert all((tmp_path / name).is_symlink() for name in ("link", "a", "b"))

    def test_the_file_behind_a_link_stays_whole_when_writing_fails(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to("target")

        def broken(temporary: Path) -> None:
            temporary.write_text("ha")
            raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            write_atomically(tmp_path / "link", broken)
        assert (tmp_path / "target").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


@posix
class TestWhatIsNoFile:
    def test_a_named_pipe_is_written_through_and_stays(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        thread, found = reading(tmp_path / "pipe")
        put(tmp_path / "pipe", "x" * 100_000)  # more than a pipe holds
        thread.join(10)
        assert found == ["x" * 100_000] and stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)

    def test_a_named_pipe_behind_a_link_is_written_through(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("pipe")
        thread, found = reading(tmp_path / "pipe")
        put(tmp_path / "link")
        thread.join(10)
        assert found == ["new"] and (tmp_path / "link").is_symlink()

    def test_a_named_pipe_that_nobody_reads_is_refused_in_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_PATIENCE", 0.1)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match=r"cannot write .*pipe: no program reads from this pipe"):
            put(tmp_path / "pipe")
        assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)

    def test_a_reader_that_goes_away_is_said_of_the_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        thread = threading.Timer(0.3, os.close, [reader])
        thread.start()
        with pytest.raises(OSError, match=r"cannot write .*pipe: Broken pipe"):
            put(tmp_path / "pipe", "x" * 1_000_000)
        thread.join()

    def test_a_device_stays_a_device(self, tmp_path: Path) -> None:
        (tmp_path / "link.csv").symlink_to(os.devnull)
        before = os.stat(os.devnull)
        put(tmp_path / "link.csv", format=TABLE)
        after = os.stat(os.devnull)
        assert (tmp_path / "link.csv").is_symlink() and stat.S_ISCHR(after.st_mode) and before.st_ino == after.st_ino

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
    def test_a_full_device_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"cannot write .*link: No space left"):
            put(tmp_path / "link")

    def test_a_socket_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
            with pytest.raises(OSError, match="cannot write socket: it is no file"):
                put("socket")
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)

    def test_what_is_open_already_is_written_through_its_number(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with log.open("w") as file:
            file.write("before\n")
            file.flush()
            put(f"/dev/fd/{file.fileno()}")
            assert os.fstat(file.fileno()).st_ino == log.stat().st_ino
        assert log.read_text() == "before\nnew"
        reader, writer = os.pipe()
        put(f"/dev/fd/{writer}")
        os.close(writer)
        with open(reader) as file:
            assert file.read() == "new"

    @pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
    def test_standard_output_by_any_name_keeps_what_is_printed_around_it(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "link").symlink_to("/dev/stdout")
        script = (
            "from scimeta.files import write_atomically\nprint('before')\n"
            f"write_atomically({name!r}, lambda temporary: temporary.write_text('table\\n'))\nprint('after')"
        )
        with (tmp_path / "out").open("w") as out:
            subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stdout=out, check=True, timeout=60)
            assert os.fstat(out.fileno()).st_ino == (tmp_path / "out").stat().st_ino
        assert (tmp_path / "out").read_text() == "before\ntable\nafter\n"
        assert sorted(os.listdir(tmp_path)) == ["link", "out"] and (tmp_path / "link").is_symlink()

    def test_only_names_of_standard_output_are_taken_for_it(self, tmp_path: Path) -> None:
        assert is_standard_output("-") and not is_standard_output("./-")
        assert not any(is_standard_output(name) for name in (os.devnull, tmp_path / "new", tmp_path))


def test_a_notebook_output_takes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # without a binary buffer, as a notebook's
    put("-", "k [1/s], µ")
    assert sys.stdout.getvalue() == "k [1/s], µ"


@posix
class TestFilesThatAreThere:
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
    def test_permission_bits_are_kept(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / "a").write_text("old")
        (tmp_path / "a").chmod(mode)
        put(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode and (tmp_path / "a").read_text() == "new"

    @pytest.mark.parametrize("locked", ["folder", "file"])
    def test_what_is_read_only_is_refused_by_its_own_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
    ) -> None:
        (tmp_path / "a").write_text("old")
        place = {"folder": tmp_path, "file": tmp_path / "a"}[locked]
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)  # root may write anywhere
        with pytest.raises(PermissionError, match=r"cannot write .*a: (the folder .* is|it is) read-only"):
            put(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "old"

    def test_a_mounted_file_that_cannot_be_replaced_is_named_and_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(old: Path, new: Path) -> None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(old), None, str(new))

        (tmp_path / "a").write_text("old")
        monkeypatch.setattr(os, "replace", busy)
        with pytest.raises(OSError, match=r"cannot write .*/a: Device or resource busy$"):
            put(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1

    def test_a_name_as_long_as_the_system_allows_is_written(self, tmp_path: Path) -> None:
        assert put(tmp_path / ("n" * 251 + ".csv")).read_text() == "new"


class TestSuffixes:
    @pytest.mark.parametrize(
        ("name", "format", "instead"),
        [
            ("prior.xlsx", PRIOR, "prior.json"),
            ("prior.csv", PRIOR, "prior.json"),
            ("prior.pkl", PRIOR, "prior.json"),
            ("out.xlsx", TABLE, "out.csv"),
            ("out.parquet", TABLE, "out.csv"),
            ("out.csv.gz", TABLE, "out.csv"),
            ("out.json", TABLE, "out.csv"),
            ("run.pt", STATE, "run.safetensors"),
            ("run.json", STATE, "run.safetensors"),
        ],
    )
    def test_a_suffix_of_another_format_is_refused(
        self, tmp_path: Path, name: str, format: files.Format, instead: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"cannot write .*{name}: .* not written as .*; name it {instead}$"):
            put(tmp_path / name, format=format)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "format"),
        [("a.json", PRIOR), ("A.JSON", PRIOR), ("a", PRIOR), ("a.tsv", TABLE), ("a.txt", TABLE), (".a", STATE)],
    )
    def test_its_own_suffix_or_none_is_taken(self, tmp_path: Path, name: str, format: files.Format) -> None:
        assert put(tmp_path / name, format=format).read_text() == "new"

    def test_what_is_binary_does_not_go_to_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ValueError, match=r"standard output takes text; name a file, such as .*\.safetensors"):
            put("-", format=STATE)
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["-", os.devnull])
def test_what_is_read_again_must_be_a_file(name: str) -> None:
    with pytest.raises(ValueError, match="read again"):
        check_path(name, STATE, again=True)


@pytest.mark.parametrize("name", ["", ".", "new/"])
def test_no_name_and_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, IsADirectoryError), match=r"empty|it is a folder"):
        put(name)
    assert not list(tmp_path.iterdir())
