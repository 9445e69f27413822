"""The wishes of a user and the defaults of a checkpoint: how many tokens, how many steps, when to stop.

Knows nothing of models and runs none. `GenerationConfig` is what a user asks for, each field optional; `Settings` is
what a run uses, none missing. Bounds are those of Transformers' `DiffusionGemmaGenerationConfig`.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.json_files import read_json
from mlx_diffusion.modes import DENOISING, LEVERS, MODES, MODES_WITH, Mode, check_mode_has, safe_levers
from mlx_diffusion.option_checks import checked
from mlx_diffusion.stored_options import stop_tokens_of_model, stored_entropy_bound


@dataclass(frozen=True)
class Settings:
    """The options of one run, none missing."""

    max_tokens: int
    max_denoising_steps: int
    entropy_bound: float
    t_min: float
    t_max: float
    stability_threshold: int
    confidence_threshold: float
    seed: int
    mode: Mode
    eos_token_id: tuple[int, ...]
    prefill_step_size: int
    canvas_length: int | None = None  # None: the checkpoint's
    early_end: float = 1.0
    lock_threshold: float = 1.0
    refresh_every: int = 4
    crop_threshold: float = 1.0
    first_canvas: int = 0
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context_size: int = 20
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None  # None: none are given
    draft_width: int | None = None  # None: as has paid so far
    draft_steps: int = 1

    @property
    def levers(self) -> tuple[str, ...]:
        """The levers of denoising that are in use, as in "early_end=0.99"."""
        if self.mode not in DENOISING:
            return ()
        names = [name for name in LEVERS if name != "refresh_every" and getattr(self, name) != getattr(DEFAULTS, name)]
        if "lock_threshold" in names:
            names.append("refresh_every")
        if self.mode != DENOISING[0]:
            names.append("max_denoising_steps")
        return tuple(f"{name}={getattr(self, name):g}" for name in names)

    @property
    def most_steps(self) -> int:
        """The most denoising steps that one canvas takes in this mode, of a draft where it drafts."""
        return self.max_denoising_steps if self.mode in DENOISING else self.draft_steps


# Where neither the user nor the checkpoint says anything: the documented defaults of Transformers.
DEFAULTS = Settings(
    max_tokens=256,
    max_denoising_steps=48,
    entropy_bound=0.1,
    t_min=0.4,
    t_max=0.8,
    stability_threshold=1,
    confidence_threshold=0.005,
    seed=0,
    mode="reference",
    eos_token_id=(),
    prefill_step_size=2048,
)
NEAR = 0.76  # of difflib's measure: max_token is near max_tokens, temperature is near nothing
NAMES = tuple(field.name for field in fields(Settings))
STORED = (  # by these names in generation_config.json; what is not there is a wish of each run
    "max_denoising_steps",
    "t_min",
    "t_max",
    "stability_threshold",
    "confidence_threshold",
    "eos_token_id",
)


@dataclass(frozen=True)
class GenerationConfig:
    """Options of a generation; a field that is None takes the checkpoint's value.

    max_tokens            the longest text, in tokens
    max_denoising_steps   the most steps a canvas may take
    entropy_bound         nats; the higher, the more tokens a step accepts
    t_min, t_max          temperature: t_max at the first denoising step, falling towards t_min
    stability_threshold   k: a canvas is finished once its most likely tokens were the same in k + 1 steps in a row …
    confidence_threshold  … and its mean entropy, in nats, is below this
    seed                  of the randomness; 0 when not given
    mode                  "reference" denoises by the published sampler, "balanced" and "fast" with levers that hold on
                          the checkpoint, "autoregressive" writes token by token, "speculative" the same tokens in
                          fewer passes; see `modes` for the options of each
    eos_token_id          ids that end the text
    prefill_step_size     the most prompt tokens encoded at once; fewer need less memory. 2048 when not given
    canvas_length         positions of a canvas, at most the checkpoint's; how well it writes on shorter ones is its own
    early_end             a canvas is finished, too, once every token of its text has at least this probability; 1 (off)
                          when the mode says nothing
    lock_threshold        a position whose input is its most likely token, with at least this probability, is kept and
                          forwarded more seldom; 1 (off) when the mode says nothing
    refresh_every         … at every so many steps; 4 when not given, 1 is always
    crop_threshold        positions behind a stop token leave the canvas once it is settled with at least this
                          probability; 1 (off) when the mode says nothing
    first_canvas          positions of a first canvas, which begins anew at full length if it holds no stop token; 0
                          (off) when the mode says nothing
    stop                  strings that end the text; they are no part of it
    temperature           of the choice of a token; 0, the most likely one, when not given
    top_p, top_k, min_p   chooses among the most likely tokens alone: those of the first `top_p` of probability, the
                          first `top_k` (0: all), those at least `min_p` times as probable as the first
    repetition_penalty    divides the logits of the last `repetition_context_size` (20) tokens; 1 is none
    logit_bias            what is added to the logits of tokens, by id
    logprobs              log-probabilities are given with the text, of so many of the most likely tokens each time
    draft_width           positions of a draft, the last final token among them; 1 drafts nothing. When not given, it
                          follows how much of the drafts was right
    draft_steps           denoising steps of a draft; 1 when not given
    `temperature` to `logprobs` have mlx-lm's meanings.

    Raises `OptionError` for a value outside its bounds and TypeError for an unknown name.
    """

    max_tokens: int | None = None
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    stability_threshold: int | None = None
    confidence_threshold: float | None = None
    seed: int | None = None
    mode: Mode | None = None
    eos_token_id: tuple[int, ...] | None = None
    prefill_step_size: int | None = None
    canvas_length: int | None = None
    early_end: float | None = None
    lock_threshold: float | None = None
    refresh_every: int | None = None
    crop_threshold: float | None = None
    first_canvas: int | None = None
    stop: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    logprobs: int | None = None
    draft_width: int | None = None
    draft_steps: int | None = None

    def __new__(cls, *args: Any, **options: Any) -> "GenerationConfig":
        _check_names(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        if self.t_min is not None and self.t_max is not None and not self.t_max > self.t_min:
            raise OptionError(
                f"t_max is {self.t_max} and t_min is {self.t_min}; t_max must be greater than t_min, so change one"
            )

    @classmethod
    def from_checkpoint(cls, folder: str | Path) -> "GenerationConfig":
        """The defaults of the checkpoint in `folder`; a missing file or null leaves a field unset.

        Reads generation_config.json, and the stop token from config.json where that file names none.
        """
        path = Path(folder) / "generation_config.json"
        stored = read_json(path) if path.is_file() else {}
        values = {name: stored.get(name) for name in STORED}
        values["max_tokens"] = stored.get("max_new_tokens")
        values["entropy_bound"] = stored_entropy_bound(stored.get("sampler_config"), path)
        if values["eos_token_id"] is None:
            values["eos_token_id"] = stop_tokens_of_model(Path(folder) / "config.json")
        try:
            return cls(**values)
        except OptionError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def override(self, options: Mapping[str, Any]) -> "GenerationConfig":
        """A copy with `options`, by the names of fields, in place of its own values; None keeps a field as it is."""
        _check_names(options)
        return GenerationConfig(**{**_given(self), **{k: v for k, v in options.items() if v is not None}})

    def for_mode(self, mode: Mode) -> "GenerationConfig":
        """A copy with this mode, without the options that it does not have."""
        kept = {name: value for name, value in _given(self).items() if mode in MODES_WITH.get(name, MODES)}
        return GenerationConfig(**{**kept, "mode": mode})

    def with_levers(self, levers_of: Callable[[Mode], Mapping[str, float]]) -> "GenerationConfig":
        """A copy that knows the levers of each mode on its checkpoint; others have those that held everywhere."""
        own = replace(self)
        object.__setattr__(own, "_levers_of", levers_of)
        return own

    def resolve(self, wishes: "GenerationConfig | None" = None) -> Settings:
        """Complete settings: the wishes first, then this config (the checkpoint's), then the documented defaults."""
        wanted = _given(wishes) if wishes is not None else {}
        mode: Mode = wanted.get("mode") or self.mode or DEFAULTS.mode
        check_mode_has(mode, wanted)
        levers_of: Callable[[Mode], Mapping[str, float]] = getattr(self, "_levers_of", safe_levers)
        chosen = {**_given(self), **levers_of(mode), **wanted}
        complete = GenerationConfig(**{name: chosen.get(name, getattr(DEFAULTS, name)) for name in NAMES})
        return replace(DEFAULTS, **_given(complete))


def _given(config: GenerationConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in NAMES if getattr(config, name) is not None}


def _check_names(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in NAMES:
            words = set(name.split("_"))
            holding = [known for known in NAMES if words <= set(known.split("_"))]
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=NEAR) or holding
            near = near if len(near) == 1 else []
            hint = f"the nearest is {near[0]!r}, the others" if near else "the options"
            raise TypeError(f"unknown option {name!r}; {hint}: {', '.join(NAMES)}")
