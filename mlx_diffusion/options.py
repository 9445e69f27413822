"""The wishes of a user and the defaults of a checkpoint: how many tokens, how many steps, when to stop.

Knows nothing of models and runs none. `GenerationConfig` is what a user asks for, each field optional; `Settings` is
what a run uses, none missing. Bounds are those of Transformers' `DiffusionGemmaGenerationConfig`.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.json_files import read_json

Mode = Literal["reference"]
FLOAT32_MAX = 3.4e38
LARGEST_COUNT = 2**63 - 1  # sys.maxsize, by which some mean "as many as there are"
MODES: tuple[Mode, ...] = ("reference",)


class GenerationOptions(TypedDict, total=False):
    """The fields of `GenerationConfig` as keywords of a call."""

    max_tokens: int | None
    max_denoising_steps: int | None
    entropy_bound: float | None
    t_min: float | None
    t_max: float | None
    stability_threshold: int | None
    confidence_threshold: float | None
    seed: int | None
    mode: Mode | None
    eos_token_id: int | Iterable[int] | None
    prefill_step_size: int | None
    canvas_length: int | None


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
# generation_config.json has none of these
NOT_STORED = ("max_tokens", "seed", "mode", "prefill_step_size", "canvas_length")


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
    mode                  how a canvas is denoised; "reference" is the published sampler
    eos_token_id          ids that end the text
    prefill_step_size     the most prompt tokens encoded at once; fewer need less memory. 2048 when not given
    canvas_length         positions of a canvas, at most the checkpoint's; how well it writes on shorter ones is its own

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

    def __new__(cls, *args: Any, **options: Any) -> "GenerationConfig":
        _check_names(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, _plain_number(getattr(self, name)))
        _integer("max_tokens", self.max_tokens, 1)
        _integer("max_denoising_steps", self.max_denoising_steps, 1)
        _number("entropy_bound", self.entropy_bound, above=0)
        _number("t_min", self.t_min, least=0)
        _number("t_max", self.t_max, least=0)
        _integer("stability_threshold", self.stability_threshold, 0)
        _number("confidence_threshold", self.confidence_threshold, above=0)
        _integer("seed", self.seed, 0, None)
        _integer("canvas_length", self.canvas_length, 1)
        _integer("prefill_step_size", self.prefill_step_size, 1)
        if self.mode is not None and self.mode not in MODES:
            raise OptionError(f"mode is {self.mode!r}; it must be one of: {', '.join(MODES)}")
        if self.eos_token_id is not None:
            object.__setattr__(self, "eos_token_id", _ids("eos_token_id", self.eos_token_id))
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
        values = {name: stored.get(name) for name in NAMES if name not in NOT_STORED}
        values["max_tokens"] = stored.get("max_new_tokens")
        values["entropy_bound"] = _entropy_bound(stored.get("sampler_config"), path)
        if values["eos_token_id"] is None:
            values["eos_token_id"] = _model_eos(Path(folder) / "config.json")
        try:
            return cls(**values)
        except OptionError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def override(self, options: Mapping[str, Any]) -> "GenerationConfig":
        """A copy with `options`, by the names of fields, in place of its own values; None keeps a field as it is."""
        _check_names(options)
        return GenerationConfig(**{**_given(self), **{k: v for k, v in options.items() if v is not None}})

    def resolve(self, wishes: "GenerationConfig | None" = None) -> Settings:
        """Complete settings: the wishes first, then this config (the checkpoint's), then the documented defaults."""
        chosen = {**_given(self), **(_given(wishes) if wishes is not None else {})}
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


def _plain_number(value: Any) -> Any:
    """A number of NumPy's, or of another library, as Python's own; anything else as it is."""
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    try:
        return float(value) if isinstance(value, numbers.Real) else value
    except OverflowError:  # of a fraction, say
        return math.inf if value > 0 else -math.inf


def _integer(name: str, value: object, least: int, most: int | None = LARGEST_COUNT) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} is {value!r}; it must be a whole number")
    if value < least:
        raise OptionError(f"{name} is {value}; it must be {least} or more")
    if most is not None and value > most:
        raise OptionError(f"{name} is {value}; it must be {most} or less")


def _number(name: str, value: object, *, least: float | None = None, above: float | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < FLOAT32_MAX:
        raise OptionError(f"{name} is {value!r}; it must be a finite number")
    if least is not None and value < least:
        raise OptionError(f"{name} is {value}; it must be {least} or more")
    if above is not None and value <= above:
        raise OptionError(f"{name} is {value}; it must be greater than {above}")


def _ids(name: str, value: object) -> tuple[int, ...]:
    ids = (value,) if isinstance(value, int) else value
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise OptionError(f"{name} is {value!r}; it must be a token id or a list of them")
    ids = tuple(map(_plain_number, ids))
    for token in ids:
        _integer(name, token if token is not None else "null", 0)
    return cast(tuple[int, ...], ids)


def _entropy_bound(sampler: object, path: Path) -> object:
    """The entropy bound in a stored sampler config. Raises CheckpointError for a sampler of another kind."""
    if sampler is None:
        return None
    if not isinstance(sampler, dict):
        raise CheckpointError(f"{path}: sampler_config is {sampler!r}; it must be a JSON object")
    kind = sampler.get("_cls_name")
    if kind != "EntropyBoundSamplerConfig":
        raise CheckpointError(f"{path}: sampler_config is of kind {kind!r}; only EntropyBoundSamplerConfig is known")
    return sampler.get("entropy_bound")


def _model_eos(path: Path) -> object:
    """The stop token of the model's own config, at its top or in its text part; None when it names none."""
    if not path.is_file():
        return None
    stored = read_json(path)
    text = stored.get("text_config")
    for place in (stored, text if isinstance(text, dict) else {}):
        if place.get("eos_token_id") is not None:
            return place["eos_token_id"]
    return None
