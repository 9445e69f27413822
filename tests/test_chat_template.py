"""Templates render as in Transformers, end, and fail in one line; messages of the wrong shape are named."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import PLAIN, TEMPLATES, THINKS_AND_CALLS, TRIMS
from test_tokenizer import write_byte_level, write_gemma_like
from transformers import AutoTokenizer

from mlx_diffusion import template_bounds
from mlx_diffusion.chat_template import ChatTemplate
from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

HELLO = [{"role": "user", "content": "fig"}]
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {"a": {"type": "number"}}}}}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(write_byte_level(tmp_path_factory.mktemp("bytes")))


def tokenizer_of(full: Any, template: str) -> Tokenizer:
    return Tokenizer(full, {"default": template})


CLEAN = st.text("abF<>|[]{}*/ \n\té🙂", max_size=12)


@given(
    texts=st.lists(CLEAN, min_size=1, max_size=5),
    name=st.sampled_from(sorted(TEMPLATES)),
    opened=st.booleans(),
    tools=st.sampled_from([None, [TOOL]]),
    thinking=st.sampled_from([{}, {"enable_thinking": True}]),
)
@settings(deadline=None, max_examples=150)
def test_clean_messages_have_the_ids_that_transformers_gives_them(
    full: Any, texts: list[str], name: str, opened: bool, tools: Any, thinking: dict[str, bool]
) -> None:
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]
    how: dict[str, Any] = {"tools": tools, "add_generation_prompt": opened, **thinking}
    theirs = full.apply_chat_template(messages, chat_template=TEMPLATES[name], return_dict=False, **how)
    assert tokenizer_of(full, TEMPLATES[name]).apply_chat_template(messages, **how) == theirs


def test_thoughts_and_tool_calls_have_the_ids_that_transformers_gives_them(full: Any) -> None:
    call = {"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "content": {"sum": 3}},
        {"role": "assistant", "content": "<|channel>thought\noak\n<channel|>\nelm"},
    ]
    how: dict[str, Any] = {"tools": [TOOL], "add_generation_prompt": True}
    theirs = full.apply_chat_template(messages, chat_template=THINKS_AND_CALLS, return_dict=False, **how)
    assert tokenizer_of(full, THINKS_AND_CALLS).apply_chat_template(messages, **how) == theirs


# Bounds


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1/0 }}",
        "{%break%}",
        "{% if %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'x' %}",
        "{{ " + "(" * 3000 + ")" * 3000 + " }}",
        "{{ 'a'|center(10**10) }}",
        "{{ 'a'.center(10**10) }}",
        "{{ 'a'.zfill(10**10) }}",
        "{{ 'a'*10**10 }}",
        "{{ [1]*10**10 }}",
        "{{ 10**(10**10) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set x = range(1000)|list %}{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=['b']) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a }}",
        "{{ '%99999999999s' % 'a' }}",
        "{{ '%*s' % (9999999999, 'a') }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '%99999999999s'|format('a') }}",
        "{{ range(100000)|join('a'*1000000) }}",
        "{{ ('a'*100000).replace('a','b'*100000) }}",
        "{{ ('a'*100000)|replace('a','b'*100000) }}",
        "{{ [1]|batch(10**10, 1)|list }}",
        "{{ lipsum(10**9) }}",
        "{{ lipsum(10**6) }}",
        "{{ lipsum(n=99, max=10**6) }}",
        "{{ messages|tojson(indent=10**10) }}",
        "{{ 'a'|indent(10**10) }}",
        "{{ (1).to_bytes(10**10) }}",
        "{% set x %}{% for i in range(100000) %}" + "a" * 1000 + "{% endfor %}{% endset %}{{ x }}",
        "{{ messages[0].content.foo.bar }}",
        "{{ raise_exception('a\\n' * 9000) }}",
        "{{ namespace(__class__=1) }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_at_fault_ends_and_is_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bounds, of which a tenth is enough to see it."""
    assert template_bounds.MOST_WORK <= 50_000_000
    monkeypatch.setattr(template_bounds, "MOST_WORK", template_bounds.MOST_WORK // 10)
    begin = time.thread_time()
    with pytest.raises(PromptError) as error:
        ChatTemplate(source, {}).render(HELLO)
    assert "chat template" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700
    assert time.thread_time() - begin < 2


def test_a_template_that_makes_nothing_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that double with every level: little work is counted, and its time is bounded."""
    assert template_bounds.MOST_SECONDS <= 5
    monkeypatch.setattr(template_bounds, "MOST_SECONDS", 0.2)
    begin = time.thread_time()
    with pytest.raises(PromptError, match="takes too long"):
        ChatTemplate(
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}", {}
        ).render(HELLO)
    assert time.thread_time() - begin < 4


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages = [{"role": "user", "content": "fig oak " * 500}] * 500
    assert len(ChatTemplate(THINKS_AND_CALLS, {"bos_token": "<bos>"}).render(messages)) > 1_900_000


# Shapes


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "empty"),
        ([{"role": "user", "content": 5}], "5"),
        ([{"role": "user", "content": {"text": "a"}}], "content that is"),
        ([{"role": "user", "content": b"a"}], "content that is"),
        ([{"role": "user", "content": []}], "empty list"),
        ([{"role": "user", "contents": "a"}], "contents"),
        ([{"content": "a"}], "role"),
        ([{"role": 5, "content": "a"}], "role 5"),
        (["a"], "'a'"),
        ([{"role": "user", "content": ["a"]}], "'a'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}], "image"),
        ([{"role": "user", "content": [{"type": "text"}]}], "None"),
        ([{"role": "assistant", "tool_calls": "sum"}], "'sum'"),
        ([{"role": "assistant", "tool_calls": [{"function": "sum"}]}], "'sum'"),
        ({"role": "user", "content": "a"}, "dict"),
        ("a", "str"),
    ],
)
def test_messages_of_another_shape_are_named(full: Any, messages: Any, named: str) -> None:
    for template in (TRIMS, PLAIN):
        with pytest.raises(PromptError) as error:
            tokenizer_of(full, template).apply_chat_template(messages)
        assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", [b"fig", bytearray(b"fig"), memoryview(b"fig"), {"role": "user", "content": "a"}])
def test_prompts_of_another_shape_are_named(full: Any, prompt: Any) -> None:
    with pytest.raises(PromptError, match=r"bytes; decode|list of messages"):
        tokenizer_of(full, PLAIN).encode_prompt(prompt, 1000)


@pytest.mark.parametrize("name", ["trims", "thinks and calls", "loops", "plain"])
def test_parts_of_text_are_joined(full: Any, name: str) -> None:
    parts = [{"type": "text", "text": "fig"}, {"type": "text", "text": "oak"}]
    tokenizer = tokenizer_of(full, TEMPLATES[name])
    joined = tokenizer.apply_chat_template([{"role": "user", "content": "figoak"}], add_generation_prompt=True)
    assert tokenizer.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True) == joined


@pytest.mark.parametrize(
    ("tools", "named"),
    [("sum", "str"), ([5], "tool 1 is 5"), ([{}], "no name"), ([{"function": {"name": "f", "parameters": 5}}], "5")],
)
def test_tools_of_another_shape_are_named(full: Any, tools: Any, named: str) -> None:
    with pytest.raises(PromptError, match=named):
        tokenizer_of(full, THINKS_AND_CALLS).apply_chat_template(HELLO, tools=tools)


def test_arguments_in_json_and_tools_without_parameters_are_taken(full: Any) -> None:
    tokenizer = tokenizer_of(full, THINKS_AND_CALLS)

    def calling(arguments: Any) -> list[dict[str, Any]]:
        return [*HELLO, {"role": "assistant", "tool_calls": [{"function": {"name": "sum", "arguments": arguments}}]}]

    assert tokenizer.apply_chat_template(calling('{"a": 1}')) == tokenizer.apply_chat_template(calling({"a": 1}))
    bare = {"type": "function", "function": {"name": "now"}}
    empty = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    assert tokenizer.apply_chat_template(HELLO, tools=[bare]) == tokenizer.apply_chat_template(HELLO, tools=[empty])


# Places


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_named_templates_are_chosen_among(tmp_path: Path) -> None:
    folder = write_gemma_like(tmp_path, None)
    named = [{"name": name, "template": name} for name in ("tool_use", "default", "rag")]
    edit(folder / "tokenizer_config.json", chat_template=named)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.has_chat_template
    assert tokenizer.apply_chat_template(HELLO, tokenize=False) == "default"
    assert tokenizer.apply_chat_template(HELLO, tools=[TOOL], tokenize=False) == "tool_use"
    assert tokenizer.apply_chat_template(HELLO, chat_template="rag", tokenize=False) == "rag"
    edit(folder / "tokenizer_config.json", chat_template=named[2:])
    with pytest.raises(PromptError, match="named rag"):
        load_tokenizer(folder).apply_chat_template(HELLO)


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json", "preprocessor_config.json"])
def test_templates_are_found_where_older_repositories_keep_them(tmp_path: Path, name: str) -> None:
    folder = write_gemma_like(tmp_path, None)
    for stored in ("mine", [{"name": "default", "template": "mine"}], {"default": "mine"}):
        (folder / name).write_text(json.dumps({"chat_template": stored}))
        assert load_tokenizer(folder).apply_chat_template(HELLO, tokenize=False) == "mine"
    (folder / name).write_text(json.dumps({"chat_template": [5]}))
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(folder)


def test_additional_templates_are_read(tmp_path: Path) -> None:
    folder = write_gemma_like(tmp_path, "mine")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template(HELLO, tokenize=False) == "mine"
    assert tokenizer.apply_chat_template(HELLO, tools=[TOOL], tokenize=False) == "with tools"
