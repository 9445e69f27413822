"""Files from outside: read whole and once, never from what does not end, and JSON only so deep."""

import os
import shutil
from pathlib import Path

import pytest

from mlx_diffusion import json_files
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.cli.arguments import read_tools
from mlx_diffusion.convert import convert
from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.json_files import DEEPEST, bounded_json, read_json
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.tokenizer import load_tokenizer


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert read_regular(file, 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_regular(file, 2)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            read_regular(file, 10)
        with pytest.raises(CheckpointError, match="cannot be read as JSON"):
            read_json(file)
        with pytest.raises(PromptError, match="cannot be read"):
            read_tools(str(file))


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/x.jinja"]
)
def test_a_checkpoint_with_a_pipe_among_its_files_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is no regular file; copy the tokenizer"):
        load_tokenizer(folder)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read \(it is no regular file\)"):
        convert(folder, tmp_path / "target")


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    for source in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read \(it is no regular file\)"):
            convert(source, tmp_path.with_name("target"))
    with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read \(it is no regular file\)"):
        read_header(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "no such file"])
def test_a_name_that_no_file_has_is_an_error_of_the_system(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        read_regular(tmp_path / name, 10)
    assert caught.value.strerror


def test_json_is_bounded_in_size_and_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert bounded_json(deepest) == eval(deepest)
    for text in (f'{{"a": {deepest}}}', '{"a": ' * 10_000, f"[{deepest}]"):
        with pytest.raises(ValueError):
            bounded_json(text)
    file = tmp_path / "config.json"
    file.write_text(f'{{"a": {deepest}}}')
    with pytest.raises(CheckpointError, match="it goes more than 100 levels deep"):
        read_json(file)
    monkeypatch.setattr(json_files, "MOST_BYTES", 20)
    with pytest.raises(CheckpointError, match="it has more than 20 bytes"):
        read_json(file)
