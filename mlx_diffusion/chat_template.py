"""A checkpoint's chat template: rendered in a sandbox as Transformers renders it, with bounds on its time and output.

A template is a program from a stranger. It gets plain data and cannot reach the system, and every loop, call and
string that it makes is charged, so that it ends. Knows nothing of tokens or files.
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn

from jinja2 import TemplateError, ext, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mlx_diffusion.errors import PromptError

MOST_WORK = 50_000_000  # characters and iterations of one rendering, together
MOST_SECONDS = 5.0  # of this thread's own computing
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
        meter = METER.set(Meter())
        try:
            return "".join(_counted(self._compiled.generate(given)))
        except PromptError:
            raise
        except Exception as error:  # a template can raise whatever Python can
            raise PromptError(
                f"the checkpoint's chat template does not take these messages ({one_line(error)}); {_advice(error)}"
            ) from error
        finally:
            METER.reset(meter)

    @cached_property
    def literals(self) -> str:
        """All text that the template itself holds, its pieces kept apart by null characters."""
        try:
            tree = _Environment().parse(self.source)
        except Exception:  # rendering says what is wrong with it
            return ""
        return "\0".join(_literals(tree))

    @cached_property
    def _compiled(self) -> Any:
        return _Environment().from_string(self.source)


def one_line(error: BaseException) -> str:
    """What a foreign error says, as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"


def _advice(error: BaseException) -> str:
    if isinstance(error, TooMuchWork):
        return "take the template of another copy of this checkpoint"
    if isinstance(error, TemplateError | TypeError):
        return "give each a role that it knows and a content that is text"
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


# The bounds


class TooMuchWork(Exception):
    """A rendering that went over its bounds."""


class Meter:
    """The work of one rendering."""

    def __init__(self) -> None:
        self._work = 0
        self._deadline = time.thread_time() + MOST_SECONDS

    def charge(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK or time.thread_time() > self._deadline:
            raise TooMuchWork("it makes too much text or takes too long")


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


def _charge(work: int) -> None:
    if work > MOST_WORK:
        raise TooMuchWork("it makes too much text or takes too long")
    meter = METER.get()
    if meter is not None:
        meter.charge(work)


def _counted(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        _charge(len(part))
        yield part


def _size(value: Any) -> int:
    """About as many characters as `value` has as text, or more."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Mapping):
        return sum(_size(key) + _size(item) + 1 for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, range):
        return sum(_size(item) + 1 for item in value)
    return len(value) if hasattr(value, "__len__") else 1


def _bounded(items: Any, weight: int) -> Any:
    """What a loop runs over, charged before it runs."""
    if not hasattr(items, "__len__"):
        items = list(islice(items, MOST_WORK // weight + 1))
    _charge(1 + len(items) * weight)
    return items


def _concat(items: Sequence[Any]) -> str:
    texts = [str(item) for item in items]
    _charge(sum(map(len, texts)))
    return "".join(texts)


def _finalize(value: Any) -> Any:
    _charge(len(value) if isinstance(value, str) else _size(value))
    return value


def _charge_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Charge a filter or a method of text for the most that it could make of its arguments."""
    values = [*args, *kwargs.values()]
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            _charge(abs(value) if name in WIDENING else 0)
    if name in MULTIPLYING:
        texts = [_size(list(value) if hasattr(value, "__next__") else value) + 1 for value in values]
        product = 1
        for size in sorted(texts, reverse=True)[:2]:
            product *= size
        _charge(product if product > MOST_WORK and not _really_fits(name, values) else 0)
        _charge(sum(texts))
    if name in FORMATTING and any(WIDE_FIELD.search(value) for value in values if isinstance(value, str)):
        raise TooMuchWork("it formats a field of too many characters")


def _really_fits(name: str, values: Sequence[Any]) -> bool:
    """True if a replacement or a join makes less than its arguments let fear."""
    if name == "replace" and len(values) >= 3 and all(isinstance(value, str) for value in values[:3]):
        text, old, new = values[:3]
        return (text.count(old) + 1) * (len(new) + 1) + len(text) <= MOST_WORK
    return False


WIDENING = {"center", "ljust", "rjust", "zfill", "expandtabs", "batch", "slice", "indent", "tojson", "lipsum"}
WIDENING |= {"to_bytes", "round", "wordwrap", "generate_lorem_ipsum"}
MULTIPLYING = {"replace", "join", "indent", "wordwrap"}
FORMATTING = {"format", "format_map"}
WIDE_FIELD = re.compile(r"\d{6}|%[-+ #0]*\*|%[^%a-zA-Z]*\.\*|\{[^{}]*\{")


# The sandbox, with the tags, filters and functions that Transformers adds


class _Generation(ext.Extension):
    """`{% generation %}`, which marks the model's own text in training data: here only its content."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """No attribute begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may have no attribute {name!r}")


class _Dict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Charging(NodeTransformer):
    """Charges every loop for what it can write, and every joining of texts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        weight = 1 + sum(map(len, _literals(node)))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_bounded", nodes.Const(weight))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")


def _filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _literals(node: nodes.Node) -> list[str]:
    data = [part.data for part in node.find_all(nodes.TemplateData)]
    return data + [part.value for part in node.find_all(nodes.Const) if isinstance(part.value, str)]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, as Transformers sets it up, that charges for what is made in it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalize,
            extensions=[_Generation, ext.loopcontrols],
        )
        self.filters["tojson"] = _to_json
        for name in (WIDENING | MULTIPLYING | FORMATTING) & self.filters.keys():
            self.filters[name] = _charged(name, self.filters[name])
        self.filters |= {"_bounded": _bounded, "_concat": _concat}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}
        self._literal_size = 0

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        self._literal_size = sum(map(len, _literals(source)))
        return super()._generate(_Charging().visit(source), *args, **kwargs)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Macro):
            _charge(1 + __self._literal_size)
        else:
            owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps str.format
            own = [owner] if isinstance(owner, str | bytes) else []
            _charge(1)
            _charge_arguments(getattr(__obj, "__name__", ""), [*own, *args], kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _charge(len(left) + len(right) if hasattr(left, "__len__") and hasattr(right, "__len__") else 1)
        elif operator == "*":
            sizes = [value if isinstance(value, int) else _size(value) for value in (left, right)]
            both = all(isinstance(value, int) for value in (left, right))
            _charge(_size(left) + _size(right) if both else max(sizes[0] * sizes[1], 1))
        elif operator == "**":
            _charge(_size(left) * abs(right) if isinstance(left, int) and isinstance(right, int) else 1)
        elif operator == "%" and isinstance(left, str):
            _charge_arguments("format", [left], {})
        return super().call_binop(context, operator, left, right)


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is charged for its arguments first, with the same first argument from Jinja."""

    def charged(*args: Any, **kwargs: Any) -> Any:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        listed = [list(arg) if hasattr(arg, "__next__") else arg for arg in args[first:]]
        _charge_arguments(name, listed, kwargs)
        return function(*args[:first], *listed, **kwargs)

    if hasattr(function, "jinja_pass_arg"):
        charged.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return charged


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
