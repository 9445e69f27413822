"""From a folder to a model: what load returns, how much memory it takes, and that nothing is half done."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, config_dict, hub_tensors, write_checkpoint

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load, load_model
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage


def test_load_gives_a_model_a_tokenizer_and_the_checkpoint_s_defaults(checkpoint_folder: Path) -> None:
    model, tokenizer = load(str(checkpoint_folder))
    assert isinstance(model, DiffusionGemma)
    assert model.config.canvas_length == 16
    assert model.generation_defaults.max_denoising_steps == 24
    assert tokenizer is not None


def test_paths_and_strings_are_alike() -> None:
    cache_a, cache_b = (load(kind(FIXTURES / "hub"))[0].make_cache() for kind in (str, Path))
    assert cache_a.offset == cache_b.offset == 0


def test_a_revision_is_of_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repo_id: str, **how: Any) -> str:
        asked.append((repo_id, how["revision"]))
        return str(FIXTURES / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load("toy/model", revision="v1")
    load("toy/model")
    assert asked == [("toy/model", "v1"), ("toy/model", None)]
    for place in ("demo", FIXTURES / "hub"):
        with pytest.raises(CheckpointError, match="no revision 'v1'"):
            load(place, revision="v1")


def test_no_such_folder() -> None:
    with pytest.raises(CheckpointError, match=r"^\./nope: no such folder"):
        load("./nope")


@pytest.mark.parametrize(
    "text",
    [{"head_dim": 2**28}, {"vocab_size": 2**30}, {"moe_intermediate_size": 2**30}, {"num_attention_heads": 2**20}],
)
def test_sizes_that_the_files_do_not_have_are_refused_before_anything_is_made(
    text: dict[str, int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"].update(text)
    (folder / "config.json").write_text(json.dumps(raw))
    monkeypatch.delattr("mlx_diffusion.loading.DiffusionGemma")
    with pytest.raises(CheckpointError, match=r"config.json describes a model of [\d,]+ weights, and the weight files"):
        load(folder)


def test_a_stop_token_beyond_the_vocabulary_is_refused(folder: Path) -> None:
    model, tokenizer = load(folder)
    last = model.config.vocab_size - 1
    with pytest.raises(OptionError, match=f"eos_token_id is {last + 1}; the vocabulary has ids 0 to {last}"):
        stream_generate(model, tokenizer, [1], eos_token_id=(last, last + 1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, last + 1]}))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: eos_token_id = {last + 1} must be below"):
        load(folder)


@pytest.mark.parametrize("name", ["x" * 300, "./" + "y" * 300, "a\0b", "~a\0/b", Path("z" * 300)])
def test_names_that_no_file_can_have_are_one_line(name: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be opened \(.+\); give a folder, a Hub id or demo"):
        load(name)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_there_is_never_a_second_copy_in_memory(tmp_path: Path, dtype: mx.Dtype) -> None:
    sizes: dict[str, Any] = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 256, "num_experts": 4}
    raw = config_dict(**sizes, moe_intermediate_size=128)
    tensors = hub_tensors(ModelConfig.from_dict(raw))
    whole, largest = (f(t.size * 4 for t in tensors.values()) for f in (sum, max))
    write_checkpoint(tmp_path, raw, {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    del tensors
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model = load_model(Checkpoint.open(tmp_path))
    assert whole > 6 * largest  # so that the bounds below mean something
    assert mx.get_peak_memory() - before < whole + 2 * largest

    mx.reset_peak_memory()
    cache = model.make_cache()
    mx.eval(model.encode([Passage(mx.zeros(4, dtype=mx.int32), cache)]))
    assert mx.get_peak_memory() - before < whole + 2 * largest


def test_a_checkpoint_that_is_written_reads_back(tmp_path: Path) -> None:
    raw = config_dict()
    tensors = hub_tensors(ModelConfig.from_dict(raw), seed=4)
    model = load_model(Checkpoint.open(write_checkpoint(tmp_path, raw, tensors)))
    assert np.array_equal(
        np.asarray(model.embed_tokens.weight), np.asarray(tensors["model.decoder.embed_tokens.weight"])
    )
