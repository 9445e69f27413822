"""Finding a checkpoint, and refusing files that are missing, truncated or something else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import mlx.core as mx
import pytest
from conftest import FIXTURES
from huggingface_hub import errors as hub
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint, find_folder
from mlx_diffusion.checkpoint.hub_errors import http_error
from mlx_diffusion.checkpoint.weight_files import INDEX_FILE, weight_names
from mlx_diffusion.errors import CheckpointError


def test_demo_is_the_bundled_folder() -> None:
    assert find_folder("demo") == DEMO_FOLDER and DEMO_FOLDER.parent.name == "mlx_diffusion"


def test_a_folder_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_folder(folder) == find_folder(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert find_folder("checkpoint") == Path("checkpoint")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_folder("~/checkpoint") == folder
    (folder.parent / "owner" / "name").mkdir(parents=True)
    assert find_folder("owner/name") == Path("owner/name")  # a folder that is there goes before a Hub id


@pytest.mark.parametrize(
    "path", ["./nope", "/no/such", "~/nope", "nope", "a/b/c", "a b/c", "owner/", "../a", Path("a/b")]
)
def test_what_looks_like_a_path_is_not_sought_on_the_hub(path: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(CheckpointError, match="no such folder"):
        find_folder(path)


@pytest.mark.skipif(sys.platform == "darwin", reason="paths are UTF-8 there")
def test_a_path_that_mlx_cannot_take_is_one_line(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no path that is not UTF-8; rename the folder"):
        Checkpoint.open(folder.rename(os.fsdecode(os.fsencode(folder) + b"\xff")))


def test_a_folder_of_someone_else_s_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & (os.R_OK | os.X_OK))  # who is root may read all
    with pytest.raises(CheckpointError, match="may not be read by this user"):
        find_folder(folder)


def test_what_names_nothing_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, problem in (("", "name is empty"), ("~nobody-of-that-name/x", "no such folder")):
        with pytest.raises(CheckpointError, match=problem):
            find_folder(path)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find_folder(folder / "config.json")


def answer(kind: type[Exception]) -> Exception:
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("first line\nsecond line", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answer(hub.RepositoryNotFoundError), "no such model on the Hub"),
        (answer(hub.GatedRepoError), "accept its licence first"),
        (hub.HFValidationError("bad"), "no such model on the Hub"),
        (hub.LocalEntryNotFoundError("gone"), "not in the Hub's cache"),
        (hub.OfflineModeIsEnabled("off"), "not in the Hub's cache"),
        (answer(hub.RevisionNotFoundError), "has no revision"),
        (answer(hub.HfHubHTTPError), r"the download failed \(first line\)"),
        (http_error()("connection lost"), r"the download failed \(connection lost\)"),
        (RuntimeError("CAS lost"), r"the download failed \(CAS lost\)"),
        (OSError("disk full"), r"the download failed \(disk full\)"),
        (ValueError("no JSON"), r"the download failed \(no JSON\)"),
        (KeyError("sha"), r"the download failed \('sha'\)"),
        (UnicodeDecodeError("ascii", b"\xff", 0, 1, "odd host"), r"the download failed \(.*odd host\)"),
    ],
)
def test_every_failure_of_the_hub_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_folder("owner/name")
    assert str(caught.value).startswith("owner/name") and "\n" not in str(caught.value)


def test_the_cache_serves_offline(tmp_path: Path) -> None:
    """With the real huggingface_hub: HF_HOME is honoured, and offline mode finds what is there and no more."""
    repo, revision = tmp_path / "hub" / "models--toy--model", "0" * 40
    shutil.copytree(FIXTURES / "hub", repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    program = (
        "from mlx_diffusion.checkpoint.folder import find_folder\n"
        "print(find_folder('toy/model'))\n"
        "try:\n    find_folder('toy/other')\nexcept ValueError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    found, missing = done.stdout.splitlines()
    assert found == str(repo / "snapshots" / revision)
    assert missing.startswith("toy/other: not in the Hub's cache")


def test_one_file_and_shards_are_opened(checkpoint_folder: Path) -> None:
    opened = Checkpoint.open(checkpoint_folder)
    assert len(opened.files) == {"hub": 1, "transformers": 3, "two-full": 2}[checkpoint_folder.name]
    tensors = opened.tensors()
    assert "model.decoder.norm.weight" in tensors
    assert len(tensors) == sum(len(mx.load(str(file))) for file in opened.files)


@pytest.mark.parametrize("name", ["anything.safetensors", "model-00001-of-00001.safetensors"])
def test_without_an_index_every_file_counts(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert [file.name for file in Checkpoint.open(folder).files] == [name]


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "transformers", tmp_path / "c")
    (tmp_path / "c" / "adapter.safetensors").write_bytes(b"something else")
    assert len(Checkpoint.open(tmp_path / "c").files) == 3


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[]", "holds no JSON object")])
def test_config_that_is_no_config(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json {message}"):
        Checkpoint.open(folder)


def test_config_errors_name_the_file(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"checkpoint/config\.json: the field text_config\.head_dim is missing"):
        Checkpoint.open(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no safetensors file"):
        Checkpoint.open(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "transformers", tmp_path / "c")
    (tmp_path / "c" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 weight files is missing, the first is model-00002-of-00003"):
        Checkpoint.open(tmp_path / "c")


def cached(tmp_path: Path, *lost: str) -> Path:
    """A checkpoint as the Hub's cache keeps it, of links; what they lead to is lost for some."""
    repo = tmp_path / "models--toy--model"
    folder, blobs = repo / "snapshots" / ("0" * 40), repo / "blobs"
    folder.mkdir(parents=True)
    shutil.copytree(FIXTURES / "hub", blobs)
    for blob in blobs.iterdir():
        (folder / blob.name).symlink_to(f"../../blobs/{blob.name}")
    for name in lost:
        (blobs / name).unlink()
    return folder


