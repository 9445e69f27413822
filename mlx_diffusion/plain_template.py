"""Chat templates that need nothing but Jinja, rendered without waiting for Transformers.

Transformers renders chat templates in a sandboxed Jinja with tags, filters and functions of its own. A template that
uses none of them, given messages of plain JSON, makes the same text here. For all else there is no `PlainTemplate`, or
it renders nothing, and the caller turns to Transformers, for errors too. Knows nothing of tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHANGED_FUNCTIONS = {"dict", "strftime_now"}
CHANGED_FILTERS = {"tojson"}
CHANGED_KEYS = {"reasoning", "reasoning_content", "thinking"}  # of messages: each is copied to the others' names
VARIABLES = {"enable_thinking"}  # Gemma's; other names may be arguments of Transformers' own method


class PlainTemplate:
    """A template that Transformers and plain Jinja render alike."""

    def __init__(self, template: Template, named: Mapping[str, str]) -> None:
        self._template = template
        self._named = dict(named)

    @classmethod
    def compile(cls, source: str, named: Mapping[str, str]) -> "PlainTemplate | None":
        """A template with the `named` special tokens; None if it has anything of Transformers' or Jinja refuses it."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            if not _is_plain(environment.parse(source)):
                return None
            return cls(environment.from_string(source), named)
        except TemplateError:
            return None

    def render(
        self,
        messages: Sequence[Any],
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str | None:
        """The text, or None where what is given is not plain or the template refuses it."""
        plain = bool(messages) and all(_is_plain_message(message) for message in messages)
        if not (plain and _is_json(tools) and variables.keys() <= VARIABLES and _is_json(variables)):
            return None
        given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(self._named | variables | given | {"documents": None})
        except Exception:  # a template can raise anything; Transformers, asked next, says what it says
            return None


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _is_plain_message(message: Any) -> bool:
    if type(message) is not dict or message.keys() & CHANGED_KEYS:
        return False
    return None not in message.values() and _is_json(message)


def _is_json(value: Any) -> bool:
    """True for a value of JSON's own types, and not of subclasses of them, all the way down."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)


def _is_plain(tree: nodes.Template) -> bool:
    return (
        not any(node.name in CHANGED_FUNCTIONS for node in tree.find_all(nodes.Name))
        and not any(node.name in CHANGED_FILTERS for node in tree.find_all(nodes.Filter))
        and _has_plain_namespaces(tree)
    )


def _has_plain_namespaces(tree: nodes.Template) -> bool:
    """Transformers lets no attribute of a namespace begin with an underscore."""
    named = [name for name in tree.find_all(nodes.Name) if name.name == "namespace"]
    calls = [call for call in tree.find_all(nodes.Call) if call.node in named]
    return (
        len(calls) == len(named)
        and not any(call.args or call.dyn_args or call.dyn_kwargs for call in calls)
        and not any(keyword.key.startswith("_") for call in calls for keyword in call.kwargs)
        and not any(reference.attr.startswith("_") for reference in tree.find_all(nodes.NSRef))
    )
