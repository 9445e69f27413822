"""Times plain and drafted writing in turns on the bundled checkpoint: python tests/drafts_wall.py [COUNT].

Answers of 16 tokens and more to COUNT prompts a family (6), one at a time; one prompt before them counts for nothing.
The CPU's time stands beside the clock's, since other programs slow the latter.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from mlx_diffusion import stream_generate
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.events import Segment
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers.suites import draw_items, families_of
from mlx_diffusion.modes import CAUSAL, Mode

LEAST = 16  # tokens of an answer
MODEL, TOKENIZER = load(DEMO_FOLDER)


def timed(prompt: list[int], mode: Mode, drafts: DraftMemory) -> tuple[list[int], np.ndarray]:
    """An answer, and its seconds by the clock and of the CPU."""
    began = np.array([time.perf_counter(), time.process_time()])
    events = list(stream_generate(MODEL, TOKENIZER, prompt, mode=mode, max_tokens=128, drafts=drafts))
    tokens = [token for event in events if isinstance(event, Segment) for token in event.tokens]
    return tokens, np.array([time.perf_counter(), time.process_time()]) - began


def of_family(family: str, count: int) -> tuple[int, np.ndarray]:
    """Tokens of the answers that count, and seconds [mode, clock or CPU]."""
    drafts, written, seconds = DraftMemory(), 0, np.zeros((2, 2))
    for number, item in enumerate(draw_items(family, count + 1, 2)):
        prompt = item.tokens(TOKENIZER)
        found = [timed(prompt, mode, drafts) for mode in (CAUSAL if number % 2 else CAUSAL[::-1])]
        (plain, plain_seconds), (drafted, drafted_seconds) = found if number % 2 else found[::-1]
        assert plain == drafted
        if number and len(plain) >= LEAST:
            written, seconds = written + len(plain), seconds + np.array([plain_seconds, drafted_seconds])
    return written, seconds


def main(count: int) -> None:
    """Print milliseconds a token of both, and how many times as fast drafts were."""
    total, all_tokens = np.zeros((2, 2)), 0
    for family in families_of(["all"]):
        tokens, seconds = of_family(family, count)
        if tokens:
            print(row(family, tokens, seconds), flush=True)
            total, all_tokens = total + seconds, all_tokens + tokens
    print(row("all", all_tokens, total))


def row(name: str, tokens: int, seconds: np.ndarray) -> str:
    """A line of the table."""
    each = 1000 * seconds / tokens
    cells = [f"{plain:7.2f}{drafted:7.2f}{plain / drafted:6.2f}" for plain, drafted in each.T]
    return f"{name:16}{tokens:6} tokens   ms by the clock {cells[0]}   of the CPU {cells[1]}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
