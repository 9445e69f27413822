"""Checks of single options: each takes a name and a value, and raises `OptionError` with what the value must be.

None is a value that was not given, and passes. Knows nothing of what the options do.
"""

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES

FLOAT32_MAX = 3.4e38
LARGEST_COUNT = 2**63 - 1  # sys.maxsize, by which some mean "as many as there are"
MOST_STOPS = 16
COLDEST = 1e-6  # of a divisor of logits: with smaller ones they leave float32, and all is NaN
TOKEN_ID = re.compile("[0-9]{1,18}")  # as text, in JSON


def plain_number(value: Any) -> Any:
    """A number of NumPy's, or of another library, as Python's own; anything else as it is."""
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    try:
        return float(value) if isinstance(value, numbers.Real) else value
    except OverflowError:  # of a fraction, say
        return math.inf if value > 0 else -math.inf


def check_integer(name: str, value: object, least: int, most: int | None = LARGEST_COUNT) -> None:
    """A whole number within its bounds; None: there is no most."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} is {value!r}; it must be a whole number")
    if value < least:
        raise OptionError(f"{name} is {value}; it must be {least} or more")
    if most is not None and value > most:
        raise OptionError(f"{name} is {value}; it must be {most} or less")


def check_number(
    name: str, value: object, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """A finite number within its bounds."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < FLOAT32_MAX:
        raise OptionError(f"{name} is {value!r}; it must be a finite number")
    if least is not None and value < least:
        raise OptionError(f"{name} is {value}; it must be {least} or more")
    if above is not None and value <= above:
        raise OptionError(f"{name} is {value}; it must be greater than {above}")
    if most is not None and value > most:
        raise OptionError(f"{name} is {value}; it must be {most} or less")


def checked_ids(name: str, value: object) -> tuple[int, ...]:
    """One token id, or several, as a tuple."""
    ids = (value,) if isinstance(value, int) else value
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise OptionError(f"{name} is {value!r}; it must be a token id or a list of them")
    ids = tuple(map(plain_number, ids))
    for token in ids:
        check_integer(name, token if token is not None else "null", 0)
    return cast(tuple[int, ...], ids)


def checked_strings(name: str, value: object) -> tuple[str, ...]:
    """One string, or several, as a tuple; none of them empty."""
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable) or isinstance(strings, bytes | Mapping):
        raise OptionError(f"{name} is {value!r}; it must be a string or a list of them")
    found = tuple(strings)
    for string in found:
        if not isinstance(string, str) or not string:
            raise OptionError(f"{name} holds {string!r}; each must be a string of at least one character")
    if len(found) > MOST_STOPS:
        raise OptionError(f"{name} holds {count_of(len(found), 'string')}; it may hold {MOST_STOPS}")
    return found


def checked_bias(name: str, value: object) -> tuple[tuple[int, float], ...]:
    """Token ids and what is added to their logits, a mapping or pairs, as pairs in order of the ids."""
    try:
        pairs = dict(cast(Any, value.items() if isinstance(value, Mapping) else value))
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {value!r}; it must map token ids to numbers") from None
    found = {}
    for key, bias in pairs.items():
        # JSON's keys are strings.
        token = int(key) if isinstance(key, str) and TOKEN_ID.fullmatch(key) else plain_number(key)
        check_integer(f"a token id of {name}", "null" if token is None else token, 0)
        number = plain_number(bias)
        check_number(f"{name} of token {token}", "null" if number is None else number)
        found[token] = float(number)
    return tuple(sorted(found.items()))


INTEGERS = {  # the least of each
    "max_tokens": 1,
    "max_denoising_steps": 1,
    "stability_threshold": 0,
    "seed": 0,
    "canvas_length": 1,
    "refresh_every": 1,
    "first_canvas": 0,
    "prefill_step_size": 1,
    "top_k": 0,
    "repetition_context_size": 1,
    "logprobs": 0,
    "draft_width": 1,
    "draft_steps": 1,
}
UNBOUNDED = ("seed", "stability_threshold")  # a run mixes the one, and takes the largest int32 for any larger other
NUMBERS: Mapping[str, dict[str, float]] = {  # the bounds of each
    "entropy_bound": {"above": 0},
    "t_min": {"least": 0},
    "t_max": {"least": COLDEST},
    "confidence_threshold": {"above": 0},
    "early_end": {"above": 0, "most": 1},
    "lock_threshold": {"above": 0, "most": 1},
    "crop_threshold": {"above": 0, "most": 1},
    "temperature": {"least": 0},
    "top_p": {"above": 0, "most": 1},
    "min_p": {"least": 0, "most": 1},
    "repetition_penalty": {"least": COLDEST},
}
LISTS: Mapping[str, Callable[[str, object], object]] = {
    "eos_token_id": checked_ids,
    "stop": checked_strings,
    "logit_bias": checked_bias,
}


def checked(name: str, value: object) -> object:
    """The value of the option `name` in the form that a run takes. Raises OptionError."""
    value = plain_number(value)
    if value is None:
        return None
    if name in LISTS:
        return LISTS[name](name, value)
    if name in INTEGERS:
        check_integer(name, value, INTEGERS[name], None if name in UNBOUNDED else LARGEST_COUNT)
    if name in NUMBERS:
        check_number(name, value, **NUMBERS[name])
    if name == "temperature" and isinstance(value, float) and 0 < value < COLDEST:
        raise OptionError(
            f"temperature is {value}; it must be 0, which takes the likeliest token, or {COLDEST} or more"
        )
    if name == "mode" and value not in MODES:
        raise OptionError(f"mode is {value!r}; it must be one of: {', '.join(MODES)}")
    return value
