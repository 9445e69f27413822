"""A checkpoint run layer by layer, one layer's weights in memory at a time: for models larger than the machine.

Prompt and canvases go through the layers together, since a canvas needs of the prefix what the same layer has made of
it. A slow twin of the model's own passes and of its denoising, and equal to them. Knows nothing of what is compared
with what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.config import SLIDING, ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.tensor_names import VISION
from mlx_diffusion.engine.denoise import Denoiser
from mlx_diffusion.engine.noise import Noise
from mlx_diffusion.engine.sampler import EntropyBound
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.masks import encoder_masks
from mlx_diffusion.network.model import DiffusionGemma, Layer
from mlx_diffusion.network.split_attention import PROMPT_SCORES, widest
from mlx_diffusion.options import Settings


@dataclass(frozen=True)
class PromptedCanvas:
    """A canvas int32 [L] behind a prompt, and the soft signal [1, L, D] that it is denoised with, if any."""

    prompt: tuple[int, ...]
    canvas: mx.array
    soft: mx.array | None = None


@dataclass(frozen=True)
class Denoised:
    """A canvas int32 [L] as denoising left it: after how many steps, and whether the checkpoint's rule ended them."""

    canvas: mx.array
    steps: int
    settled: bool


class _Single(nn.Module):
    """One layer under the path that it has in the whole model."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.layers = [*(nn.Module() for _ in range(index)), Layer(config, config.layer_types[index])]


def load_ends(checkpoint: Checkpoint) -> DiffusionGemma:
    """The checkpoint without its layers: embeddings and head, the final norm, the self-conditioning."""
    ends = DiffusionGemma(replace(checkpoint.config, layer_types=()))
    _fill(ends, checkpoint, lambda path: not path.startswith("layers."))
    return ends


def hidden_states(
    checkpoint: Checkpoint, ends: DiffusionGemma, drafts: Sequence[PromptedCanvas], advance: Callable[[int], None]
) -> list[mx.array]:
    """What comes behind the last layer for each draft, [L, D]; `advance` is told when another layer is done."""
    config = checkpoint.config
    prompts = {draft.prompt: ends.embed(mx.array([draft.prompt])) for draft in drafts}
    canvases = []
    for draft in drafts:
        embedded = ends.embed(draft.canvas[None])
        soft = mx.zeros_like(embedded) if draft.soft is None else draft.soft
        canvases.append(ends.self_conditioning(embedded, soft))
    for index, layer_type in enumerate(config.layer_types):
        single = _Single(config, index)
        _fill(single, checkpoint, lambda path, own=f"layers.{index}.": path.startswith(own))  # type: ignore[misc]
        layer = single.layers[index]
        window = config.sliding_window if layer_type == SLIDING else None
        prefixes = {}
        for prompt, x in prompts.items():
            cache = PrefixCache(replace(config, layer_types=(layer_type,)), [0])
            seen = encoder_masks(
                range(len(prompt)), 0, window, None, widest(len(prompt) * config.num_attention_heads, PROMPT_SCORES)
            )
            prompts[prompt] = layer.encode(x, seen, None, 0, cache.layers[0])
            cache.advance(len(prompt))
            prefixes[prompt] = cache.prefix()
        for draft_index, (draft, x) in enumerate(zip(drafts, canvases, strict=True)):
            prefix = prefixes[draft.prompt]
            canvases[draft_index] = layer.denoise(x, prefix.layers[0], prefix.seen.get(layer_type), prefix.position)
        mx.eval(prompts, canvases)
        del single, layer, cache, prefixes, prefix
        mx.clear_cache()
        advance(index)
    return [x[0] for x in canvases]


def denoised(
    checkpoint: Checkpoint,
    ends: DiffusionGemma,
    prompts: Sequence[tuple[int, ...]],
    noise: Noise,
    settings: Settings,
    advance: Callable[[int], None],
) -> list[Denoised]:
    """The first canvas behind each prompt, denoised with these settings; prompt i draws the noise of block i.

    All canvases take a step together, so each step reads every layer once. `advance` is told the layers, as they are
    done. Raises CheckpointError when the model gives NaN.
    """
    denoiser = Denoiser(ends, settings, noise, EntropyBound(settings.entropy_bound))
    states = [denoiser.first(block, (False,)) for block in range(len(prompts))]
    steps = [0] * len(prompts)
    settled = [False] * len(prompts)
    for step in range(settings.max_denoising_steps):
        running = [block for block in range(len(prompts)) if not settled[block]]
        if not running:
            break
        drafts = [PromptedCanvas(prompts[block], states[block].canvas[0], states[block].soft) for block in running]
        for block, x in zip(running, hidden_states(checkpoint, ends, drafts, advance), strict=True):
            said = ends.survey_hidden(x[None], *denoiser.draws(block, step, (1, *x.shape[:1])))
            state, _ = denoiser.next(said, states[block], block, step)
            mx.eval(state, said.entropy)
            if np.isnan(np.array(said.entropy)).any():
                raise CheckpointError(f"{checkpoint.folder} gives NaN at denoising step {step}; convert it again")
            states[block], steps[block], settled[block] = state, step + 1, bool(np.array(state.done).all())
    return [Denoised(states[block].argmax[0], steps[block], settled[block]) for block in range(len(prompts))]


def _fill(module: nn.Module, checkpoint: Checkpoint, wanted: Callable[[str], bool]) -> None:
    """Fill a part of the model with the tensors that belong to it."""
    tensors = {
        name: array
        for name, array in checkpoint.tensors().items()
        if (path := weights.parameter_path(name)) is not None and wanted(path) and not name.startswith(VISION)
    }
    weights.fill(module, tensors, checkpoint.config.quantization, where=str(checkpoint.folder))
