"""A checkpoint run layer by layer, one layer's weights in memory at a time: for models larger than the machine.

Prompt and canvases go through the layers together, since a canvas needs of the prefix what the same layer has made of
it. A slow twin of the model's own passes, and equal to them. Knows nothing of what is compared with what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion import weights
from mlx_diffusion.cache import LayerCache
from mlx_diffusion.checkpoint import Checkpoint
from mlx_diffusion.config import SLIDING, ModelConfig
from mlx_diffusion.masks import encoder_mask
from mlx_diffusion.model import DiffusionGemma, Layer


@dataclass(frozen=True)
class Draft:
    """A canvas int32 [L] behind a prompt, and the soft signal [1, L, D] that it is denoised with, if any."""

    prompt: tuple[int, ...]
    canvas: mx.array
    soft: mx.array | None = None


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
    checkpoint: Checkpoint, ends: DiffusionGemma, drafts: Sequence[Draft], advance: Callable[[int], None]
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
        caches = {prompt: LayerCache(window) for prompt in prompts}
        for prompt, x in prompts.items():
            mask = encoder_mask(0, 0, len(prompt), window, None)
            prompts[prompt] = layer.encode(x, mask, None, 0, caches[prompt])
        canvases = [
            layer.denoise(x, None, len(draft.prompt), caches[draft.prompt])
            for draft, x in zip(drafts, canvases, strict=True)
        ]
        mx.eval(prompts, canvases)
        del single, layer, caches
        mx.clear_cache()
        advance(index)
    return [x[0] for x in canvases]


def _fill(module: nn.Module, checkpoint: Checkpoint, wanted: Callable[[str], bool]) -> None:
    """Fill a part of the model with the tensors that belong to it."""
    tensors = {
        name: array
        for name, array in checkpoint.tensors().items()
        if (path := weights.parameter_path(name)) is not None and wanted(path) and not name.startswith(weights.SKIPPED)
    }
    weights.fill(module, tensors, checkpoint.config.quantization, where=str(checkpoint.folder))
