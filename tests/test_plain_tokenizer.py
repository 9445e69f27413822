"""Where Transformers is not needed, it would say the same; where it would say something else, it is asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import write_byte_level, write_gemma_like
from transformers import AutoTokenizer

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.plain_tokenizer import PlainTokenizer
from mlx_diffusion.tokenizer import Tokenizer

FOLDERS = ["demo", "hub", "gemma", "bytes"]
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {"a": {"type": "number"}}}}}


@pytest.fixture(scope="module", params=FOLDERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainTokenizer, Any]:
    """The same folder read in both ways."""
    made = tmp_path_factory.mktemp("tokenizer")
    folder = {
        "demo": lambda: DEMO_FOLDER,
        "hub": lambda: FIXTURES / "hub",
        "gemma": lambda: write_gemma_like(made),
        "bytes": lambda: write_byte_level(made),
    }[request.param]()
    plain = PlainTokenizer.read(folder)
    assert plain is not None
    return plain, AutoTokenizer.from_pretrained(folder)


Pair = tuple[PlainTokenizer, Any]


def test_it_knows_the_same_of_itself(pair: Pair) -> None:
    plain, full = pair
    assert (plain.bos_token, plain.bos_token_id) == (full.bos_token, full.bos_token_id)
    assert plain.chat_template == full.chat_template


@given(text=st.text(max_size=40) | st.text("abfig oak<|>turn\n"), special=st.booleans())
@settings(deadline=None, max_examples=60)
def test_text_has_the_same_ids(pair: Pair, text: str, special: bool) -> None:
    plain, full = pair
    assert plain.encode(text, add_special_tokens=special) == full.encode(text, add_special_tokens=special)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_ids_have_the_same_text(pair: Pair, data: st.DataObject) -> None:
    plain, full = pair
    tokens = data.draw(st.lists(st.integers(0, len(full) + 2), max_size=30))
    how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    assert plain.decode(tokens, **how) == full.decode(tokens, **how)
    assert [plain.convert_ids_to_tokens(token) for token in tokens] == [full.convert_ids_to_tokens(t) for t in tokens]


@given(
    texts=st.lists(
        st.text(max_size=8) | st.sampled_from(["  fig\n", "{{ bos_token }}", "<turn|>", "<b>&</b>"]), min_size=1
    ),
    first=st.sampled_from(["system", "user", "developer"]),
    opened=st.booleans(),
    tools=st.sampled_from([None, [], [TOOL]]),
    thinking=st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}]),
)
@settings(deadline=None, max_examples=60)
def test_messages_have_the_same_text(
    pair: Pair, texts: list[str], first: str, opened: bool, tools: Any, thinking: dict[str, bool]
) -> None:
    plain, full = pair
    if full.chat_template is None:
        return
    roles = [first, *("assistant" if n % 2 else "user" for n in range(1, len(texts)))]
    if "unknown role" in full.chat_template:
        roles = [role.replace("developer", "system") for role in roles]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    how: dict[str, Any] = {"tools": tools, "add_generation_prompt": opened, "tokenize": False, **thinking}
    assert Tokenizer(plain).apply_chat_template(messages, **how) == full.apply_chat_template(messages, **how)


# What is not plain


def edit(name: str, **changes: Any) -> Callable[[Path], object]:
    """Change fields of a JSON file; None takes one out."""

    def change(folder: Path) -> None:
        raw = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("tokenizer_config.json", tokenizer_class="GemmaTokenizer"),
        edit("tokenizer_config.json", tokenizer_class=None),
        edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
        edit("tokenizer_config.json", add_bos_token=True),
        edit("tokenizer_config.json", bos_token="<new>"),
        edit("tokenizer_config.json", bos_token={"content": "<bos>", "lstrip": True}),
        edit("tokenizer_config.json", extra_special_tokens=["<new>"]),
        edit("tokenizer_config.json", extra_special_tokens={"image_token": "<|turn>"}),
        edit("tokenizer_config.json", split_special_tokens=True),
        edit("tokenizer_config.json", chat_template=[{"name": "default", "template": "a"}]),
        edit(
            "tokenizer.json",
            truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        ),
        edit("tokenizer.json", post_processor=None),
        edit("tokenizer.json", added_tokens=[]),
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0", '),
        lambda folder: (folder / "special_tokens_map.json").write_text('{"bos_token": "a"}'),
        lambda folder: (folder / "added_tokens.json").write_text('{"<new>": 99}'),
        lambda folder: (folder / "additional_chat_templates").mkdir(),
    ],
)
def test_a_folder_with_anything_more_is_left_to_transformers(change: Callable[[Path], object], tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "hub", tmp_path / "checkpoint")
    assert PlainTokenizer.read(folder) is not None
    change(folder)
    assert PlainTokenizer.read(folder) is None


def test_a_template_in_the_configuration_counts_where_it_has_no_file(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "hub", tmp_path / "checkpoint")
    edit("tokenizer_config.json", chat_template="of the configuration")(folder)
    for expected in ((folder / "chat_template.jinja").read_text(), "of the configuration"):
        plain = PlainTokenizer.read(folder)
        assert (
            plain is not None and plain.chat_template == expected == AutoTokenizer.from_pretrained(folder).chat_template
        )
        (folder / "chat_template.jinja").unlink(missing_ok=True)
