"""A conversion as a whole: what it writes and what it refuses."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, SMALL_FILES, contents

import mlx_diffusion
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, UNFINISHED, Checkpoint
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part, quantization_table
from mlx_diffusion.convert import RECIPES, Progress, conversion, convert, plan, quantise, shards, space, tokenizer_trial
from mlx_diffusion.convert.dry_run import dry_run
from mlx_diffusion.convert.source import LocalSource
from mlx_diffusion.errors import CheckpointError, ConversionError, OptionError
from mlx_diffusion.loading import load, load_model
from mlx_diffusion.tokenizer import load_tokenizer


def test_the_output_is_all_there(source: Path, target: Path) -> None:
    result = convert(source, target, "4bit")
    weights = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    rest = ["README.md", "config.json", "made_from.json", "model.safetensors.index.json", *SMALL_FILES]
    assert sorted(contents(target)) == sorted([*weights, *rest])
    for name in SMALL_FILES:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert result.files == weights and result.files_from_earlier == 0

    stored = [entry for name in weights for entry in read_header(target / name)]
    made = apply_recipe([entry.tensor for name in weights for entry in read_header(source / name)], RECIPES["4bit"])
    assert [entry.tensor for entry in stored] == [tensor for piece in made for tensor in piece.written]
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {entry.tensor.name: entry.file for entry in stored}
    assert index["metadata"]["total_size"] == result.total_bytes == sum(entry.tensor.nbytes for entry in stored)
    assert result.parts == bytes_by_part(made)
    table = quantization_table(made)
    raw = json.loads((source / "config.json").read_text())
    assert json.loads((target / "config.json").read_text()) == raw | {
        "quantization": table,
        "quantization_config": table,
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_holds_what_mlx_makes_of_each_tensor(name: str, target: Path) -> None:
    convert(DEMO_FOLDER, target, name)
    load_model(Checkpoint.open(target))
    source = mx.load(str(DEMO_FOLDER / "model.safetensors"))
    made = mx.load(str(target / "model.safetensors"))
    assert isinstance(source, dict) and isinstance(made, dict)
    for piece in apply_recipe(
        [entry.tensor for entry in read_header(DEMO_FOLDER / "model.safetensors")], RECIPES[name]
    ):
        array = source[piece.source.name].astype(mx.bfloat16)
        spec = piece.spec
        results = [array] if spec is None else mx.quantize(array, spec.group_size, spec.bits, spec.mode)
        for tensor, result in zip(piece.written, results, strict=True):
            assert mx.array_equal(made.pop(tensor.name).view(mx.uint8), result.view(mx.uint8)), tensor.name
    assert not made


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", '{"t_min": 0.8, "t_max": 0.4}'),
        ("generation_config.json", '{"max_denoising_steps": 0}'),
        ("generation_config.json", '{"t_min": 0.9}'),  # above the t_max that no one sets
        ("generation_config.json", '{"eos_token_id": 64}'),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_what_loading_would_refuse_is_refused_before_the_weights(
    name: str, content: str | bytes, source: Path, target: Path
) -> None:
    (source / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError) as by_loading:
        load(source)
    for work in (lambda: dry_run(source), lambda: convert(source, target), lambda: convert(source, target, budget=9)):
        with pytest.raises(CheckpointError) as refused:
            work()
        assert str(refused.value) == str(by_loading.value)
    assert not target.exists()


def test_a_large_tokenizer_is_tried_in_another_process(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_trial, "LARGE", 0)
    monkeypatch.setattr(tokenizer_trial, "load_tokenizer", None)
    tokenizer_trial.try_tokenizer(source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError) as by_loading:
        load_tokenizer(source)
    with pytest.raises(CheckpointError) as refused:
        tokenizer_trial.try_tokenizer(source)
    assert str(refused.value) == str(by_loading.value)


def test_a_source_without_a_tokenizer_is_converted_and_told(source: Path, target: Path) -> None:
    (source / "tokenizer.json").unlink()
    told: list[str] = []
    convert(source, target, "4bit", warn=told.append)
    assert [line for line in told if "has no tokenizer.json or tokenizer.model; the output cannot be loaded" in line]


def test_one_file_stays_one_and_has_an_index(target: Path) -> None:
    assert convert(DEMO_FOLDER, target, "bf16").files == ["model.safetensors"]
    assert {"model.safetensors", "model.safetensors.index.json"} < set(contents(target))
    assert "quantization" not in json.loads((target / "config.json").read_text())


def test_a_converted_toy_still_knows_its_tasks(target: Path) -> None:
    convert(DEMO_FOLDER, target, "8bit")
    model, tokenizer = mlx_diffusion.load(target)
    messages = [{"role": "user", "content": "Copy: fig oak ant"}]
    assert mlx_diffusion.generate(model, tokenizer, messages, max_tokens=64) == "fig oak ant"


def test_the_config_says_what_the_tensors_are(source: Path, target: Path) -> None:
    file = source / "config.json"
    raw = json.loads(file.read_text())
    raw["text_config"]["torch_dtype"] = raw["dtype"] = "float32"
    raw["vision_config"] = {"dtype": None}
    file.write_text(json.dumps(raw))
    convert(source, target, "bf16")
    raw["text_config"]["torch_dtype"] = raw["dtype"] = "bfloat16"
    assert json.loads((target / "config.json").read_text()) == raw


def test_own_rules_go_before_the_recipe_s(source: Path, target: Path) -> None:
    convert(source, target, "4bit", rules=["*.self_attn.*=6,32", "*.layers.1.experts.*=bf16"])
    quantization = ModelConfig.from_dict(json.loads((target / "config.json").read_text())).quantization
    assert quantization is not None
    spec = quantization.of("model.decoder.layers.0.self_attn.q_proj")
    assert spec is not None and (spec.bits, spec.group_size) == (6, 32)
    names = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    assert "model.decoder.layers.1.experts.down_proj.scales" not in names
    load_model(Checkpoint.open(target))


def test_it_reports_how_far_it_is(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "CHUNK_BYTES", 2000)
    told: list[Progress] = []
    convert(source, target, report=told.append)
    done = [progress.done_bytes for progress in told]
    assert done == sorted(done) and len(told) > 30
    assert told[-1].fraction == 1.0 and told[-1].seconds_left == 0
    assert [progress.file for progress in told] == sorted(progress.file for progress in told)


def test_large_files_are_split(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = shards.split_into_shards
    monkeypatch.setattr(plan, "split_into_shards", lambda stored, made: split(stored, made, limit=20_000))
    files = convert(source, target).files
    assert len(files) > 4
    for name in files:
        tensors = read_header(target / name)
        assert len(tensors) <= 3 or sum(entry.tensor.nbytes for entry in tensors) <= 20_000
    load_model(Checkpoint.open(target))


def test_a_finished_output_is_kept_without_force(source: Path, target: Path) -> None:
    convert(source, target)
    before = contents(target)
    with pytest.raises(ConversionError, match="is not empty; give another folder, or force=True"):
        convert(source, target, "8bit")
    with pytest.raises(ConversionError, match=r"is finished, by this very conversion; take verify\(\)"):
        convert(source, target)
    with pytest.raises(CheckpointError):
        convert(FIXTURES / "hub", target, "8bit", force=True)  # its rows do not divide: known before anything is lost
    assert contents(target) == before


def test_with_force_nothing_of_the_old_output_is_left(source: Path, target: Path, tmp_path: Path) -> None:
    convert(DEMO_FOLDER, target)  # one file, which would go before an index
    convert(source, target, force=True)
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")


def test_other_people_s_files_are_in_the_way_and_stay(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is not empty"):
        convert(source, target)
    convert(source, target, force=True)
    assert (target / "notes.txt").read_text() == "mine"


def test_a_converted_checkpoint_is_not_converted_again(source: Path, target: Path, tmp_path: Path) -> None:
    for recipe, reason in (("4bit", "is quantised already"), ("bf16", "is converted already")):
        convert(source, target, recipe, force=True)
        with pytest.raises(CheckpointError, match=f"{reason}.*convert the original checkpoint"):
            convert(target, tmp_path / "again", "4bit")
        config = json.loads((target / "config.json").read_text())
        config.pop("quantization", None), config.pop("quantization_config", None)
        (target / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="already; convert the original checkpoint"):
            convert(target, tmp_path / "again", "4bit")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("where", [".", "inside", "..", "./link"])
def test_source_and_output_lie_apart(where: str, source: Path) -> None:
    (source / "link").symlink_to(source)
    with pytest.raises(ConversionError, match="lie within each other"):
        convert(source, source / where, force=True)


def test_a_target_that_is_a_file(source: Path, target: Path) -> None:
    target.write_text("")
    with pytest.raises(ConversionError, match="is a file"):
        convert(source, target)


class Remote:
    """A folder as if it were far away: files are copied when they are fetched, the next one with them."""

    revision = "abc"
    most = 0

    def __init__(self, source: Path, revision: str | None, stream_into: Path) -> None:
        self.folder, self.into, self.label = LocalSource(source), stream_into, "owner/name"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.folder, name)

    def changed(self, shard: str) -> int | None:
        return None

    def download_bytes(self, shards: list[str], at_once: int) -> dict[Path, int]:
        return {self.into: sum(sorted((self.folder.folder / name).stat().st_size for name in shards)[-at_once:])}

    def fetch(self, shard: str, after: str | None = None) -> Path:
        self.into.mkdir(exist_ok=True)
        for name in filter(None, (shard, after)):
            shutil.copyfile(self.folder.fetch(name), self.into / name)
        Remote.most = max(Remote.most, len(contents(self.into)))
        return self.into / shard

    def drop(self, shard: str) -> None:
        (self.into / shard).unlink()


def test_streaming_never_has_more_than_two_files_of_the_source(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "whole")
    monkeypatch.setattr(conversion, "open_source", Remote)
    result = convert(source, target, stream=True)
    assert Remote.most == 2 and (result.source, result.revision) == ("owner/name", "abc")
    streamed, whole = contents(target), contents(tmp_path / "whole")
    assert b"base_model: owner/name" in streamed.pop("README.md") and whole.pop("README.md")
    assert b'"revision": "abc"' in streamed.pop("made_from.json") and whole.pop("made_from.json")
    assert streamed == whole


def test_too_small_a_disk_is_told_at_the_start(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, target)
    needed = sum(map(len, contents(target).values()))
    shutil.rmtree(target)
    monkeypatch.setattr(space, "free_bytes", lambda folder: needed - 1)
    with pytest.raises(ConversionError, match=r"kB are needed and .* kB are free"):
        convert(source, target)
    assert not contents(target)
    monkeypatch.setattr(space, "free_bytes", lambda folder: needed)
    convert(source, target, stream=True)
    shutil.rmtree(target)
    monkeypatch.setattr(conversion, "open_source", Remote)
    with pytest.raises(ConversionError, match="are needed"):  # two files of the source come to it
        convert(source, target, stream=True)


def test_the_space_for_downloads_is_counted_on_their_own_disk(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(LocalSource, "download_bytes", lambda self, shards, at_once: {cache: 1_000_000 * len(shards)})
    convert(source, target, "bf16")
    needed = sum(map(len, contents(target).values()))
    shutil.rmtree(target)
    free = {target: needed + 2_999_999, cache: 3_000_000}
    monkeypatch.setattr(space, "free_bytes", free.get)
    with pytest.raises(ConversionError, match=r"target: 3\.\d+ MB are needed .* with stream=True"):
        convert(source, target, "bf16")
    monkeypatch.setattr(space, "same_disk", lambda folder, other: folder == other)
    convert(source, target, "bf16")
    free[cache] -= 1
    with pytest.raises(ConversionError, match=r"cache: 3\.00 MB are needed and 3\.00 MB are free; .*HF_HOME"):
        convert(source, target, "bf16", force=True)


def test_a_read_only_target_is_one_line(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Iterator[None]:
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConversionError, match=r"target: read-only file system; once that is mended") as caught:
        convert(source, target)
    assert "\n" not in str(caught.value)


def test_bad_numbers_stop_it_by_name_and_leave_it_unfinished(source: Path, target: Path) -> None:
    file = source / "model-00002-of-00003.safetensors"
    entry = read_header(file)[3]
    with file.open("r+b") as stream:
        stream.seek(entry.offset)
        stream.write(np.array([np.inf], np.float32).tobytes()[2:])
    with pytest.raises(CheckpointError, match=rf"model-00002-of-00003\.safetensors: {entry.tensor.name} holds NaN or"):
        convert(source, target)
    assert sorted(path.name for path in target.iterdir()) == ["conversion.json", "model-00001-of-00003.safetensors"]
    with pytest.raises(CheckpointError, match="unfinished"):
        Checkpoint.open(target)


def test_options_are_checked_before_the_source_is_read(target: Path) -> None:
    with pytest.raises(OptionError, match="did you mean '4bit'"):
        convert("no/such/source", target, "4bits")
    with pytest.raises(OptionError, match="no PATTERN=bits"):
        convert("no/such/source", target, rules=["*"])
    assert not target.exists()


@pytest.mark.parametrize("damage", ["missing shard", "cut", "unknown", "no config"])
def test_a_damaged_source_is_refused_before_anything_is_written(damage: str, source: Path, target: Path) -> None:
    file = source / "model-00002-of-00003.safetensors"
    if damage == "missing shard":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif damage == "unknown":
        mx.save_safetensors(str(file), {"model.decoder.what": mx.zeros(1)})
    else:
        (source / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        convert(source, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_an_unfinished_conversion_is_no_source(source: Path, tmp_path: Path) -> None:
    (source / UNFINISHED).write_text('{"command": "mlx-diffusion convert a b"}')
    with pytest.raises(CheckpointError, match="unfinished conversion; to go on, run: mlx-diffusion convert a b"):
        convert(source, tmp_path / "target")


@pytest.mark.skipif(sys.platform == "darwin", reason="paths are UTF-8 there")
def test_paths_that_are_not_utf8(source: Path, tmp_path: Path) -> None:
    """The card is, so it names such a source by its bytes; MLX could not read such an output."""
    odd = source.rename(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    convert(odd, tmp_path / "target")
    assert r"/s\xff" in (tmp_path / "target" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        convert(odd, os.fsdecode(os.fsencode(tmp_path) + b"/t\xff"))


def test_of_another_checkpoint_that_was_replaced_nothing_is_left(source: Path, target: Path, tmp_path: Path) -> None:
    """A tokenizer or a template of the old one would be loaded with the new weights."""
    convert(DEMO_FOLDER, target)
    for name in SMALL_FILES:
        (source / name).unlink()
    convert(source, target, force=True)
    convert(source, tmp_path / "calm")
    assert contents(target) == contents(tmp_path / "calm")
