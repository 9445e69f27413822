"""Text to ids and back, chat templates, and text that arrives in parts."""

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from mlx_diffusion import text_stream
from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.text_stream import StopText, TextStream
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer, split_batch

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>"]
SPECIAL += ["<tool_call|>"]
WORDS = ["▁", "a", "b", "fig", "▁oak", "▁elm", "thought", "\n", "é", "�", "ab", "▁▁"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] not in ['user', 'system', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "{{ '<|turn>' + m['role'] + '\n' + m['content'] + '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def write_gemma_like(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Pieces with ▁ for space and a token for every byte, decoded as Gemma's are."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return save(folder, backend, template)


def write_byte_level(folder: Path) -> Path:
    """A byte-level vocabulary: one token a byte, none of them spelled <0xNN>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Backend(models.BPE(vocab, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return save(folder, backend, None)


def save(folder: Path, backend: Backend, template: str | None) -> Path:
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_gemma_like(tmp_path_factory.mktemp("gemma")))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_byte_level(tmp_path_factory.mktemp("bytes")))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# Text and ids


def test_the_begin_token_is_added_unless_it_is_there(gemma: Tokenizer) -> None:
    assert gemma.bos_token_id == 2
    assert gemma.encode("fig oak")[0] == 2
    assert gemma.encode("<bos>fig oak") == gemma.encode("fig oak")
    assert 2 not in ids(gemma, "fig oak")


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_text_comes_back(gemma: Tokenizer, text: str) -> None:
    if "▁" not in text:
        assert gemma.decode(ids(gemma, text)) == text


def test_surrogates_are_no_text(gemma: Tokenizer) -> None:
    with pytest.raises(PromptError, match="not valid Unicode"):
        gemma.encode("fig \udc80")


# Prompts


def test_the_forms_of_a_prompt_agree(gemma: Tokenizer) -> None:
    messages = [{"role": "user", "content": "fig oak"}]
    text = "<bos><|turn>user\nfig oak<turn|>\n<|turn>model\n"
    expected = gemma.encode_prompt(text, 1000)
    assert gemma.decode(expected) == text
    assert gemma.encode_prompt(messages, 1000) == expected
    assert gemma.encode_prompt(expected, 1000) == expected
    assert gemma.encode_prompt(mx.array(expected), 1000) == expected
    assert gemma.encode_prompt(np.array(expected), 1000) == expected
    assert gemma.apply_chat_template(messages, add_generation_prompt=True) == expected
    assert gemma.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == text
    assert gemma.apply_chat_template(messages, tokenize=False) == text.removesuffix("<|turn>model\n")


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        ([], "empty"),
        (np.array([], np.int32), "shape"),
        (np.zeros((2, 2), np.int32), "shape"),
        ([5, 1000], "token id 1000"),
        ([-1], "token id -1"),
        ([5, True], "True"),
        ([5, 1.0], "1.0"),
        (np.array([1.0, 2.0]), "1.0"),
        ([{"role": "user", "content": "a"}, "b"], "role"),
        ([{"role": "wizard", "content": "a"}], "unknown role wizard"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": None}], "content"),
        (5, "int"),
        (None, "NoneType"),
    ],
)
def test_a_bad_prompt_is_one_line_that_names_it(gemma: Tokenizer, prompt: Any, named: str) -> None:
    with pytest.raises(PromptError) as error:
        gemma.encode_prompt(prompt, 1000)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_messages_need_a_chat_template(byte_level: Tokenizer) -> None:
    assert not byte_level.has_chat_template
    with pytest.raises(PromptError, match="no chat template"):
        byte_level.encode_prompt([{"role": "user", "content": "a"}], 1000)


def test_lists_of_prompts_are_batches_and_lists_of_messages_or_ids_are_not() -> None:
    message = {"role": "user", "content": "a"}
    batches: Any = (["a"], ["a", [5, 6]], [[message], [message]], [[5], [6, 7]], [mx.array([5])], (np.array([5]), "a"))
    for batch in batches:
        prompts, is_batch = split_batch(batch)
        assert is_batch and len(prompts) == len(batch)
    for single in ("a", [message], [5, 6], mx.array([5, 6]), np.array([5]), []):
        assert split_batch(single) == ([single], False)


# Text in parts


def push_in_parts(tokenizer: Tokenizer, tokens: list[int], cuts: list[int], hidden: tuple[int, ...] = ()) -> list[str]:
    stream = TextStream(tokenizer, hidden)
    bounds = [0, *sorted({cut % (len(tokens) + 1) for cut in cuts}), len(tokens)]
    parts = [tokens[a:b] for a, b in itertools.pairwise(bounds)]
    return [stream.push(part, last=index == len(parts) - 1) for index, part in enumerate(parts)]


@given(st.lists(st.integers(0, len(SPECIAL) + 256 + len(WORDS) - 1), max_size=40), st.lists(st.integers(0, 99)))
@settings(deadline=None, max_examples=150)
def test_parts_join_to_the_whole(gemma: Tokenizer, tokens: list[int], cuts: list[int]) -> None:
    assert "".join(push_in_parts(gemma, tokens, cuts)) == gemma.decode(tokens)


@given(st.text(max_size=12), st.lists(st.integers(0, 99)))
@settings(deadline=None, max_examples=60)
def test_parts_of_text_join_to_the_text(gemma: Tokenizer, text: str, cuts: list[int]) -> None:
    if "▁" not in text:
        assert "".join(push_in_parts(gemma, ids(gemma, text), cuts)) == text


@given(st.lists(st.integers(0, len(SPECIAL) + 255), max_size=40), st.lists(st.integers(0, 99)))
@settings(deadline=None, max_examples=150)
def test_parts_join_in_byte_level_vocabularies_too(byte_level: Tokenizer, tokens: list[int], cuts: list[int]) -> None:
    assert "".join(push_in_parts(byte_level, tokens, cuts)) == byte_level.decode(tokens)


@given(tokens=st.lists(st.integers(0, len(SPECIAL) + 255), max_size=90), window=st.integers(4, 12))
@settings(deadline=None, max_examples=150)
def test_old_tokens_are_forgotten_and_the_text_is_the_same(
    gemma: Tokenizer, byte_level: Tokenizer, tokens: list[int], window: int
) -> None:
    for tokenizer in (gemma, byte_level):
        with patch.object(text_stream, "WINDOW", window):
            assert "".join(push_in_parts(tokenizer, tokens, list(range(len(tokens))))) == tokenizer.decode(tokens)


def test_a_long_text_is_not_decoded_anew_with_every_token(gemma: Tokenizer) -> None:
    decoded: list[int] = []
    decode = gemma.decode

    def counted(tokens: list[int]) -> str:
        decoded.append(len(tokens))
        return decode(tokens)

    with patch.object(gemma, "decode", counted):
        stream = TextStream(gemma)
        for token in ids(gemma, "fig oak " * 50):
            stream.push([token])
    assert len(decoded) > 100
    assert max(decoded) <= text_stream.WINDOW + 1


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
@settings(deadline=None, max_examples=200)
def test_a_text_ends_before_the_first_stop_string(byte_level: Tokenizer, text: str, stops: list[str]) -> None:
    """As if the text were looked at after every character: what came before it is given, and nothing twice."""
    stream, given_text, seen = StopText(TextStream(byte_level), stops), "", ""
    for token in ids(byte_level, text):
        given_text += stream.push(token)
        seen += byte_level.decode([token])
        if any(stop in seen for stop in stops):
            break
    assert stream.stopped == any(stop in seen for stop in stops)
    given_text += stream.last()
    assert given_text == seen[: min((seen.find(stop) for stop in stops if stop in seen), default=len(seen))]


def test_a_character_cut_in_two_waits_for_its_other_half(gemma: Tokenizer, byte_level: Tokenizer) -> None:
    for tokenizer in (gemma, byte_level):
        tokens = ids(tokenizer, "a🙂b")
        assert len(tokens) == 6
        assert push_in_parts(tokenizer, tokens, [3]) == ["a", "🙂b"]


def test_a_replacement_character_that_was_meant_is_kept(gemma: Tokenizer) -> None:
    tokens = ids(gemma, "a�")
    assert "".join(push_in_parts(gemma, tokens, [2])) == "a�"


def test_half_a_character_at_the_end_is_shown_as_replaced(gemma: Tokenizer) -> None:
    tokens = ids(gemma, "a🙂")[:-1]
    assert "".join(push_in_parts(gemma, tokens, [2])) == gemma.decode(tokens)


def test_hidden_tokens_are_no_text_and_markers_are(gemma: Tokenizer) -> None:
    text = "<|channel>thought\nfig oak<channel|>ab<|tool_call>a<tool_call|>"
    tokens = [*ids(gemma, text), 5, 0, 0]
    for cut in range(len(tokens)):
        assert "".join(push_in_parts(gemma, tokens, [cut], hidden=(0, 5))) == text


def test_a_byte_run_goes_on_across_a_hidden_token(gemma: Tokenizer) -> None:
    bytes_of_smile = ids(gemma, "🙂")
    tokens = [*bytes_of_smile[:2], 0, *bytes_of_smile[2:]]
    assert "".join(push_in_parts(gemma, tokens, [3], hidden=(0,))) == "🙂"


# Files


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", '{"version": "1.0", ', "{}", "[]", '{"added_tokens": [], "model": {}}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, content: str) -> None:
    write_gemma_like(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    write_gemma_like(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", None]}
    path.write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(CheckpointError):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
