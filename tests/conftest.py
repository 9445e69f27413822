"""What several tests share: the recorded reference runs, their tapes, and small checkpoints made on the spot."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported, whose other threads would wait busily

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import settings

from mlx_diffusion import device
from mlx_diffusion.checkpoint.config import LayerType, ModelConfig
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint, find_folder
from mlx_diffusion.loading import load, load_model
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
RUNS = json.loads((FIXTURES / "runs.json").read_text())
settings.register_profile("repeatable", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("repeatable")
CHECKPOINTS = sorted({run["checkpoint"] for run in RUNS} - {"demo"})
if hasattr(os, "SCHED_BATCH"):  # MLX's thread gets its work in many small pieces: it need not interrupt for each
    with suppress(OSError):  # some containers do not allow it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
if hasattr(os, "sched_setaffinity"):  # on two cores, that thread and this one would wake each other at every piece
    CORES = sorted(os.sched_getaffinity(0))
    pytest.MonkeyPatch().setattr(device, "cores", lambda: len(CORES))  # what is spread over cores is so here, too
    with suppress(OSError):
        os.sched_setaffinity(0, {CORES[os.getpid() % len(CORES)]})


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """What is there before a module's tests stays to the end: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Tape:
    """Pre-drawn randomness, exactly as the reference recorder draws it. Blocks first, then steps."""

    initial: np.ndarray  # int32 [blocks, B, L]
    renoise: np.ndarray  # int32 [blocks, steps, B, L]
    rest: np.random.Generator  # that has drawn both
    vocab: int
    drawn: list[np.ndarray] = field(default_factory=list)  # of the Gumbel noise, which comes last

    @classmethod
    def draw(cls, seed: int, blocks: int, steps: int, batch: int, canvas: int, vocab: int) -> Tape:
        rng = np.random.default_rng(seed)
        initial = rng.integers(0, vocab, (blocks, batch, canvas), dtype=np.int32)
        return cls(initial, rng.integers(0, vocab, (blocks, steps, batch, canvas), dtype=np.int32), rng, vocab)

    def gumbel(self, block: int, step: int) -> np.ndarray:
        """float32 [B, L, V], of all steps in turn: there are many, and they are drawn as far as a run goes."""
        steps, *shape = self.renoise.shape[1:]
        while len(self.drawn) <= block * steps + step:
            self.drawn.append(self.rest.gumbel(size=(*shape, self.vocab)).astype(np.float32))
        return self.drawn[block * steps + step]


@dataclass(frozen=True)
class ReferenceRun:
    """One run of Transformers. Steps of all blocks stand one after another in canvas, argmax, accepted, entropy."""

    name: str
    checkpoint: Path
    max_new_tokens: int
    prompt_ids: np.ndarray  # int32 [B, P]
    prompt_mask: np.ndarray  # int8 [B, P], 0 is left padding
    tape: Tape
    steps: np.ndarray  # int32 [blocks that ran]
    canvas: np.ndarray  # int32 [all steps, B, L], what the decoder was given
    argmax: np.ndarray  # int32 [all steps, B, L]
    accepted: np.ndarray  # bool [all steps, B, L]
    entropy: np.ndarray  # float32 [all steps, B, L], nats
    sequences: np.ndarray  # int32 [B, P + new]
    encoder_last_hidden: np.ndarray  # float32 [B, P, D]
    first_logits: np.ndarray  # float32 [B, the first positions of L, V], softcapped, before temperature

    @property
    def left_padding(self) -> list[int]:
        return [int(n) for n in (self.prompt_mask == 0).sum(axis=1)]

    @property
    def prompts(self) -> list[list[int]]:
        """The rows without their padding."""
        return [row[pads:].tolist() for row, pads in zip(self.prompt_ids, self.left_padding, strict=True)]


