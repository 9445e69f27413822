"""Jinja's sandbox as Transformers sets it up for chat templates, with all that a template makes in it charged.

Has the tags, filters and functions that Transformers adds. Knows nothing of messages.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, ext, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mlx_diffusion.template_bounds import (
    FORMATTING,
    MULTIPLYING,
    WIDENING,
    bounded,
    charge,
    charge_arguments,
    concat,
    finalize,
    size_of,
)


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
        weight = 1 + sum(map(len, literals(node)))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_bounded", nodes.Const(weight))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")


def _filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def literals(node: nodes.Node) -> list[str]:
    data = [part.data for part in node.find_all(nodes.TemplateData)]
    return data + [part.value for part in node.find_all(nodes.Const) if isinstance(part.value, str)]


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, as Transformers sets it up, that charges for what is made in it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=finalize,
            extensions=[_Generation, ext.loopcontrols],
        )
        self.filters["tojson"] = _to_json
        for name in (WIDENING | MULTIPLYING | FORMATTING) & self.filters.keys():
            self.filters[name] = _charged(name, self.filters[name])
        self.filters |= {"_bounded": bounded, "_concat": concat}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}
        self._literal_size = 0

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        self._literal_size = sum(map(len, literals(source)))
        return super()._generate(_Charging().visit(source), *args, **kwargs)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Macro):
            charge(1 + __self._literal_size)
        else:
            owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps str.format
            own = [owner] if isinstance(owner, str | bytes) else []
            charge(1)
            charge_arguments(getattr(__obj, "__name__", ""), [*own, *args], kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            charge(len(left) + len(right) if hasattr(left, "__len__") and hasattr(right, "__len__") else 1)
        elif operator == "*":
            sizes = [value if isinstance(value, int) else size_of(value) for value in (left, right)]
            both = all(isinstance(value, int) for value in (left, right))
            charge(size_of(left) + size_of(right) if both else max(sizes[0] * sizes[1], 1))
        elif operator == "**":
            charge(size_of(left) * abs(right) if isinstance(left, int) and isinstance(right, int) else 1)
        elif operator == "%" and isinstance(left, str):
            charge_arguments("format", [left], {})
        return super().call_binop(context, operator, left, right)


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is charged for its arguments first, with the same first argument from Jinja."""

    def charged(*args: Any, **kwargs: Any) -> Any:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        listed = [list(arg) if hasattr(arg, "__next__") else arg for arg in args[first:]]
        charge_arguments(name, listed, kwargs)
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
