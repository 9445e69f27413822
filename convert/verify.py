"""A conversion held against its source: every tensor by itself, and what the model says with all of them.

Tensors must be as near to the source as their format allows (see tensor_errors). The logits of a few canvases, random
and converged ones, are compared by Kullback-Leibler divergence and by how often the most likely token is the same. Both
checkpoints run layer by layer, so memory is bounded by one layer, the embeddings and, for the converged canvases, the
converted model. Knows nothing of the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffusion.cache import PrefixCache
from mlx_diffusion.checkpoint import Checkpoint
from mlx_diffusion.denoise import denoise_canvas
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.loading import load_model
from mlx_diffusion.model import DiffusionGemma
from mlx_diffusion.noise import KeyedNoise
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.quantization import Quantization, QuantSpec
from mlx_diffusion.tensors import Stored, read_header
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

from .footprint import grid
from .layerwise import Draft, hidden_states, load_ends
from .layout import PARTS, module_of, part_of, pieces
from .recipes import Recipe
from .tensor_errors import TensorError, tensor_errors
from .words import spec_text

PROMPTS = ("Copy: fig oak ant", "In words: 4217", "Write one sentence about rain.")
LOGIT_ROWS = 16  # positions whose logits are compared at once: two arrays of 17 MB at the real size
SEED = 0

# The most that the divergence may be (nats, mean over positions) and the least share of equal tokens, by the fewest
# bits of any matrix. What a loss in the weights does depends on the model; the bundled checkpoint stays below a tenth
# of each divergence. The tensors' own errors are the sharp test; these catch what is right tensor by tensor, and wrong
# as a model.
BOUNDS: Mapping[int, tuple[float, float]] = {
    16: (0.0, 1.0),
    8: (0.02, 0.95),
    6: (0.05, 0.9),
    5: (0.1, 0.85),
    4: (0.5, 0.7),
    3: (2.0, 0.4),
    2: (10.0, 0.0),
}


@dataclass(frozen=True)
class LogitError:
    """How far the logits of some canvases are from the source's, over all their positions."""

    canvases: str
    divergence: float  # source from converted, in nats, mean over positions
    worst: float  # the largest of any position
    equal: float  # share of positions with the same most likely token


@dataclass(frozen=True)
class Report:
    """What a verification found."""

    tensors: Sequence[TensorError]
    logits: Sequence[LogitError]
    bits: int  # the fewest of any matrix

    @property
    def problems(self) -> list[str]:
        """What is worse than it may be, a line each."""
        most, least = BOUNDS[self.bits]
        lines = [
            f"{error.name}: error {error.found:.2e}, {error.expected:.2e} is what {spec_text(error.spec)} gives"
            for error in self.tensors
            if not error.ok
        ]
        for error in self.logits:
            if not error.divergence <= most:
                lines.append(
                    f"{error.canvases} canvases: divergence {error.divergence:.4f} nats, at most {most} is right"
                )
            if not error.equal >= least:
                lines.append(
                    f"{error.canvases} canvases: {error.equal:.1%} equal tokens, at least {least:.0%} are right"
                )
        return lines

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "problems": self.problems,
            "tensors": [asdict(error) | {"ok": error.ok} for error in self.tensors],
            "logits": [asdict(error) for error in self.logits],
        }

    def table(self) -> str:
        """The tensors by part, the worst named, and the logits."""
        parts = []
        for part in PARTS:
            own = [error for error in self.tensors if part_of(error.name) == part]
            if own:
                worst = max(own, key=lambda error: error.found)
                formats = ", ".join(dict.fromkeys(spec_text(error.spec) for error in own))
                parts.append([part, str(len(own)), formats, f"{worst.found:.4f}", f"{worst.expected:.4f}", worst.name])
        logits = [
            [error.canvases, f"{error.divergence:.5f}", f"{error.worst:.4f}", f"{error.equal:.2%}"]
            for error in self.logits
        ]
        return "\n".join(
            [
                *grid(["part", "tensors", "kept as", "largest error", "format gives", "of"], parts),
                "",
                *grid(["canvases", "divergence (nats)", "worst position", "same token"], logits),
                "",
                *(self.problems or ["The output is what its recipe makes of the source."]),
            ]
        )


def verify(source: Path, target: Path, *, report: Callable[[float, str], None] | None = None) -> Report:
    """Compare a finished conversion with the folder that it was made from.

    `report` is told the share that is done and what is at work. Raises CheckpointError for folders that cannot be read
    and ConversionError where the target is no conversion of the source.
    """
    original, converted = Checkpoint.open(source), Checkpoint.open(target)
    tell = report or (lambda share, label: None)
    stored, kept = _stored(original.files), _stored(converted.files)
    ordered = [entry.tensor for _, entry in stored.values()]
    made = pieces(ordered, _recipe(converted.config.quantization, kept))
    missing = [tensor.name for piece in made for tensor in piece.written if tensor != _tensor(kept, tensor.name)]
    if missing:
        raise ConversionError(f"{target} is no conversion of {source}: {missing[0]} is missing or of another shape")
    total = sum(tensor.nbytes for tensor in ordered)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        tell(0.5 * done / total, "tensors")

    errors = list(tensor_errors(stored, kept, made, advance))
    bits = min((piece.spec.bits for piece in made if piece.spec is not None), default=16)
    return Report(errors, _logit_errors(original, converted, tell), bits)


