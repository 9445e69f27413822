"""Many requests of which some are left at random moments: no row stays behind, and no pass is run for nobody."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from served import LIMITS, SHALLOW, TOKENIZER

from mlx_diffusion.events import Finish
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.gaps import gap_wish
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.service import Service

REQUESTS, DROPPED = 36, 12


def test_nothing_stays_behind_those_who_leave() -> None:
    engine = EngineThread(SHALLOW, TOKENIZER, LIMITS, 0, print)
    service, moments = Service(engine, "demo", GenerationConfig()), random.Random(5)
    finished = list[int]()

    async def ask(number: int) -> None:
        config = GenerationConfig(seed=number, max_tokens=6)
        config = replace(config, max_denoising_steps=3) if number % 2 else replace(config, mode="speculative")
        tokens = TOKENIZER.encode(f"Copy: {number}")
        wish = Wish(tokens, SHALLOW.generation_defaults.resolve(config))
        if number % 6 == 0:
            wish = gap_wish(service, f"fig {number} ", " ant", GenerationConfig(max_tokens=3, max_denoising_steps=2))
        left = moments.randrange(4) if number % (REQUESTS // DROPPED) == 0 else None
        with Answers(engine, [wish], wants_drafts=True) as answers:
            if left == 0:
                return
            async for _, step in answers:
                if isinstance(step, Finish):
                    finished.append(number)
                if left is not None and (left := left - 1) <= 0:
                    return

    async def ask_all() -> None:
        waiting = list(range(REQUESTS))

        async def client() -> None:
            while waiting:
                await ask(waiting.pop(0))

        await asyncio.gather(*(client() for _ in range(LIMITS.max_requests + 4)))
        while engine.running or engine.waiting or engine._dropped:
            await asyncio.sleep(0.005)

    engine.start()
    try:
        asyncio.run(ask_all())
        passes = engine.passes
        assert len(engine._engine) == 0
        assert {number for number in range(REQUESTS) if number % 3} <= set(finished)
        asyncio.run(asyncio.sleep(0.05))
        assert engine.passes == passes
    finally:
        engine.stop()
