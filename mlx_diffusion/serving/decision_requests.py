"""Questions about a state as clients of `/v1/systemone` write them.

Knows nothing of how they are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from mlx_diffusion.filling.decisions import Method, TypedQuestion, decide, text_of
from mlx_diffusion.modes import Mode
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.bodies import Body, Seed
from mlx_diffusion.serving.jobs import Concluded, Step, Underway, Wish
from mlx_diffusion.serving.service import Service


class AskedQuestion(Body):
    """One question: whether something is so, which of several it is, or how much of it."""

    type: Literal["noul", "choice", "score"]
    instructions: Any
    criteria: dict[str, Any] | list[Any] | None = None

    def plain(self) -> dict[str, Any]:
        """The same as `decide` takes it."""
        return self.model_dump(exclude_none=True)


class DecisionRequest(Body):
    """The body of /v1/systemone."""

    model: str | None = None
    state: Any
    questions: Annotated[dict[str, AskedQuestion], Field(min_length=1, max_length=64)]
    method: Method = "encoder"
    passes: Annotated[int, Field(ge=1, le=3)] = 1
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    seed: Seed | None = None
    mode: Mode | None = None

    def wish(self, service: Service) -> Wish:
        """One question is a step, so that others' steps come between. Raises OptionError and PromptError."""
        engine = service.engine
        service.check_name(self.model)
        config = GenerationConfig(mode=service.canvas_mode(self.mode), seed=self.seed)
        settings = engine.model.generation_defaults.resolve(config)
        questions = {name: asked.plain() for name, asked in self.questions.items()}
        for name, asked in questions.items():
            TypedQuestion.read(name, asked)
        state = text_of(self.state, "the state")

        def steps() -> Iterator[Step]:
            answers: dict[str, Mapping[str, Any]] = {}
            for name, asked in questions.items():
                if answers:
                    yield Underway()
                answers |= decide(
                    engine.model,
                    engine.tokenizer,
                    state,
                    {name: asked},
                    method=self.method,
                    passes=self.passes,
                    samples=self.samples,
                    config=config,
                    prefixes=engine.prefixes,
                )
            yield Concluded(answers)

        return Wish(engine.tokenizer.encode(state, add_special_tokens=False), settings, work=steps())