def read_run(run: dict[str, Any]) -> ReferenceRun:
    folder = find_folder("demo") if run["checkpoint"] == "demo" else FIXTURES / run["checkpoint"]
    steps = json.loads((folder / "generation_config.json").read_text())["max_denoising_steps"]
    config = json.loads((folder / "config.json").read_text())
    with np.load(FIXTURES / "runs" / f"{run['name']}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    blocks = math.ceil(run["max_new_tokens"] / config["canvas_length"])
    shape = (len(arrays["prompt_ids"]), config["canvas_length"], config["text_config"]["vocab_size"])
    tape = Tape.draw(run["seed"], blocks, steps, *shape)
    return ReferenceRun(name=run["name"], checkpoint=folder, max_new_tokens=run["max_new_tokens"], tape=tape, **arrays)


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: run["name"])
def reference_run(request: pytest.FixtureRequest) -> ReferenceRun:
    """Every recorded run in turn, read-only: it is read once for all tests of a module."""
    return read_run(request.param)


MODELS: dict[Path, DiffusionGemma] = {}


def model_of(folder: Path) -> DiffusionGemma:
    """The model of a folder, loaded once per session; tests read it and do not change it."""
    if folder not in MODELS:
        MODELS[folder] = load_model(Checkpoint.open(folder))
    return MODELS[folder]


@cache
def narrow_toy() -> tuple[DiffusionGemma, Tokenizer]:
    """The toy's vocabulary and canvases in two narrow layers of random weights: it writes what cannot be foreseen."""
    model, tokenizer = load(DEMO_FOLDER)
    kinds: tuple[LayerType, ...] = ("sliding_attention", "full_attention")
    config = replace(model.config, hidden_size=32, intermediate_size=32, num_experts=2, layer_types=kinds)
    mx.random.seed(5)
    return DiffusionGemma(config, model.generation_defaults), tokenizer


@pytest.fixture
def reference_model(reference_run: ReferenceRun) -> DiffusionGemma:
    """The model that the recorded run ran on."""
    return model_of(reference_run.checkpoint)


@pytest.fixture(params=CHECKPOINTS)
def checkpoint_folder(request: pytest.FixtureRequest) -> Path:
    """Every small checkpoint in turn, read-only."""
    return FIXTURES / request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of one small checkpoint (one file, the Hub's spelling) for a test to damage."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(FIXTURES / "hub", copy)
    return copy


def config_dict(**text: Any) -> dict[str, Any]:
    """A config.json in the Hub's spelling, of sizes that quantise; keywords replace fields of text_config."""
    return {
        "model_type": "diffusion_gemma",
        "canvas_length": 8,
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": 64,
            "hidden_size": 64,
            "intermediate_size": 64,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "head_dim": 16,
            "global_head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "attention_bias": False,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "final_logit_softcapping": 30.0,
            "use_bidirectional_attention": "vision",
            "num_experts": 4,
            "top_k_experts": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1000000.0,
                },
            },
        }
        | text,
    }