@pytest.mark.parametrize("lost", [("model.safetensors",), ("config.json",), ("tokenizer.json", "model.safetensors")])
def test_a_damaged_cache_says_what_is_missing(lost: tuple[str, ...], tmp_path: Path) -> None:
    folder = cached(tmp_path, *lost)
    more = " and 1 more" if len(lost) > 1 else ""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert str(caught.value) == (
        f"{folder}: {min(lost)}{more} cannot be read, a link to a file that is gone; the Hub's cache is damaged: "
        "connect, and load toy/model again"
    )
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    with pytest.raises(CheckpointError, match="cannot be read, a link to a file that is gone; copy"):
        Checkpoint.open(copy)


def test_a_download_that_broke_off_is_named(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the download of toy/model broke off before its weights came; connect"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/m.safetensors", "a/m.safetensors", "a\\m", "..", "m\0", ""]
)
def test_an_index_that_leads_out_of_the_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.decoder.norm.weight": name}})
    )
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("with_config", [True, False])
def test_a_gguf_is_named(folder: Path, with_config: bool) -> None:
    (folder / "model.safetensors").rename(folder / "model-Q4_K_M.gguf")
    if not with_config:
        (folder / "config.json").unlink()
    for place in (folder, folder / "model-Q4_K_M.gguf"):
        with pytest.raises(
            CheckpointError, match=r"GGUF.*mlx-diffusion convert (.*model-Q4_K_M\.gguf) OUTPUT"
        ) as caught:
            Checkpoint.open(find_folder(place))
        assert f"convert {folder}/model-Q4_K_M.gguf OUTPUT" in str(caught.value)  # the command as it can be run


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no safetensors file, only pytorch_model\.bin, which can run code"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_a_map(tmp_path: Path, index: str) -> None:
    shutil.copytree(FIXTURES / "transformers", tmp_path / "c")
    (tmp_path / "c" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="has no weight_map"):
        Checkpoint.open(tmp_path / "c")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "transformers", tmp_path / "c")
    first, second = (tmp_path / "c" / f"model-0000{n}-of-00003.safetensors" for n in (1, 2))
    shutil.copyfile(first, second)
    with pytest.raises(CheckpointError, match="is there twice"):
        Checkpoint.open(tmp_path / "c").tensors()


WHOLE = (FIXTURES / "hub" / "model.safetensors").read_bytes()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_any_truncation_is_seen(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    shutil.copyfile(FIXTURES / "hub" / "config.json", folder / "config.json")
    (folder / "model.safetensors").write_bytes(WHOLE[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated.*download it again"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        (2).to_bytes(8, "little") + b"[]",
        (3).to_bytes(8, "little") + b"{,}",
        (8).to_bytes(8, "little") + b'{"a": 1}',
        (4).to_bytes(8, "little") + b'"\xff\xfe"',
    ],
)
def test_files_that_are_no_safetensors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"(truncated or no safetensors file|no readable safetensors header)"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_numbered_file_that_nobody_names_is_missed(index: bool, number: int) -> None:
    """A whole vision tower may be in it, which no other check would miss."""
    names = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    others = [name for name in names if str(number) not in name[:11]]
    files = [*names, INDEX_FILE] if index else others
    with pytest.raises(CheckpointError, match=rf"2 weight files of 3, {names[number - 1]} is not among them"):
        weight_names(files, lambda: {"weight_map": dict(enumerate(others))}, "here")
    assert weight_names([*names, INDEX_FILE], lambda: {"weight_map": dict(enumerate(names))}, "here") == names
    counted_from_zero = [f"model-0000{n}-of-00002.safetensors" for n in (0, 1)]
    assert weight_names(counted_from_zero, dict, "here") == counted_from_zero
