"""A repository on the Hub, file by file, with the real huggingface_hub against a small server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES, contents, write_source
from fake_hub import FakeHub, Repo

from mlx_diffusion.checkpoint.folder import UNFINISHED
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.cli.main import main
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.source import LocalSource
from mlx_diffusion.convert.upload import upload
from mlx_diffusion.errors import CheckpointError

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]

# Every function is one question; what it returns or raises is reported as JSON, by its name.
QUESTIONS = """
import json, sys, time
from pathlib import Path
from huggingface_hub import hf_hub_download
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.upload import upload

FOLDER, SHARD = Path(sys.argv[1]), "model-00001-of-00003.safetensors"
SMALL = "config.json", "additional_chat_templates/rag.jinja"

def facts():
    source = open_source("toy/model")
    return [source.label, source.revision, source.small_files(), source.shards()]

def headers():
    return repr(open_source("toy/model").headers())

def fetched_into_the_cache():
    source = open_source("toy/cached")
    paths = [source.fetch(name, after) for name, after in zip(source.shards(), [*source.shards()[1:], None])]
    source.drop(source.shards()[0])
    return [path.read_bytes().hex() for path in paths], [source.read_small(name).hex() for name in SMALL]

def held(folder):
    return sorted(path.name for path in folder.rglob("*") if path.suffix in (".safetensors", ".incomplete"))

def room():
    source = open_source("toy/room")
    shards, found = source.shards(), []
    found += source.download_bytes(shards).items()
    source.fetch(shards[0])
    found += source.download_bytes(shards).items()
    source.revision = "e" * 40  # the same files at another commit
    found += source.download_bytes(shards).items()
    found += open_source("toy/room", stream_into=FOLDER / "room").download_bytes(shards).items()
    return [[str(folder), nbytes] for folder, nbytes in found]

def streamed():
    folder = FOLDER / "stream"
    stale = folder / ".cache" / "huggingface" / "download" / "x.1234.incomplete"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"left by a killed run")
    source = open_source("toy/model", stream_into=folder)
    shards, log, read = source.shards(), [], []
    for name, after in zip(shards, [*shards[1:], None]):
        path = source.fetch(name, after)
        while after and not (folder / after).exists():
            time.sleep(0.01)
        log.append(held(folder))
        read.append(path.read_bytes().hex())
        source.drop(name)
    return log, held(folder), read

def prefetched_in_vain():
    folder = FOLDER / "vain"
    source = open_source("toy/model", stream_into=folder)
    first, second, third = source.shards()
    source.fetch(first, second)
    source.drop(first)
    source.fetch(third)
    return held(folder)

def cut():
    source = open_source("toy/cut", stream_into=FOLDER / "cut")
    return source.fetch(source.shards()[0]).read_bytes().hex()

def lost():
    source = open_source("toy/lost", stream_into=FOLDER / "lost")
    return str(source.fetch(source.shards()[0]))

def damaged():
    folder = FOLDER / "damaged"
    source = open_source("toy/damaged", stream_into=folder)
    try:
        source.fetch(source.shards()[0])
    except Exception as error:
        return [str(error), held(folder)]

def damaged_small():
    return open_source("toy/damaged").read_small("tokenizer.json").hex()

def turn_a_bit(path):
    with path.open("r+b") as file:  # in place: emptied for a moment, it would end too early for who reads it meanwhile
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))

def damaged_in_the_cache():
    source, refused = open_source("toy/altered"), []
    for name in source.shards():
        source.fetch(name)
    for name in ("tokenizer.json", "config.json", SHARD):
        read = source.fetch if name == SHARD else source.read_small
        found = read(name)
        blob = (found if name == SHARD else Path(hf_hub_download("toy/altered", name, revision="9" * 40))).resolve()
        turn_a_bit(blob)
        refused.append(problem(lambda: read(name)).replace(str(blob), "BLOB"))
    return refused

def damaged_in_the_cache_offline():
    source = open_source("toy/altered")
    return [problem(lambda: source.fetch(SHARD)), problem(lambda: source.read_small("tokenizer.json"))]

def problem(work):
    try:
        return work() and "nothing"
    except Exception as error:
        return str(error)

def changed_while_it_was_read():
    target, done = FOLDER / "torn", []
    def report(progress):
        if "00002" in progress.file and not done:
            done.append(turn_a_bit(target / ".downloads" / progress.file))
    problems = [problem(lambda: convert("toy/plain", target, stream=True, report=report)) for _ in range(2)]
    return [*problems, convert("toy/plain", target, stream=True).files_from_earlier]