def hub_tensors(config: ModelConfig, seed: int = 0) -> dict[str, mx.array]:
    """Random weights in the Hub's names and shapes, scaled so that activations stay calm."""
    rng = np.random.default_rng(seed)
    hidden, experts, inner = config.hidden_size, config.num_experts, config.moe_intermediate_size

    def matrix(*shape: int) -> mx.array:
        return mx.array(rng.normal(size=shape).astype(np.float32) * shape[-1] ** -0.5)

    def vector(size: int) -> mx.array:
        return mx.array(1 + 0.2 * rng.normal(size=size).astype(np.float32))

    tensors = {
        "model.decoder.embed_tokens.weight": matrix(config.vocab_size, hidden) * 12,
        "model.decoder.norm.weight": vector(hidden),
        "model.decoder.self_conditioning.pre_norm.weight": vector(hidden),
        "model.encoder.embed_vision.embedding_projection.weight": matrix(hidden, 8),
    }

    def mlp(prefix: str) -> None:
        tensors[f"{prefix}.gate_proj.weight"] = matrix(config.intermediate_size, hidden)
        tensors[f"{prefix}.up_proj.weight"] = matrix(config.intermediate_size, hidden)
        tensors[f"{prefix}.down_proj.weight"] = matrix(hidden, config.intermediate_size)

    mlp("model.decoder.self_conditioning")
    for number, layer_type in enumerate(config.layer_types):
        layer = f"model.decoder.layers.{number}"
        heads, (kv_heads, head_dim) = config.num_attention_heads, config.head_shape(layer_type)
        mlp(f"{layer}.mlp")
        tensors[f"{layer}.self_attn.q_proj.weight"] = matrix(heads * head_dim, hidden)
        tensors[f"{layer}.self_attn.k_proj.weight"] = matrix(kv_heads * head_dim, hidden)
        if layer_type == "sliding_attention":
            tensors[f"{layer}.self_attn.v_proj.weight"] = matrix(kv_heads * head_dim, hidden)
        tensors[f"{layer}.self_attn.o_proj.weight"] = matrix(hidden, heads * head_dim)
        for norm in ("q_norm", "k_norm"):
            tensors[f"{layer}.self_attn.{norm}.weight"] = vector(head_dim) * 0.5
        tensors[f"{layer}.router.proj.weight"] = matrix(experts, hidden)
        tensors[f"{layer}.router.scale"] = vector(hidden)
        tensors[f"{layer}.router.per_expert_scale"] = vector(experts)
        tensors[f"{layer}.experts.gate_up_proj"] = matrix(experts, 2 * inner, hidden)
        tensors[f"{layer}.experts.down_proj"] = matrix(experts, hidden, inner)
        for norm in ("input_layernorm", "pre_feedforward_layernorm", "pre_feedforward_layernorm_2"):
            tensors[f"{layer}.{norm}.weight"] = vector(hidden)
        for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = vector(hidden) * 0.25
        for norm in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2"):
            tensors[f"{layer}.{norm}.weight"] = vector(hidden) * 0.25
        tensors[f"{layer}.layer_scalar"] = vector(1)
        tensors[f"model.encoder.language_model.layers.{number}.layer_scalar"] = vector(1)
    return tensors


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, mx.array]) -> Path:
    """A folder with config.json and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    return folder


def write_shallow(source: Path, target: Path, canvas: int | None = None, **generation: Any) -> Path:
    """A copy of a small checkpoint with its first and its last layer alone: sizes as they were, fewer operations.

    `canvas` is another length of its canvases; keywords replace fields of its generation_config.json.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    defaults = json.loads((source / "generation_config.json").read_text())
    (target / "generation_config.json").write_text(json.dumps(defaults | generation))
    raw = json.loads((source / "config.json").read_text())
    raw["canvas_length"] = canvas or raw["canvas_length"]
    last = raw["text_config"]["num_hidden_layers"] - 1
    types = [raw["text_config"]["layer_types"][layer] for layer in (0, last)]
    raw["text_config"] |= {"num_hidden_layers": 2, "layer_types": types}
    tensors = {}
    for name, array in loaded(source).items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layer is None or int(layer[1]) in (0, last):
            tensors[name if layer is None else name.replace(f".layers.{last}.", ".layers.1.")] = array
    return write_checkpoint(target, raw, tensors)


SIZES = {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2, "moe_intermediate_size": 64}
SMALL_FILES = ["chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def write_source(folder: Path, shards: int = 3, **text: Any) -> Path:
    """A small checkpoint in the Hub's format whose tensors lie in several files, with all that lies beside them."""
    raw = config_dict(**(SIZES | text))
    tensors = hub_tensors(ModelConfig.from_dict(raw))
    folder.mkdir(parents=True)
    names = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    weight_map = {name: names[n * shards // len(tensors)] for n, name in enumerate(tensors)}
    for file in names:
        own = {name: tensors[name].astype(mx.bfloat16) for name in tensors if weight_map[name] == file}
        mx.save_safetensors(str(folder / file), own, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(raw | {"something": [1, "ü"]}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: https://example.org\n---\n# Source\n")
    for name in SMALL_FILES:
        shutil.copyfile(FIXTURES / "hub" / name, folder / name)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def loaded(folder: Path) -> dict[str, mx.array]:
    """The tensors of all files of a folder."""
    arrays: dict[str, mx.array] = {}
    for file in folder.glob("*.safetensors"):
        found = mx.load(str(file))
        assert isinstance(found, dict)
        arrays |= found
    return arrays