def _stored(files: Iterable[Path]) -> dict[str, tuple[Path, Stored]]:
    return {entry.tensor.name: (file, entry) for file in files for entry in read_header(file)}


def _tensor(kept: Mapping[str, tuple[Path, Stored]], name: str) -> object:
    return kept[name][1].tensor if name in kept else None


def _recipe(quantization: Quantization | None, kept: Mapping[str, object]) -> Recipe:
    """How each module of the target is kept: by config.json where it has scales, else in bf16."""
    modules = [module_of(name) for name in kept if f"{module_of(name)}.scales" in kept and name.endswith(".weight")]
    rules: list[tuple[str, QuantSpec | None]] = [("*", None)]
    if quantization is not None:
        rules += [(module, quantization.of(module)) for module in modules]
    return Recipe("as converted", tuple(rules))


def _logit_errors(original: Checkpoint, converted: Checkpoint, tell: Callable[[float, str], None]) -> list[LogitError]:
    tokenizer = load_tokenizer(original.folder)
    prompts = [tuple(_tokens(tokenizer, text, original.config.vocab_size)) for text in PROMPTS]
    tell(0.5, "canvases")
    canvases = {"random": _random(original, len(prompts)), "converged": _converged(converted, prompts)}
    layers = 4 * original.config.num_hidden_layers
    done = 0

    def advance(index: int) -> None:
        nonlocal done
        done += 1
        tell(0.6 + 0.4 * done / layers, f"logits, layer {index}")

    first = [
        Draft(prompt, canvas) for drawn in canvases.values() for prompt, canvas in zip(prompts, drawn, strict=True)
    ]
    ends = [load_ends(original), load_ends(converted)]
    states = [hidden_states(*pair, first, advance) for pair in zip((original, converted), ends, strict=True)]
    # The second look at the converged ones has the soft signal of the first, as a denoising step would.
    later = []
    for checkpoint, end, hidden in zip((original, converted), ends, states, strict=True):
        softs = [end.soft_embedding(end.logits(state)[None]) for state in hidden[len(prompts) :]]
        drafts = [replace(draft, soft=soft) for draft, soft in zip(first[len(prompts) :], softs, strict=True)]
        later.append(hidden_states(checkpoint, end, drafts, advance))
    pairs = {
        "random": [state[: len(prompts)] for state in states],
        "converged": later,
    }
    return [_compared(name, ends, list(zip(*pair, strict=True))) for name, pair in pairs.items()]


def _tokens(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    if not tokenizer.has_chat_template:
        return tokenizer.encode_prompt(text, vocab_size)
    return tokenizer.encode_prompt([{"role": "user", "content": text}], vocab_size)


def _random(checkpoint: Checkpoint, count: int) -> list[mx.array]:
    """Canvases of uniform random tokens, as at a first denoising step."""
    noise = KeyedNoise(SEED, checkpoint.config.vocab_size)
    return [noise.initial(block, (1, checkpoint.config.canvas_length))[0] for block in range(count)]


def _converged(checkpoint: Checkpoint, prompts: Sequence[tuple[int, ...]]) -> list[mx.array]:
    """The first canvas behind each prompt, denoised by the converted model with the checkpoint's own settings."""
    model = load_model(checkpoint)
    settings = GenerationConfig.from_checkpoint(checkpoint.folder).resolve()
    noise = KeyedNoise(SEED, checkpoint.config.vocab_size)
    canvases = []
    for block, prompt in enumerate(prompts):
        cache: PrefixCache = model.make_cache([0])
        model.encode(mx.array([prompt]), cache)
        *_, last = denoise_canvas(model, cache, noise, settings, block=block, ended=(False,))
        canvases.append(last.argmax[0])
    mx.eval(canvases)
    return canvases


def _compared(name: str, ends: Sequence[DiffusionGemma], states: Sequence[tuple[mx.array, mx.array]]) -> LogitError:
    """The pairs are hidden states [L, D] of the source and of the converted checkpoint for the same canvas."""
    divergences, equal = [], []
    for pair in states:
        for start in range(0, pair[0].shape[0], LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            logits = [end.logits(state[rows]) for end, state in zip(ends, pair, strict=True)]
            p, q = (array - mx.logsumexp(array, axis=-1, keepdims=True) for array in logits)
            divergences.append((mx.exp(p) * (p - q)).sum(axis=-1))
            equal.append(mx.argmax(logits[0], axis=-1) == mx.argmax(logits[1], axis=-1))
            mx.eval(divergences[-1], equal[-1])
    divergence, same = mx.concatenate(divergences), mx.concatenate(equal)
    mean, worst, share = (np.array(array).item() for array in (divergence.mean(), divergence.max(), same.mean()))
    return LogitError(name, max(mean, 0.0), worst, share)