def gated():
    return repr(open_source("toy/gated").headers())

def portal():
    return repr(open_source("toy/portal"))

def no_such():
    return repr(open_source("no/such"))

def no_such_revision():
    return repr(open_source("toy/model", revision="v9"))

def no_ranges():
    return repr(open_source("toy/no-ranges").headers())

def pickled():
    return repr(open_source("toy/pickled").shards())

def no_config():
    return repr(open_source("toy/pickled").read_small("config.json"))

def evil_index():
    return repr(open_source("toy/evil-index").shards())

def evil_name():
    return repr(open_source("toy/evil-name").small_files())

def folders_are_left_alone():
    return open_source("toy/folders").small_files()

def truncated():
    return repr(open_source("toy/truncated").headers())

def uploaded():
    folder = Path(sys.argv[2])
    (folder / ".aws").mkdir()
    strangers = [".env", ".netrc", ".aws/credentials", "notes.txt", "mine.safetensors", "diary.md", "secrets.json"]
    for name in strangers:
        (folder / name).write_text("secret")
    try:
        return upload(folder, "toy/new")
    finally:
        for name in strangers:
            (folder / name).unlink()
        (folder / ".aws").rmdir()

def cached():
    source = open_source("toy/cached")
    return [type(source).__name__, source.label, source.revision, repr(source.headers())]

def not_cached():
    return repr(open_source("toy/absent"))

def cached_in_part():
    return repr(open_source("toy/model"))

answers = {}
for name in sys.argv[3:]:
    try:
        answers[name] = globals()[name]()
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""

