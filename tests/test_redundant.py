"""Tensors that only repeat others are dropped if they do, and an error if they do not."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import contents, loaded, write_source
from foreign_layouts import Written, bf16, of_bf16, read_files, write_files, write_layout

import mlx_diffusion.convert.quantise as quantise_module
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.tensor_names import EMBEDDINGS
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.verify import verify
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.loading import load_model

LAYER = "model.encoder.language_model.layers.1"
SLIDING = 10000.0 ** (-np.arange(0, 16, 2) / 16)
FULL = np.where(np.arange(16) < 4, 1e6 ** (-np.arange(0, 32, 2) / 32), 0)


def extras(written: Written) -> Written:
    """Every kind of tensor that repeats others, as other tools have left it behind."""
    copies = {
        name.replace("model.decoder.layers.1", LAYER): written[name] for name in written if "decoder.layers.1" in name
    }
    return {
        "lm_head.weight": written[EMBEDDINGS],
        **{name: stored for name, stored in copies.items() if not name.endswith("layer_scalar")},
        "model.encoder.language_model.embed_tokens.weight": written[EMBEDDINGS],
        "model.encoder.language_model.norm.weight": written["model.decoder.norm.weight"],
        "model.decoder.layers.0.self_attn.rotary_emb.inv_freq": ("F32", SLIDING.astype(np.float32)),
        "model.decoder.rotary_emb.full_attention_inv_freq": bf16(FULL),
        "model.encoder.language_model.rotary_emb.inv_freq": ("F32", FULL.astype(np.float32)),
        "model.encoder.embed_audio.embedding_projection.weight": bf16(np.ones((64, 8))),
        "model.embed_audio.embedding_pre_projection_norm.weight": bf16(np.ones(8)),
    }


@pytest.fixture(scope="module", params=["hub", "fp8"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    source = write_source(folder / "source", shards=1)
    return source if request.param == "hub" else write_layout(source, folder / "fp8", "fp8")


def with_extras(plain: Path, folder: Path, edit: Callable[[Written], None] = lambda written: None) -> Path:
    folder.mkdir()
    for file in plain.iterdir():
        if "safetensors" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    written = read_files(plain)
    added = extras(written)
    edit(added)
    write_files(folder, written | added, shards=3)
    return folder


def test_what_only_repeats_is_dropped(
    plain: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_module, "CHUNK_BYTES", 3000)
    source = with_extras(plain, tmp_path / "source")
    convert(source, target, "bf16")
    convert(plain, tmp_path / "plain", "bf16")
    made, expected = loaded(target), loaded(tmp_path / "plain")
    assert made.keys() == expected.keys()
    assert all(mx.array_equal(made[name], expected[name]) for name in made)
    assert verify(source, target).ok
    before = contents(target)
    assert convert(source, target, "bf16", reuse=True).finished_earlier and contents(target) == before


def broken(name: str) -> Callable[[Written], None]:
    """Changes the last number of a tensor."""

    def edit(written: Written) -> None:
        kind, bits = written[name]
        bits = bits.copy()
        bits.reshape(-1)[-1] = (
            bits.reshape(-1)[-1] + 1 if kind != "BF16" else bf16(of_bf16(bits) + 1)[1].reshape(-1)[-1]
        )
        written[name] = kind, bits

    return edit


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lm_head.weight",
            "lm_head.weight is a copy of model.decoder.embed_tokens.weight by its name, and its numbers",
        ),
        (
            f"{LAYER}.experts.down_proj",
            f"{LAYER}.experts.down_proj is a copy of model.decoder.layers.1.experts.down_proj",
        ),
        (f"{LAYER}.input_layernorm.weight", "input_layernorm.weight by its name, and its numbers are others"),
        ("model.decoder.layers.0.self_attn.rotary_emb.inv_freq", "has other frequencies than config.json"),
        ("model.decoder.rotary_emb.full_attention_inv_freq", "has other frequencies than config.json"),
    ],
)
def test_what_repeats_something_else_is_an_error(name: str, message: str, tmp_path: Path, target: Path) -> None:
    plain = write_source(tmp_path / "plain", shards=1)
    load_model(Checkpoint.open(with_extras(plain, tmp_path / "right")))
    source = with_extras(plain, tmp_path / "source", broken(name))
    with pytest.raises(CheckpointError, match=message):
        convert(source, target)
    with pytest.raises(CheckpointError, match=message):
        load_model(Checkpoint.open(source))


@pytest.mark.parametrize(
    ("name", "stored", "message"),
    [
        ("lm_head.weight", bf16(np.ones((3, 64))), r"has the shape \[3, 64\] where that has \[64, 64\]"),
        ("model.encoder.embed_audio.embedding_projection.weight", bf16(np.ones((8, 64))), "is no embedder of audio"),
        ("model.encoder.embed_audio.x", ("U8", np.zeros(4, np.uint8)), "is no embedder of audio"),
        ("model.decoder.extra.weight", bf16(np.ones(3)), "no part of DiffusionGemma"),
        ("lm_head.weight", ("I16", np.ones((64, 64), np.int16)), "by its name, and holds I16, not one of"),
        ("model.decoder.rotary_emb.inv_freq", ("F64", np.ones(8)), "by its name, and holds F64, not one of"),
        # Python makes no number of so many digits.
        (f"model.decoder.layers.{'9' * 5000}.self_attn.rotary_emb.inv_freq", bf16(np.ones(8)), "no part of Diffusion"),
        (f"model.decoder.layers.0.experts.{'9' * 5000}.up_proj.weight", bf16(np.ones((8, 64))), "no part of Diffusion"),
    ],
)
def test_what_headers_tell_is_an_error_at_once(
    name: str, stored: tuple[str, np.ndarray], message: str, tmp_path: Path, target: Path
) -> None:
    def edit(written: Written) -> None:
        written[name] = stored

    source = with_extras(write_source(tmp_path / "plain", shards=1), tmp_path / "source", edit)
    with pytest.raises(CheckpointError, match=message):
        convert(source, target)
    assert not target.exists()
