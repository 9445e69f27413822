"""Forms that are to be filled, as requests of `/v1/forms` have them: the arguments of `fill` by their names.

Knows nothing of how a slot is filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from mlx_diffusion.filling.forms import fill
from mlx_diffusion.modes import Mode
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.bodies import Body, Seed, Steps
from mlx_diffusion.serving.jobs import Concluded, Step, Wish
from mlx_diffusion.serving.problems import bad
from mlx_diffusion.serving.service import Service

MOST_SLOTS = 64


class FormRequest(Body):
    """The body of /v1/forms. A list of contexts asks for as many forms."""

    model: str | None = None
    template: str
    slots: Annotated[dict[str, Any], Field(min_length=1, max_length=MOST_SLOTS)]
    context: str | list[str] = ""
    language: str = ""
    show_text: bool | None = None
    seed: Seed | None = None
    mode: Mode | None = None
    max_denoising_steps: Steps | None = None

    def wish(self, service: Service) -> Wish:
        """The form as work of its own, in whose passes others' come between. Raises OptionError and RequestError."""
        engine = service.engine
        service.check_name(self.model)
        contexts, most = 1 if isinstance(self.context, str) else len(self.context), engine.limits.max_choices
        if contexts > most:
            raise bad(f"context has {contexts} forms; this server fills at most {most} at once", "context")
        config = GenerationConfig(
            mode=service.canvas_mode(self.mode), seed=self.seed, max_denoising_steps=self.max_denoising_steps
        )
        settings = engine.model.generation_defaults.resolve(config)

        def steps() -> Iterator[Step]:
            yield Concluded(
                fill(
                    engine.model,
                    engine.tokenizer,
                    self.template,
                    self.slots,
                    self.context,
                    language=self.language,
                    show_text=self.show_text,
                    config=config,
                    prefixes=engine.prefixes,
                )
            )

        return Wish(engine.tokenizer.encode(self.template, add_special_tokens=False), settings, work=steps())
