"""The peer, mlx-vlm, run on the same checkpoint, prompt, canvas and steps, in the same process.

It is no dependency and only imported when asked for; only its public names are used. It samples with its entropy-bound
sampler at temperature 1 and has the same stop rule, but random numbers of its own. Its tokenizer is a stand-in that
costs no time. Knows nothing of this library's engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.measure.speed.cases import Case, random_prompt
from mlx_diffusion.measure.speed.primitives import CountArrays, StepCounter
from mlx_diffusion.measure.speed.runs import CaseRunner, RunFigures, Stopwatch, clear_memory
from mlx_diffusion.options import Settings

NAME = "mlx-vlm"
WATCHED_STEPS = 4  # the first has no soft signal and the last no successor; those between are alike


@dataclass(frozen=True)
class Peer:
    """mlx-vlm with a loaded model."""

    model: Any
    generation: Any  # its module for diffusion
    common: Any  # its module for all kinds of generation
    config: ModelConfig
    version: str

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, dtype: mx.Dtype) -> Peer:
        """Load the checkpoint in `folder` with floating-point weights in `dtype`, the type in which this library runs.

        `config` is the configuration that both are to run with; its canvas and context may differ from the folder's.
        Raises CheckpointError where mlx-vlm cannot read the folder.
        """
        try:
            model = import_module("mlx_vlm.utils").load_model(folder, lazy=True)
        except (ValueError, OSError, KeyError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{NAME} {version(NAME)} cannot load {folder} ({reason}); leave out --against"
            ) from None
        model.set_dtype(dtype)
        mx.eval(model.parameters())
        mx.clear_cache()
        model.config.canvas_length = config.canvas_length
        return cls(
            model,
            import_module("mlx_vlm.generate.diffusion"),
            import_module("mlx_vlm.generate.common"),
            config,
            version(NAME),
        )

    @property
    def label(self) -> str:
        return f"{NAME} {self.version}"


def check_peer_installed() -> None:
    """Raise OptionError where mlx-vlm is not installed."""
    try:
        version(NAME)
        import_module("mlx_vlm")
    except (PackageNotFoundError, ImportError) as error:
        raise OptionError(f"--against {NAME} needs {NAME} ({error}); install it: pip install {NAME}") from None


def peer_runner(peer: Peer, settings_of: Callable[[Case], Settings], avoid: tuple[int, ...]) -> CaseRunner:
    """A runner of cases by the peer, with this library's settings and its prompt without the tokens to `avoid`."""

    def run(case: Case) -> RunFigures:
        settings = settings_of(case)
        peer.model.config.generation_config = {**_rules(settings), **_stop_rule(settings)}
        prompt = mx.array([random_prompt(peer.config, case.prompt_tokens, settings.seed, avoid)], dtype=mx.int32)
        mx.eval(prompt)
        mx.random.seed(settings.seed)
        before = clear_memory()
        stopwatch = Stopwatch.start()
        first_text = None
        with peer.common.wired_limit(peer.model, [peer.common.generation_stream]):
            for result in _stream(peer, prompt, settings):
                if result.text and first_text is None:
                    first_text = stopwatch.stop().seconds
        passed = stopwatch.stop()
        prompt_seconds = result.prompt_tokens / result.prompt_tps
        return RunFigures.of(
            prompt_tokens=result.prompt_tokens,
            tokens=result.generation_tokens,
            steps=result.diffusion_denoising_steps,
            positions=result.diffusion_work_tokens,
            prompt_seconds=prompt_seconds,
            generation_seconds=passed.seconds - prompt_seconds,
            first_text_seconds=first_text,
            memory_bytes=mx.get_peak_memory() - before,
            stopwatch=passed,
        )

    return run


def peer_step_counter(peer: Peer, settings: Settings, case: Case) -> StepCounter:
    """A counter of one of the peer's denoising steps.

    Without a stop rule the peer evaluates nothing between steps. The decoder's input then depends on all steps before
    it, and the difference between two consecutive inputs is one step, without the stop rule's own primitives.
    """
    prompt = mx.array([random_prompt(peer.config, case.prompt_tokens, settings.seed, ())], dtype=mx.int32)

    def step(count: CountArrays) -> np.ndarray:
        peer.model.config.generation_config = _rules(settings)
        counts: list[np.ndarray] = []
        decode = peer.model.diffusion_decoder_logits

        def watched(canvas: mx.array, **context: Any) -> mx.array:
            soft = context["self_conditioning"]
            counts.append(count([canvas] if soft is None else [canvas, soft]))
            logits: mx.array = decode(canvas, **context)
            return logits

        peer.model.diffusion_decoder_logits = watched
        try:
            for _ in _stream(peer, prompt, settings, steps=WATCHED_STEPS):
                pass
        finally:
            del peer.model.diffusion_decoder_logits
        return counts[-1] - counts[-2]

    return step


def _stream(peer: Peer, prompt: mx.array, settings: Settings, steps: int | None = None) -> Any:
    text = _NoText()
    return peer.generation.stream_diffusion_generate(
        peer.model,
        text,
        text,
        prompt,
        None,
        None,
        max_tokens=settings.max_tokens,
        skip_special_token_ids=[],
        temperature=1.0,
        max_denoising_steps=steps or settings.max_denoising_steps,
        diffusion_full_canvas=True,
        diffusion_sampler="entropy-bound",
        prefill_step_size=settings.prefill_step_size,
    )


def _rules(settings: Settings) -> dict[str, Any]:
    return {
        "t_min": settings.t_min,
        "t_max": settings.t_max,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": settings.entropy_bound},
    }


def _stop_rule(settings: Settings) -> dict[str, Any]:
    return {
        "stability_threshold": settings.stability_threshold,
        "confidence_threshold": settings.confidence_threshold,
    }


class _NoText:
    """A stand-in for the peer's processor, tokenizer and detokenizer: no token ends a text, and each is a dot."""

    def __init__(self) -> None:
        self.last_segment = ""

    @property
    def detokenizer(self) -> _NoText:
        return self

    def stopping_criteria(self, token: int) -> bool:
        return False

    def reset(self) -> None:
        self.last_segment = ""

    def add_token(self, token: int, skip_special_token_ids: object = None) -> None:
        self.last_segment = "."

    def finalize(self) -> None:
        self.last_segment = ""
