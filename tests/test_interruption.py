"""However a conversion ends, the same call goes on, and no byte differs from an undisturbed one."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL_FILES, contents, write_source

from mlx_diffusion.checkpoint.folder import UNFINISHED, Checkpoint
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.convert import Progress, conversion, convert, space
from mlx_diffusion.convert.origin import ORIGIN
from mlx_diffusion.convert.source import LocalSource
from mlx_diffusion.errors import CheckpointError, ConversionError
from mlx_diffusion.loading import load_model

ONE_LAYER = {"layer_types": ["full_attention"], "num_hidden_layers": 1}


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


class Killed(BaseException):
    """Not an Exception: nothing in the code may catch it."""


class Fault:
    """Lets the first calls that change the disk pass and raises at the one after them."""

    def __init__(self, patch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.left, self.error, self.names = -1, error, list[str]()
        for name in ("pwrite", "replace", "fsync"):
            patch.setattr(os, name, self.counted(getattr(os, name), real=name != "fsync"))
        for name in ("unlink", "mkdir"):
            patch.setattr(Path, name, self.counted(getattr(Path, name), real=True))
        look, make = os.open, self.counted(os.open, real=True)
        patch.setattr(
            os, "open", lambda file, flags, *a, **b: (make if flags & os.O_CREAT else look)(file, flags, *a, **b)
        )
        read, write = Path.open, self.counted(Path.open, real=True)
        patch.setattr(
            Path, "open", lambda file, mode="r", *a, **b: (write if "w" in mode else read)(file, mode, *a, **b)
        )

    def counted(self, call: Any, real: bool) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            self.names.append(call.__name__)
            if self.left == 0:
                raise self.error
            self.left -= 1
            return call(*arguments, **options) if real else None

        return counting

    def moments(self) -> list[int]:
        """Where to stop: at every call, and of a weight file's many writes at the first, the last and some between.

        All but the last leave the same behind: a part that the next run begins anew.
        """
        return [
            number
            for number, names in enumerate(zip(["", *self.names], self.names, [*self.names[1:], ""], strict=False))
            if set(names) != {"pwrite"} or number % 16 == 0
        ]


class Inline(Executor):
    """Does what it is given at once: the n-th write is the same one every time, and nothing waits for a thread."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "ThreadPoolExecutor", lambda threads: Inline())


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["killed", "full"])
def test_stopped_at_any_write_the_same_call_gives_the_same_bytes(
    error: BaseException, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", shards=2, **ONE_LAYER)
    for name in SMALL_FILES[1:]:
        (source / name).unlink()
    fault = Fault(monkeypatch, error)
    convert(source, target)
    moments, expected = fault.moments(), contents(target)
    assert len(fault.names) > 80
    seen = set()
    for stop in moments if isinstance(error, Killed) else range(0, len(fault.names), 5):
        shutil.rmtree(target)
        fault.left = stop
        with pytest.raises(Killed if isinstance(error, Killed) else ConversionError) as caught:
            convert(source, target)
        if not isinstance(error, Killed):
            assert "no space left" in str(caught.value) and "the same call" in str(caught.value)
        fault.left = -1
        left = contents(target) if target.is_dir() else {}
        if UNFINISHED in left:
            with pytest.raises(CheckpointError, match="is an unfinished conversion; to go on, run: mlx-diffusion conv"):
                Checkpoint.open(target)
        elif left != expected:
            with pytest.raises(CheckpointError, match="has no config"):
                Checkpoint.open(target)
        if left == expected:
            continue
        whole = [name for name in left if name.endswith(".safetensors")]
        result = convert(source, target)
        assert result.files_from_earlier == len(whole), stop
        assert contents(target) == expected, stop
        seen.add(len(whole))
    assert seen == {0, 1, 2}


@pytest.mark.usefixtures("inline")
def test_stopped_while_it_replaces_an_output(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files of the very names and sizes must not pass for new ones."""
    source = write_source(tmp_path / "source", shards=2, **ONE_LAYER)
    other = shutil.copytree(source, tmp_path / "other")
    file = other / "model-00001-of-00002.safetensors"
    bits = bytearray(file.read_bytes())
    bits[-50:-40] = bytes(10)
    file.write_bytes(bits)
    fault = Fault(monkeypatch, Killed())
    convert(source, target)
    expected = contents(target)
    convert(other, target, force=True)
    old = shutil.copytree(target, tmp_path / "old")
    fault.names.clear()
    convert(source, target, force=True)
    for stop in (*range(20), *range(20, len(fault.names), 30)):  # the first write the record and remove the old files
        shutil.rmtree(target)
        shutil.copytree(old, target)
        assert contents(target) != expected
        fault.left = stop
        with pytest.raises(Killed):
            convert(source, target, force=True)
        fault.left = -1
        convert(source, target, force=True)
        assert contents(target) == expected, stop


CONVERT = """\
import sys
from mlx_diffusion.convert import convert
convert(sys.argv[1], sys.argv[2], "mxfp4", report=lambda progress: print(flush=True))
"""


def test_killed_again_and_again_at_random_moments(tmp_path: Path) -> None:
    """With SIGKILL, in the middle of whatever its threads do."""
    source = write_source(tmp_path / "source", shards=5, moe_intermediate_size=512, vocab_size=8192, num_experts=16)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    began = time.monotonic()
    convert(source, calm, "mxfp4")
    seconds = time.monotonic() - began
    draw = random.Random(0)
    codes = []
    for delay in (0, 1, 2, 3):
        with subprocess.Popen([sys.executable, "-c", CONVERT, source, killed], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the first chunk is done, or all is
            time.sleep(delay * draw.uniform(0, seconds / 5))
            process.kill()
        codes.append(process.returncode)
        if (killed / UNFINISHED).exists():
            with pytest.raises(CheckpointError, match="unfinished"):
                Checkpoint.open(killed)
        else:
            assert contents(killed) == contents(calm)
            shutil.rmtree(killed)
    assert -signal.SIGKILL in codes
    convert(source, killed, "mxfp4")
    assert contents(killed) == contents(calm)


def interrupted(source: str | Path, target: Path, **options: Any) -> None:
    """Leave a conversion behind that has finished its first file."""

    def stop(progress: Progress) -> None:
        if "00002" in progress.file:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, report=stop, **options)


def test_finished_files_are_not_written_again(source: Path, target: Path) -> None:
    interrupted(source, target)
    first = target / "model-00001-of-00003.safetensors"
    before = first.stat().st_mtime_ns, first.stat().st_ino
    told: list[Progress] = []
    assert convert(source, target, report=told.append).files_from_earlier == 1
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == before
    assert told[0].done_bytes > sum(entry.tensor.nbytes for entry in read_header(source / first.name))


def test_a_finished_file_that_was_cut_is_written_again(source: Path, target: Path, tmp_path: Path) -> None:
    interrupted(source, target)
    first = target / "model-00001-of-00003.safetensors"
    os.truncate(first, first.stat().st_size - 1)
    assert convert(source, target).files_from_earlier == 0
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"recipe": "8bit"}, "recipe is 8bit, it was begun with 4bit"),
        ({"rules": ["*.self_attn.*=6"]}, "the recipe with its rules are not those"),
    ],
)
def test_another_conversion_does_not_go_on_with_it(
    options: dict[str, Any], difference: str, source: Path, target: Path, tmp_path: Path
) -> None:
    interrupted(source, target, command="mlx-diffusion convert this there")
    before = contents(target)
    with pytest.raises(ConversionError, match=difference) as caught:
        convert(source, target, **options)
    assert str(caught.value).endswith("force=True to start anew, or go on with: mlx-diffusion convert this there")
    assert contents(target) == before
    convert(source, target, force=True, **options)
    convert(source, tmp_path / "calm", **options)
    assert contents(target) == contents(tmp_path / "calm")


def test_a_source_that_changed_does_not_go_on(source: Path, target: Path) -> None:
    interrupted(source, target)
    edit(source / "generation_config.json", t_max=0.9)
    with pytest.raises(ConversionError, match="the source's files are not those that it was begun with"):
        convert(source, target)


def test_another_version_does_not_go_on(source: Path, target: Path) -> None:
    interrupted(source, target)
    edit(target / UNFINISHED, mlx="0.1")
    with pytest.raises(ConversionError, match=r"mlx is 0\.\d+\.\d+, it was begun with 0\.1;") as caught:
        convert(source, target)
    assert str(caught.value).endswith("or force=True to start anew"), "no command of this version goes on"


def test_a_source_that_changed_is_gone_on_with_by_no_command(source: Path, target: Path) -> None:
    """Least of all by the one that was just refused."""
    interrupted(source, target)
    edit(source / "config.json", something=[2])
    with pytest.raises(ConversionError, match="the source's files are not those") as caught:
        convert(source, target, recipe="8bit")
    assert str(caught.value).endswith("give another folder, or force=True to start anew")


@pytest.mark.parametrize("record", ["{", "[]", "[" * 100_000], ids=["cut", "list", "deep"])
def test_a_record_that_cannot_be_read(record: str, source: Path, target: Path) -> None:
    interrupted(source, target)
    (target / UNFINISHED).write_text(record)
    with pytest.raises(ConversionError, match="cannot be read; give force=True to start anew"):
        convert(source, target)
    convert(source, target, force=True)
    load_model(Checkpoint.open(target))


def test_a_second_process_is_refused(source: Path, target: Path) -> None:
    target.mkdir()
    held = os.open(target, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ConversionError, match="another conversion is writing here"):
        convert(source, target)
    os.close(held)
    convert(source, target)


def test_what_is_written_already_needs_no_space(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(source, target)
    rest = sum((source / f"model-0000{n}-of-00003.safetensors").stat().st_size for n in (2, 3))
    monkeypatch.setattr(space, "free_bytes", lambda folder: rest)
    convert(source, target)


def test_it_goes_on_at_the_commit_that_it_began_with(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --revision the Hub's main branch is meant, which may have moved on."""
    asked: list[str | None] = []

    def opened(repo_id: str, *, revision: str | None, **_: object) -> LocalSource:
        asked.append(revision)
        return LocalSource(source, label=repo_id, revision=revision or f"{len(asked)}. of main")

    monkeypatch.setattr(conversion, "open_source", opened)
    interrupted("owner/name", target)
    assert convert("owner/name", target).revision == "1. of main"
    again = convert("owner/name", target, reuse=True)  # to verify it, say
    assert again.finished_earlier and again.revision == "1. of main"
    assert convert("owner/name", target, force=True).revision == "4. of main"
    assert asked == [None, "1. of main", "1. of main", None]


def test_a_folder_of_before_its_origin_was_kept_is_known_by_its_files(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say which commit it was made from; where main has moved on since, that is said."""
    main = ["old"]

    def opened(repo_id: str, *, revision: str | None, **_: object) -> LocalSource:
        return LocalSource(source, label=repo_id, revision=revision or main[0])

    monkeypatch.setattr(conversion, "open_source", opened)
    convert("owner/name", target)
    (target / ORIGIN).unlink()
    assert convert("owner/name", target, reuse=True).finished_earlier
    main[0] = "new"
    with pytest.raises(ConversionError, match=r"not say which commit it was made from; name that with revision=\.\.\."):
        convert("owner/name", target, reuse=True)
    assert convert("owner/name", target, reuse=True, revision="old").finished_earlier


def test_what_is_finished_is_taken_as_it_is_when_asked_for(source: Path, target: Path) -> None:
    """As after an interrupted --verify: the same command must not convert again, nor refuse."""
    first = convert(source, target, reuse=True)
    assert not first.finished_earlier
    before = {file: file.stat().st_mtime_ns for file in target.iterdir()}
    again = convert(source, target, reuse=True)
    assert again.finished_earlier and again.files_from_earlier == 3
    assert (again.total_bytes, again.parts, again.files) == (first.total_bytes, first.parts, first.files)
    assert {file: file.stat().st_mtime_ns for file in target.iterdir()} == before
    assert not convert(source, target, force=True, reuse=True).finished_earlier


@pytest.mark.parametrize("change", ["recipe", "rule", "small file", "weights", "cut", "lost", "card"])
def test_what_is_not_the_same_conversion_is_not_taken(change: str, source: Path, target: Path) -> None:
    convert(source, target)
    options: dict[str, Any] = {}
    weights = "model-00002-of-00003.safetensors"
    if change == "recipe":
        options["recipe"] = "5bit"
    elif change == "rule":
        options["rules"] = ["*.self_attn.*=6"]
    elif change == "small file":
        edit(source / "generation_config.json", t_max=0.9)
    elif change == "weights":
        touch(source / weights, target / weights)
    elif change == "cut":
        os.truncate(target / weights, 1000)
    elif change == "lost":
        (target / weights).unlink()
    else:
        (target / "README.md").write_text("# Mine")
    before = contents(target)
    with pytest.raises(ConversionError, match="is not empty"):
        convert(source, target, reuse=True, **options)
    assert contents(target) == before


def touch(file: Path, other: Path) -> None:
    """Make a file newer than another."""
    moment = other.stat().st_mtime_ns + 1_000_000
    os.utime(file, ns=(moment, moment))


def test_a_finished_file_whose_source_was_replaced_is_written_again(source: Path, target: Path, tmp_path: Path) -> None:
    """A shard that was downloaded again has the same header; what was made of the old one must not stay."""
    interrupted(source, target)
    first = source / "model-00001-of-00003.safetensors"
    with first.open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        stream.write(bytes(100))
    touch(first, target / first.name)
    assert convert(source, target).files_from_earlier == 0
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")


def fine_tune(file: Path, at: int = -100) -> None:
    """Other weights in a file of the same header, size and time of writing."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    with file.open("r+b") as stream:
        stream.seek(at, os.SEEK_END)
        bits = stream.read(10)
        stream.seek(at, os.SEEK_END)
        stream.write(bytes(bit ^ 1 for bit in bits))
    os.utime(file, ns=times)


def test_going_on_with_other_weights_of_older_times_begins_them_anew(
    source: Path, target: Path, tmp_path: Path
) -> None:
    interrupted(source, target)
    fine_tune(source / "model-00001-of-00003.safetensors")
    assert convert(source, target).files_from_earlier == 0
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")


def test_an_output_whose_source_was_swapped_is_not_taken(source: Path, target: Path) -> None:
    convert(source, target)
    fine_tune(source / "model-00003-of-00003.safetensors", -20_000)
    with pytest.raises(ConversionError, match=r"made from other contents .* model-00003-of-00003\.safetensors has cha"):
        convert(source, target, reuse=True)
    convert(source, target, force=True)
    assert convert(source, target, reuse=True).finished_earlier


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_source_that_is_written_to_meanwhile_is_refused(
    number: int, source: Path, target: Path, tmp_path: Path
) -> None:
    """Whether it was read already, is read now or will be read: its tensors would be of two checkpoints."""
    done: list[int] = []

    def change(progress: Progress) -> None:
        if "00002" in progress.file and not done:
            done.append(number)
            fine_tune(source / f"model-0000{number}-of-00003.safetensors")

    with pytest.raises(
        CheckpointError, match=rf"model-0000{number}-of-00003\.safetensors was changed while it was read"
    ):
        convert(source, target, report=change)
    with pytest.raises(CheckpointError, match="unfinished"):
        Checkpoint.open(target)
    convert(source, target)
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")


def test_records_of_before_digests_were_kept(source: Path, target: Path, tmp_path: Path) -> None:
    """An unfinished output goes on, with every file made anew; a finished one is taken, and the user is told."""
    interrupted(source, target)
    record = json.loads((target / UNFINISHED).read_text())
    del record["sources"]
    (target / UNFINISHED).write_text(json.dumps(record))
    assert convert(source, target).files_from_earlier == 0
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")
    origin = json.loads((target / ORIGIN).read_text())
    del origin["sources"]
    (target / ORIGIN).write_text(json.dumps(origin))
    told: list[str] = []
    assert convert(source, target, reuse=True, warn=told.append).finished_earlier
    assert len(told) == 1 and "verify() compares them" in told[0]


@pytest.mark.parametrize("fields", [{"source": 1}, {"sources": []}, {"sources": {"a": 1}}, {"command": None}])
def test_a_record_of_the_wrong_shape(fields: dict[str, Any], source: Path, target: Path) -> None:
    interrupted(source, target)
    edit(target / UNFINISHED, **fields)
    with pytest.raises(ConversionError, match="cannot be read; give force=True to start anew"):
        convert(source, target)
