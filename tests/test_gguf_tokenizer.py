"""A tokenizer that went through a GGUF's metadata gives the ids and the text of the one that it was made of."""

import json
from pathlib import Path

import pytest

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.convert.gguf_config import GgufFacts
from mlx_diffusion.convert.gguf_tokenizer import tokenizer_files
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["Copy: fig oak ant", "def f(x):\n    return x  + 1", "<|turn>user\nüß ☃<turn|>", "  two  spaces "]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """The bundled checkpoint's tokenizer, and the same out of metadata as llama.cpp's converter writes them."""
    described = json.loads((DEMO_FOLDER / "tokenizer.json").read_text())
    tokens = sorted(described["model"]["vocab"], key=described["model"]["vocab"].get)
    special = {token["content"] for token in described["added_tokens"]}
    metadata = {
        "general.architecture": "diffusion-gemma",
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 6 if t.startswith("<0x") else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in described["model"]["merges"]],
        "tokenizer.chat_template": (DEMO_FOLDER / "chat_template.jinja").read_text(),
        **{f"tokenizer.ggml.{name}_token_id": n for n, name in enumerate(["padding", "eos", "bos", "unknown"])},
    }
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer_files(GgufFacts(metadata, "it")).items():
        Path(folder / name).write_bytes(content)
    return load_tokenizer(DEMO_FOLDER), load_tokenizer(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_texts(text: str, pair: tuple[Tokenizer, Tokenizer]) -> None:
    original, made = pair
    ids = original.encode(text)
    assert made.encode(text) == ids and made.decode(ids) == original.decode(ids)
    message = [{"role": "user", "content": text}]
    assert made.encode_prompt(message, 1024) == original.encode_prompt(message, 1024)
