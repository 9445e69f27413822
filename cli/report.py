"""The report of a finished generation: the fields of a JSON object, or one line of figures.

Knows nothing of where they are printed.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from mlx_diffusion.display import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_diffusion.events import Finish, TokenLogprob


def report_fields(
    text: str, finish: "Finish", model: str, seed: int, logprobs: "Sequence[TokenLogprob] | None" = None
) -> dict[str, Any]:
    """The JSON object of `--json`; with likelihoods, a record a token."""
    return {
        "text": text,
        **({} if logprobs is None else {"logprobs": [dataclasses.asdict(record) for record in logprobs]}),
        "finish_reason": finish.finish_reason,
        "stats": dataclasses.asdict(finish.stats),
        "model": model,
        "seed": seed,
    }


def figures_line(finish: "Finish") -> str:
    """One line of figures for the terminal."""
    stats = finish.stats
    speed = stats.generated_tokens / stats.generation_seconds if stats.generation_seconds else 0.0
    return (
        f"[{finish.finish_reason}] {count_of(stats.generated_tokens, 'token')} in "
        f"{count_of(stats.denoising_steps, 'step')}, {count_of(stats.blocks, 'block')}, "
        f"{stats.generation_seconds:.1f} s ({speed:.0f} tokens/s) · "
        f"prompt {count_of(stats.prompt_tokens, 'token')}, {stats.prompt_seconds:.1f} s · "
        f"peak memory {stats.peak_memory_bytes / 1e9:.2f} GB"
    )
