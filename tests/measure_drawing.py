"""What drawing costs, on the recorded events and in a run of the bundled checkpoint.

    python tests/measure_drawing.py

Prints the milliseconds of one drawing, for the recorded canvases and for canvases of 256 tokens (four of them side by
side), each drawn once to learn its tokens and then measured; and the share of the time of a real run that drawing took.
"""

from __future__ import annotations

import os
import statistics
import time
from io import StringIO

import numpy as np
from recorded_events import PROMPT, Recording
from rich.console import Console

from mlx_diffusion import load, stream_generate
from mlx_diffusion.cli.chat.canvas import CanvasText
from mlx_diffusion.cli.chat.palette import EITHER
from mlx_diffusion.cli.chat.stage import Stage
from mlx_diffusion.cli.chat.views import LiveView
from mlx_diffusion.events import Draft


class Device(Stage):
    """A terminal of a common size that swallows what it is sent."""

    def size(self) -> tuple[int, int]:
        return 100, 40


def tiled(draft: Draft, times: int) -> Draft:
    canvas, argmax, accepted, entropy = (
        np.tile(array, times) for array in (draft.canvas, draft.argmax, draft.accepted, draft.entropy)
    )
    return Draft(draft.block, draft.step, canvas, argmax, accepted, entropy)


def view_on(stream: Stage, canvas: CanvasText) -> LiveView:
    console = Console(file=StringIO())
    return LiveView(console, stream, canvas, EITHER, steps=48, memory_bytes=lambda: 18_000_000_000)


def milliseconds_of_a_drawing(drafts: list[Draft], recording: Recording, device: Stage) -> list[float]:
    """Every step drawn, however soon it comes."""
    view = view_on(device, CanvasText(recording.decode))
    times = []
    for draft in [*drafts, *drafts]:
        view.pace.next = 0.0
        started = time.perf_counter()
        view.draft(draft, "answer")
        times.append(1000 * (time.perf_counter() - started))
    return times[len(drafts) :]


def main() -> None:
    recording = Recording.read()
    with open(os.devnull, "w", encoding="utf-8") as sink:
        device = Device(sink)
        for times in (1, 4):
            drafts = [tiled(draft, times) for draft in recording.drafts]
            costs = milliseconds_of_a_drawing(drafts, recording, device)
            print(
                f"canvas of {len(drafts[0].argmax):3} tokens: {statistics.median(costs):.2f} ms a drawing (median), "
                f"{max(costs):.2f} ms at most"
            )

        model, tokenizer = load("demo")
        view = view_on(device, CanvasText(tokenizer.decode))
        started, steps = time.perf_counter(), 0
        for event in stream_generate(model, tokenizer, [{"role": "user", "content": PROMPT}]):
            if isinstance(event, Draft):
                steps += 1
                view.draft(event, "answer")
        seconds = time.perf_counter() - started
    print(
        f"a run of {steps} steps: {1000 * seconds / steps:.1f} ms a step, of which drawing took "
        f"{100 * view.pace.spent / seconds:.2f} %"
    )


if __name__ == "__main__":
    main()
