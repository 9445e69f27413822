"""Requests of editors for what belongs between two texts, as llama.cpp's plug-ins and Mistral's clients write them.

Editors always send options of samplers that write from left to right. Those have no meaning here, and each reply says
which of them it has ignored. Knows nothing of how a gap is filled.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from mlx_diffusion.modes import Mode
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.bodies import Body, Penalty, Positive, Seed, Share, Steps
from mlx_diffusion.serving.openai_requests import StreamOptions
from mlx_diffusion.serving.problems import bad, one_seed

Rest = Annotated[int, Field(ge=-1, lt=2**63)]  # -1: as many as there are
Milliseconds = Annotated[float, Field(ge=-1)]


class GapRequest(Body):
    """What all of them share."""

    SAMPLING: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "top_k", "min_p")

    model: str | None = None
    stream: bool | None = None
    stop: str | list[str] | None = None
    mode: Mode | None = None
    max_denoising_steps: Steps | None = None
    temperature: Positive | None = None
    top_p: Share | None = None
    top_k: Rest | None = None
    min_p: Share | None = None

    @property
    def ignored(self) -> list[str]:
        """The fields that were sent and have no meaning for a gap."""
        return [name for name in self.SAMPLING if getattr(self, name) is not None]

    def _config(self, max_tokens: int | None, seed: int | None, mode: Mode | None) -> GenerationConfig:
        wishes = {"max_tokens": max_tokens, "seed": seed, "stop": self.stop or None}
        return GenerationConfig(mode=self.mode or mode, max_denoising_steps=self.max_denoising_steps).override(wishes)


class ExtraText(Body):
    """A text beside the one with the gap."""

    text: str
    filename: str = ""
    time: Annotated[float, Field(ge=0, lt=2**63)] | None = None  # of when an editor took it, which changes no answer


class InfillRequest(GapRequest):
    """The body of llama.cpp's /infill. The gap is between input_prefix with prompt behind it, and input_suffix."""

    SAMPLING = (*GapRequest.SAMPLING, "samplers", "n_indent", "cache_prompt", "t_max_prompt_ms", "t_max_predict_ms",
                "id_slot", "n_probs", "repeat_penalty")  # fmt: skip

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraText] | None = None
    prompt: str = ""
    n_predict: Rest | None = None
    seed: Seed | None = None
    samplers: list[str] | None = None
    n_indent: Rest | None = None
    cache_prompt: bool | None = None
    t_max_prompt_ms: Milliseconds | None = None
    t_max_predict_ms: Milliseconds | None = None
    id_slot: Rest | None = None
    n_probs: Rest | None = None
    repeat_penalty: Positive | None = None
    response_fields: list[str] | None = None

    @property
    def prefix(self) -> str:
        return self.input_prefix + self.prompt

    @property
    def suffix(self) -> str:
        return self.input_suffix

    @property
    def context(self) -> str:
        """The texts beside it, each below its name."""
        return "\n\n".join("\n".join(filter(None, (one.filename, one.text))) for one in self.input_extra or [])

    def config(self, mode: Mode | None) -> GenerationConfig:
        """The options of the engine; `mode` where none is asked for."""
        return self._config(None if self.n_predict == -1 else self.n_predict, self.seed, mode)


class FimRequest(GapRequest):
    """The body of /v1/fim/completions, as Mistral's and Mercury's clients send it."""

    SAMPLING = (*GapRequest.SAMPLING, "min_tokens", "presence_penalty", "frequency_penalty")

    prompt: str
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    random_seed: Seed | None = None
    seed: Seed | None = None
    min_tokens: Rest | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = None  # says who asks, which changes no answer

    def config(self, mode: Mode | None) -> GenerationConfig:
        """The options of the engine; `mode` where none is asked for. Raises RequestError."""
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options is for streams; send stream: true with it", "stream_options")
        return self._config(self.max_tokens, one_seed(self.seed, self.random_seed), mode)
