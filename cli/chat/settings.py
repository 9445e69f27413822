"""Reads and writes a generation's options as a person types and reads them.

Knows nothing of bounds: `GenerationConfig` checks what it is given.
"""

from dataclasses import replace
from typing import Any

from mlx_diffusion.cli.chat.nearest import nearest
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES
from mlx_diffusion.options import NAMES, GenerationConfig, Settings

DEFAULT = "default"  # the value that leaves an option to the checkpoint


def with_setting(config: GenerationConfig, key: str, value: str) -> GenerationConfig:
    """`config` with one option replaced. Raises OptionError for an unknown option or a bad value."""
    name = key_named(key)
    return replace(config, **{name: None if value == DEFAULT else _parse(name, value)})


def key_named(key: str) -> str:
    """The option of that name, in which dashes may stand for underscores. Raises OptionError."""
    name = key.replace("-", "_")
    if name not in NAMES:
        raise OptionError(f"unknown setting {key!r}; the nearest is {nearest(name, NAMES)!r}; /set shows all")
    return name


def describe(config: GenerationConfig, settings: Settings, name: str) -> str:
    """One line with an option, its value, and whether that is the default."""
    text = _text(getattr(settings, name))
    origin = "" if getattr(config, name) is not None else f"  ({DEFAULT})"
    return f"{name:<22}{text}{origin}"


def suggestions(name: str, settings: Settings) -> list[str]:
    """Values to offer for an option."""
    value = getattr(settings, name)
    current = () if value is None else (_text(value),)
    return [*(MODES if name == "mode" else current), DEFAULT]


def _text(value: object) -> str:
    """A value as it is typed; None is what only the checkpoint's own files say."""
    if value is None:
        return "the checkpoint's"
    if value == ():
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse(name: str, value: str) -> Any:
    if name == "eos_token_id":
        return tuple(_number(part) for part in value.replace(",", " ").split())
    if name == "stop":
        return (value,)
    if name == "logit_bias":
        return [tuple(map(_number, part.split("="))) for part in value.replace(",", " ").split()]
    return value if name == "mode" else _number(value)


def _number(text: str) -> int | float | str:
    """The number in a text; if it has none the text itself, which the check will name."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
