"""The options of a generation as keywords of a call, with their types; `GenerationConfig` says what each is."""

from collections.abc import Iterable, Mapping
from typing import TypedDict

from mlx_diffusion.modes import Mode


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keywords of a call."""

    max_tokens: int | None
    max_denoising_steps: int | None
    entropy_bound: float | None
    t_min: float | None
    t_max: float | None
    stability_threshold: int | None
    confidence_threshold: float | None
    seed: int | None
    mode: Mode | None
    eos_token_id: int | Iterable[int] | None
    prefill_step_size: int | None
    canvas_length: int | None
    early_end: float | None
    lock_threshold: float | None
    refresh_every: int | None
    crop_threshold: float | None
    first_canvas: int | None
    stop: str | Iterable[str] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    repetition_context_size: int | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    draft_width: int | None
    draft_steps: int | None
