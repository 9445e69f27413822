"""Files that appear whole or not at all."""

import errno
import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_diffusion import whole_files
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint
from mlx_diffusion.convert import convert, space
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.journal import Journal
from mlx_diffusion.whole_files import lock, whole_file, write_whole


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    file, link = tmp_path / "a", tmp_path / "link"
    link.symlink_to(file)
    write_whole(file, b"before")
    write_whole(link, b"after")
    assert link.is_symlink() and file.read_bytes() == b"after" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_fails_leaves_nothing_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"before")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"after")
    with pytest.raises(EvaluationError, match=r"a cannot be written \(No space left on device\); choose another place"):
        write_whole(file, b"after", error=EvaluationError)
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_file_and_folder_are_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, replace = whole_files.flush, os.replace
    order: list[str] = []

    def noted_flush(path: Path) -> None:
        order.append(path.suffix or "folder")
        flush(path)

    def noted_replace(part: Path, file: Path) -> None:
        order.append("renamed")
        replace(part, file)

    monkeypatch.setattr(whole_files, "flush", noted_flush)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_whole(tmp_path / "a.json", b"content")
    assert order == [".part", "renamed", "folder"]


def test_the_users_umask_counts_and_what_is_private_is_his_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "open", b"")
        write_whole(tmp_path / "closed", b"", private=True)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "closed")]
    assert modes == [0o644, 0o600]


def test_a_writer_that_looks_at_the_name_gets_its_ending(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a", suffix=".part.safetensors") as part:
        assert part.name.endswith(".part.safetensors") and part.parent == tmp_path.resolve()
        part.write_text("content")
    assert (tmp_path / "a").read_text() == "content" and len(list(tmp_path.iterdir())) == 1


NO_GUARANTEE = [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


def refusing(number: int, of: str, monkeypatch: pytest.MonkeyPatch, folders_only: bool = False) -> None:
    """From now on, a call of the system fails as it does on a share that does not know it."""
    place, call = (fcntl, fcntl.flock) if of == "flock" else (os, getattr(os, of))

    def refuse(descriptor: int, *arguments: Any) -> Any:
        if folders_only and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return call(descriptor, *arguments)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(place, of, refuse)


@pytest.mark.parametrize("number", NO_GUARANTEE)
@pytest.mark.parametrize("folders_only", [True, False])
def test_a_share_without_flushes_is_written_to(
    number: int, folders_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(number, "fsync", monkeypatch, folders_only)
    write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize("number", NO_GUARANTEE)
def test_a_share_without_locks_is_written_to(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        assert lock(one.fileno())
        with pytest.raises(BlockingIOError):
            lock(other.fileno())
        refusing(number, "flock", monkeypatch)
        assert not lock(one.fileno())


@pytest.mark.parametrize("number", NO_GUARANTEE)
def test_a_conversion_onto_a_poor_share_warns_and_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(number, "flock", monkeypatch)
    refusing(number, "fsync", monkeypatch)
    if sys.platform == "linux":
        refusing(number, "posix_fadvise", monkeypatch)
    monkeypatch.setattr(space, "free_bytes", lambda folder: 0)
    told: list[str] = []
    convert(DEMO_FOLDER, tmp_path / "target", warn=told.append)
    Checkpoint.open(tmp_path / "target")
    assert ["cannot be locked" in line or "0 bytes free" in line for line in told] == [True, True]


def test_a_measurement_onto_a_share_without_locks_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(errno.ENOLCK, "flock", monkeypatch)
    told: list[str] = []
    Journal(tmp_path / "journal", {"plan": {}}, told.append).close()
    assert len(told) == 1 and "cannot be locked" in told[0]


def test_a_full_disk_is_no_missing_guarantee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(errno.ENOSPC, "fsync", monkeypatch)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", b"content")
