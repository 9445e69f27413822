"""The guides of requests: what each of their texts must be, with room enough for it.

Knows nothing of how a text is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import Settings
from mlx_diffusion.structure.constraint import Constraint, read_constraint
from mlx_diffusion.structure.guide import Guide, first_guide
from mlx_diffusion.tokenizer import Tokenizer

Constraints = Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None  # a constraint, or one a prompt


def guides_of(
    constraint: Constraints,
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    settings: Settings,
    prompts: Sequence[Sequence[int]],
) -> list[Guide | None]:
    """Where each prompt's text begins, of those that are constrained. Raises OptionError."""
    if constraint is None:
        return [None] * len(prompts)
    wanted = [constraint] * len(prompts) if isinstance(constraint, Mapping | str) else list(constraint)
    if len(wanted) != len(prompts):
        prompts_there = count_of(len(prompts), "prompt")
        raise OptionError(f"constraint is a list of {len(wanted)} for {prompts_there}; give one a prompt")
    return [
        None if own is None else guide_of(read_constraint(own), model, tokenizer, settings, tokens)
        for own, tokens in zip(wanted, prompts, strict=True)
    ]


def guide_of(
    constraint: Constraint, model: DiffusionGemma, tokenizer: Tokenizer, settings: Settings, prompt: Sequence[int]
) -> Guide:
    """The guide of a request with this constraint. Raises OptionError where no text of it can be written."""
    if settings.stop:
        raise OptionError("stop strings would cut a constrained text; drop stop or constraint")
    guide = first_guide(constraint, tokenizer, model.config.vocab_size, settings.eos_token_id, prompt)
    room = model.config.max_position_embeddings - len(prompt)
    if settings.mode in DENOISING:
        length = settings.canvas_length or model.config.canvas_length
        room -= room % length
    room = min(room, settings.max_tokens)
    fits, ending = guide.fits(room), guide.ending()
    if ending is None:
        raise OptionError(f"constraint {constraint.kind} is matched by no text, or by none found in time; loosen it")
    if not fits:
        raise OptionError(
            f"the shortest text that constraint {constraint.kind} allows has {count_of(len(ending), 'token')}, "
            f"and {room} may be written; raise max_tokens"
        )
    return guide
