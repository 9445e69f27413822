"""Reports of a generation: while it runs in a few words, and in the end as fields of a JSON object or as figures.

Knows nothing of where they are printed.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from mlx_diffusion.display import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_diffusion.events import Event, Finish, Stats, TokenLogprob


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
        f"[{finish.finish_reason}] {count_of(stats.generated_tokens, 'token')} in {', '.join(_work(stats))}, "
        f"{stats.generation_seconds:.1f} s ({speed:.0f} tokens/s) · "
        f"prompt {count_of(stats.prompt_tokens, 'token')}, {stats.prompt_seconds:.1f} s · "
        f"peak memory {stats.peak_memory_bytes / 1e9:.2f} GB"
    )


def _work(stats: "Stats") -> list[str]:
    """What was done for a text behind its prompt: steps and canvases, or passes and what became of drafts."""
    denoised = [count_of(stats.denoising_steps, "step"), count_of(stats.blocks, "block")]
    if not stats.drafted_tokens and stats.passes < stats.denoising_steps + stats.blocks:
        return denoised
    passes = count_of(stats.passes, "pass")
    drafts = f"{stats.accepted_tokens:,} of {count_of(stats.drafted_tokens, 'drafted token')} kept"
    return [passes, drafts] if stats.drafted_tokens else [passes]


def news(event: "Event", steps: int) -> str:
    """How far a run is at one of its events without text; a canvas takes at most so many `steps`."""
    from mlx_diffusion import Draft, Prefill

    if isinstance(event, Prefill):
        return f"reading the prompt · {event.encoded_tokens:,} of {count_of(event.prompt_tokens, 'token')}"
    if isinstance(event, Draft):
        return f"canvas {event.block + 1} · step {event.step + 1} of {steps} · {event.accepted.mean():.0%} settled"
    return "writing"