COMMANDS = """
import contextlib, io, json, sys
from mlx_diffusion.cli.main import main
done = []
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(argv)
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Desk:
    """Where questions are asked: a folder, a Hub and a cache."""

    folder: Path
    hub: FakeHub
    source: Path

    def environment(self, **more: str) -> dict[str, str]:
        cleared = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"}
        kept = {name: value for name, value in os.environ.items() if name not in cleared}
        return kept | {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "home"), "HF_TOKEN": "toy"} | more

    def ask(self, *names: str, **environment: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", QUESTIONS, str(self.folder), str(self.source), *names],
            env=self.environment(**environment), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    def run(self, *commands: Sequence[str]) -> list[tuple[int, str, str]]:
        """What commands that one process runs one after the other end with, print and say."""
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            env=self.environment(), capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return [(code, out, err) for code, out, err in json.loads(done.stdout)]


ONLINE = (
    "facts headers fetched_into_the_cache room streamed prefetched_in_vain cut lost damaged damaged_small "
    "damaged_in_the_cache changed_while_it_was_read gated portal no_such "
    "no_such_revision no_ranges pickled no_config evil_index evil_name folders_are_left_alone truncated uploaded"
).split()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("hub")
    source = write_source(folder / "source")
    plain = Repo.of(source)  # whose tokenizer is read without Transformers
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    whole = Repo.of(source)
    evil = json.dumps({"weight_map": {"a": "../../a.safetensors"}}).encode()
    repos = {
        "toy/model": replace(whole),
        "toy/plain": plain,
        "toy/cached": replace(whole, sha="c" * 40),
        "toy/room": replace(whole),
        "toy/cut": replace(whole, cuts=1),
        "toy/lost": replace(whole, lost=frozenset(SHARDS)),
        "toy/damaged": replace(whole, damaged=frozenset({SHARDS[0], "tokenizer.json"})),
        "toy/altered": replace(whole, sha="9" * 40),
        "toy/gated": replace(whole, gated=True),
        "toy/portal": replace(whole, portal=True),
        "toy/no-ranges": replace(whole, ranges=False),
        "toy/pickled": Repo({"pytorch_model.bin": b"", "run.py": b""}),
        "toy/evil-index": replace(whole, files=whole.files | {"model.safetensors.index.json": evil}),
        "toy/evil-name": replace(whole, files=whole.files | {"c:\\evil.json": b"{}"}),
        "toy/folders": Repo({"a/b.json": b"", "../c.json": b"", ".d.json": b"", "e.json": b"", "tokenizer.json": b""}),
        "toy/truncated": replace(whole, files=whole.files | {SHARDS[1]: whole.files[SHARDS[1]][:-1]}),
    }
    with FakeHub(repos).running() as hub:
        yield Desk(folder, hub, source)


@pytest.fixture(scope="module")
def answers(desk: Desk) -> dict[str, Any]:
    return desk.ask(*ONLINE)


@pytest.fixture(scope="module")
def offline(answers: dict[str, Any], desk: Desk) -> dict[str, Any]:
    """What is answered from the cache that the other questions have left."""
    return desk.ask("cached", "not_cached", "cached_in_part", "damaged_in_the_cache_offline", HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def stored(desk: Desk) -> str:
    return repr([entry for name in SHARDS for entry in read_header(desk.source / name)])


def test_the_files_at_the_commit_of_the_start(answers: dict[str, Any], desk: Desk) -> None:
    small = sorted(name for name in desk.hub.repos["toy/model"].files if not name.endswith(".safetensors"))
    assert answers["facts"] == ["toy/model", "a" * 40, small, SHARDS]
    files = [asked for asked in desk.hub.asked if "/resolve/" in asked]
    assert files and not any("/resolve/main/" in asked for asked in files)


def test_headers_come_without_the_weights(answers: dict[str, Any], stored: str) -> None:
    assert answers["headers"] == stored


def test_the_cache_keeps_what_is_fetched(answers: dict[str, Any], desk: Desk) -> None:
    weights, (config, template) = answers["fetched_into_the_cache"]
    assert [bytes.fromhex(text) for text in weights] == [(desk.source / name).read_bytes() for name in SHARDS]
    assert bytes.fromhex(config) == (desk.source / "config.json").read_bytes()
    assert bytes.fromhex(template) == b"{{ messages }}"


def test_room_is_what_is_still_to_come(answers: dict[str, Any], desk: Desk) -> None:
    """All that the cache lacks, at whatever commit it was fetched; the two largest files of a stream."""
    first, *others = ((desk.source / name).stat().st_size for name in SHARDS)
    cache = str(desk.folder / "home" / "hub")
    two = sum(sorted((first, *others))[-2:])
    assert answers["room"] == [
        [cache, first + sum(others)], [cache, sum(others)], [cache, sum(others)], [str(desk.folder / "room"), two],
    ]  # fmt: skip


def test_a_stream_holds_two_shards_at_most(answers: dict[str, Any], desk: Desk) -> None:
    log, left, read = answers["streamed"]
    assert log == [SHARDS[:2], SHARDS[1:], SHARDS[2:]] and left == []
    assert [bytes.fromhex(text) for text in read] == [(desk.source / name).read_bytes() for name in SHARDS]
    assert answers["prefetched_in_vain"] == SHARDS[2:]


def test_a_connection_that_is_cut_is_taken_up_again(answers: dict[str, Any], desk: Desk) -> None:
    content = (desk.source / SHARDS[0]).read_bytes()
    assert bytes.fromhex(answers["cut"]) == content
    assert f"toy/cut/{SHARDS[0]}" in desk.hub.sent and desk.hub.repos["toy/cut"].cuts == 0


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("lost", "toy/lost: the download failed (Server disconnected without sending a response.); the same call"),
        ("gated", "toy/gated: the Hub asks you to accept its licence first; do so on https://huggingface.co/toy/gated"),
        ("portal", "toy/portal: not in the Hub's cache, and the Hub cannot be reached"),
        ("no_such", "no/such: no such folder, and no such model on the Hub"),
        ("no_such_revision", "toy/model has no revision v9"),
        ("no_ranges", "the server does not answer requests for a part of a file"),
        (
            "pickled",
            "toy/pickled has no safetensors file, only pytorch_model.bin, which can run code and is never read",
        ),
        ("no_config", "toy/pickled has no config.json"),
        ("evil_index", "toy/evil-index/model.safetensors.index.json: the file name '../../a.safetensors' leads out"),
        ("evil_name", r"toy/evil-name: the file name 'c:\\evil.json' leads out of its folder"),
        ("truncated", f"toy/truncated/{SHARDS[1]} is truncated"),
    ],
)
def test_what_goes_wrong_is_one_line(question: str, problem: str, answers: dict[str, Any]) -> None:
    assert answers[question].startswith("CheckpointError: ") and problem in answers[question]
    assert "\n" not in answers[question]


def test_what_arrives_is_compared_with_the_hubs_own_digests(answers: dict[str, Any]) -> None:
    said, held = answers["damaged"]
    assert held == [] and said == (
        f"toy/damaged/{SHARDS[0]} is damaged: its bytes are not those of the Hub's file; the same call fetches it again"
    )
    assert "toy/damaged/tokenizer.json is damaged" in answers["damaged_small"]


def test_the_cache_is_not_believed(answers: dict[str, Any], offline: dict[str, Any]) -> None:
    names = ["tokenizer.json", "config.json", SHARDS[0]]
    problem = "is damaged: its bytes are not those of the Hub's file; remove"
    assert answers["damaged_in_the_cache"] == [
        f"toy/altered/{name} {problem} BLOB, and the same call goes on" for name in names
    ]
    weights, small = offline["damaged_in_the_cache_offline"]
    assert f"toy/altered/{SHARDS[0]} {problem}" in weights and f"toy/altered/{names[0]} {problem}" in small


def test_a_streamed_file_that_is_written_to_while_it_is_read_is_refused(answers: dict[str, Any]) -> None:
    said, again, kept = answers["changed_while_it_was_read"]
    assert f"toy/plain/{SHARDS[1]} was changed while it was read" in said
    assert f"toy/plain/{SHARDS[1]} is damaged" in again and kept == 1


def test_only_plain_names_are_taken(answers: dict[str, Any]) -> None:
    assert answers["folders_are_left_alone"] == ["tokenizer.json"]


def test_an_upload_sends_the_checkpoint_and_no_other_file(answers: dict[str, Any], desk: Desk) -> None:
    assert answers["uploaded"] == f"{desk.hub.url}/toy/new"
    files = [line["value"] for line in desk.hub.committed if line["key"] == "file"]
    assert {file["path"] for file in files if isinstance(file, dict)} == set(contents(desk.source))


def test_an_unfinished_folder_is_not_uploaded(source: Path) -> None:
    (source / UNFINISHED).write_text('{"command": "mlx-diffusion convert a b"}')
    with pytest.raises(CheckpointError, match="unfinished conversion; to go on, run: mlx-diffusion convert a b"):
        upload(source, "toy/new")


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_network_the_cache_serves(how: str, offline: dict[str, Any], desk: Desk, stored: str) -> None:
    found = offline
    if how == "unreachable":
        found = desk.ask("cached", "not_cached", "cached_in_part", HF_ENDPOINT="http://127.0.0.1:9")
    assert found["cached"] == ["LocalSource", "toy/cached", "c" * 40, stored]
    for question, name in (("not_cached", "toy/absent"), ("cached_in_part", "toy/model")):
        assert found[question].startswith(f"CheckpointError: {name}: not in the Hub's cache, and the Hub cannot be")


def test_a_dry_run_and_a_stream_give_what_a_folder_gives(desk: Desk) -> None:
    """The command, end to end: sizes before anything is fetched, a lost network, and the same command again."""
    files = desk.hub.repos["toy/plain"].files
    source, local, target = (desk.folder / name for name in ("plain", "local", "streamed"))
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    rule = ("--set", "*.self_attn.*=6,32")
    assert main(["convert", str(source), str(local), *rule]) == 0
    weights = [(local / name).read_bytes() for name in SHARDS]

    repo = desk.hub.repos["toy/real"] = Repo(files, sha="d" * 40, lost=frozenset(SHARDS[2:]))
    command = ("convert", "toy/real", str(target), "--stream", *rule)
    (_, dry, _), (code, _, said) = desk.run(("convert", "toy/real", "--dry-run", "--json", *rule), command)
    report = json.loads(dry)
    written = [entry for name in SHARDS for entry in read_header(local / name)]
    assert report["total_bytes"] == sum(entry.tensor.nbytes for entry in written) == sum(report["parts"].values())
    assert report["read_from"] == "safetensors headers" and report["revision"] == "d" * 40

    assert code == 1 and said.splitlines()[-1].endswith("; the same command goes on")
    repo.lost = frozenset()
    asked = len(desk.hub.asked)
    ((code, _, said),) = desk.run(command)
    assert code == 0, said
    downloads = [line for line in desk.hub.asked[asked:] if line.startswith("HEAD ") and "safetensors" in line]
    assert {line.rsplit("/", 1)[1] for line in downloads} == {SHARDS[2]}
    assert [(target / name).read_bytes() for name in SHARDS] == weights
    assert contents(target).keys() == contents(local).keys()


def test_a_folder_is_read_in_place() -> None:
    opened = open_source(FIXTURES / "transformers")
    assert isinstance(opened, LocalSource) and opened.revision is None
    assert opened.fetch(SHARDS[0]) == (FIXTURES / "transformers" / SHARDS[0]).resolve()
    opened.drop(SHARDS[0])
    assert (FIXTURES / "transformers" / SHARDS[0]).is_file()
    with pytest.raises(CheckpointError, match="is a folder and has no revision 'main'"):
        open_source(FIXTURES / "transformers", revision="main")
