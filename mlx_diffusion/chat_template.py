"""A checkpoint's chat template: rendered in a sandbox as Transformers renders it, with bounds on its time and output.

A template is a program from a stranger. It gets plain data and cannot reach the system, and every loop, call and
string that it makes is charged, so that it ends. Knows nothing of tokens or files.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from mlx_diffusion.errors import PromptError
from mlx_diffusion.template_bounds import METER, TooMuchWork, WorkMeter, counted
from mlx_diffusion.template_sandbox import Sandbox, literals

LONGEST_REASON = 300  # characters of a foreign error that are passed on
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's thoughts, the standard one first


class ChatTemplate:
    """A template and the special tokens that it may name, such as `bos_token`."""

    def __init__(self, source: str, named: Mapping[str, str]) -> None:
        self.source = source
        self._named = dict(named)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """The text. Raises PromptError, one line, for all that a template can do wrong."""
        given = {
            **self._named,
            **plain_data(variables),
            "messages": _alias_reasoning([_without_none(message) for message in plain_data(list(messages))]),
            "tools": None if tools is None else plain_data(list(tools)),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        meter = METER.set(WorkMeter())
        try:
            return "".join(counted(self._compiled.generate(given)))
        except PromptError:
            raise
        except Exception as error:  # a template can raise whatever Python can
            raise PromptError(
                f"the checkpoint's chat template does not take these messages{' and tools' if tools else ''} "
                f"({one_line(error)}); {_advice(error, bool(tools))}"
            ) from error
        finally:
            METER.reset(meter)

    @cached_property
    def literals(self) -> str:
        """All text that the template itself holds, its pieces kept apart by null characters."""
        try:
            tree = Sandbox().parse(self.source)
        except Exception:  # rendering says what is wrong with it
            return ""
        return "\0".join(literals(tree))

    @cached_property
    def _compiled(self) -> Any:
        return Sandbox().from_string(self.source)


def one_line(error: BaseException) -> str:
    """What a foreign error says, as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"


def _advice(error: BaseException, has_tools: bool) -> str:
    if isinstance(error, TooMuchWork):
        return "take the template of another copy of this checkpoint"
    if isinstance(error, TemplateError | TypeError):
        typed = ", and every property of a tool its type" if has_tools else ""
        return f"give each a role that it knows and a content that is text{typed}"
    return "the template itself is at fault, or what it reads has another shape than it expects"


def plain_data(value: Any) -> Any:
    """A copy of `value` in JSON's own types: a template gets no object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    kinds: tuple[tuple[type, Callable[[Any], Any]], ...]
    kinds = ((str, str.__str__), (int, int.__int__), (float, float.__float__))
    for kind, plain in kinds:
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_data(item) for item in value)
    if isinstance(value, list):
        return [plain_data(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain_data(value.model_dump())
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:  # a number of NumPy or MLX
        return plain_data(value.item())
    return f"<{type(value).__name__}>"


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _alias_reasoning(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Thoughts under each of the names by which templates read them."""
    aliased = []
    for message in messages:
        thoughts = next((message[name] for name in REASONING if message.get(name) is not None), None)
        named = {} if thoughts is None else {"thinking": thoughts, **message, "reasoning_content": thoughts}
        aliased.append(named or message)
    return aliased
