"""Cases of a benchmark: every combination of prompt lengths, text lengths and modes, and random prompts for them.

Prompts are random tokens of the vocabulary without special ones, the same for the same seed. Knows nothing of clocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import CAUSAL, DENOISING, Mode
from mlx_diffusion.options import GenerationConfig

NEVER_CONFIDENT = 1e-30  # nats; no canvas has a mean entropy below it, so the stop rule never ends one


@dataclass(frozen=True)
class Case:
    """One prompt length, one text length, one mode."""

    prompt_tokens: int
    output_tokens: int
    mode: Mode

    def __str__(self) -> str:
        return f"{self.prompt_tokens} + {count_of(self.output_tokens, 'token')}, {self.mode}"

    def options(self, base: GenerationConfig) -> GenerationConfig:
        """The options of its runs: those of `base` that the mode has, without any token that ends the text.

        Where `base` has a largest number of denoising steps, every canvas takes exactly that many.
        """
        own = base.for_mode(self.mode)
        fixed = {} if own.max_denoising_steps is None else {"confidence_threshold": NEVER_CONFIDENT}
        return own.override({"max_tokens": self.output_tokens, "eos_token_id": (), **fixed})


def all_cases(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], modes: Sequence[Mode], config: ModelConfig
) -> list[Case]:
    """Every combination. Raises OptionError for one that is too long for the model's context."""
    made = [Case(*sizes) for sizes in itertools.product(prompt_tokens, output_tokens, modes)]
    for case in made:
        if case.mode in CAUSAL and case.output_tokens < 2:
            raise OptionError(f"in mode {case.mode} a text of 1 token comes with its prompt; give --output-tokens 2")
        canvas = config.canvas_length if case.mode in DENOISING else 1
        blocks = -(-case.output_tokens // canvas)
        needed, context = case.prompt_tokens + blocks * canvas, config.max_position_embeddings
        if needed > context:
            in_canvases = f" in canvases of {canvas}" if case.mode in DENOISING else ""
            raise OptionError(
                f"a prompt of {count_of(case.prompt_tokens, 'token')} and a text of {case.output_tokens}{in_canvases} "
                f"need {count_of(needed, 'position')}, the model's context has {context}; shorten one, or "
                f"time it with --context {needed} all the same"
            )
    return made


def random_prompt(config: ModelConfig, length: int, seed: int, avoid: Iterable[int]) -> list[int]:
    """Random token ids, without pad, begin and stop tokens and those to `avoid`."""
    begin = () if config.bos_token_id is None else (config.bos_token_id,)
    special = {config.pad_token_id, *begin, *config.eos_token_id, *avoid}
    allowed = np.setdiff1d(np.arange(config.vocab_size), sorted(special))
    return np.random.default_rng(seed).choice(allowed, length).tolist()
