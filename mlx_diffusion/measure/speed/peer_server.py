"""mlx-vlm's server as a process that says of each request which prompt it was fed, and how many steps it took.

What a load has cost would not be known otherwise, nor whether its chat template was given the same words. Knows nothing
of who asks.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

SERVER = "mlx_vlm.server"
MODULE, NAME = f"{SERVER}.generation", "stream_diffusion_generate_from_kwargs"


def telling(generate: Callable[..., Iterator[Any]], say: Callable[[str], object]) -> Callable[..., Iterator[Any]]:
    """The peer's generator of one answer, which says in a line what the answer has cost."""

    def told(
        model: Any, processor: Any, tokenizer: Any, prompt: Any, *rest: Any, on_result: Any = None, **more: Any
    ) -> Iterator[Any]:
        steps = 0

        def watched(result: Any) -> Any:
            nonlocal steps
            steps = result.diffusion_denoising_steps or steps
            return True if on_result is None else on_result(result)

        yield from generate(model, processor, tokenizer, prompt, *rest, on_result=watched, **more)
        say(f"\npeer prompt={','.join(map(str, prompt[0].tolist()))} steps={steps}\n")

    return told


def main() -> None:
    """Run the server with the arguments of this process."""
    module = import_module(MODULE)

    def say(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    setattr(module, NAME, telling(getattr(module, NAME), say))
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
