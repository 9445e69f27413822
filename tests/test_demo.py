"""The bundled checkpoint: small enough, whole, as good as its card says, and its card written from the measurements."""

import json
from pathlib import Path
from random import Random

import pytest

from mlx_diffusion import generate, load
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.measure.tasks import FAMILIES, draw
from mlx_diffusion.tokenizer import Tokenizer
from training import card

ROOT = Path(__file__).parent.parent
RESULTS = json.loads((ROOT / "training" / "results.json").read_text())


def test_it_fits_into_the_wheel() -> None:
    assert sum(file.stat().st_size for file in DEMO_FOLDER.iterdir()) <= 8_000_000


def test_the_card_is_what_the_measurements_say() -> None:
    assert (DEMO_FOLDER / "README.md").read_text() == card.render(DEMO_FOLDER, RESULTS)
    assert RESULTS["table"].keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", ["copy", "from_json"])
def test_it_answers_prompts_that_training_never_saw(family: str) -> None:
    model, tokenizer = load("demo")
    rng = Random(f"test {family}")
    tasks = [draw(FAMILIES[family], rng, "held_out") for _ in range(12)]
    texts = generate(model, tokenizer, [task.messages for task in tasks], max_tokens=32, canvas_length=32)
    right = sum(task.is_right(text) for task, text in zip(tasks, texts, strict=True))
    assert right >= 11, list(zip((task.answer for task in tasks), texts, strict=True))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return load("demo")[1]


@pytest.mark.parametrize("text", ["fig oak", "  two  spaces\n\n", "Ünïcödé 😀 \u202e", "\ttab\x00", "▁", "1234567890"])
def test_any_text_encodes_and_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text.replace("▁", " ")


def test_the_template_has_the_published_shape(tokenizer: Tokenizer) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Bye"},
    ]
    tools = [
        {"type": "function", "function": {"name": "clock", "parameters": {"properties": {"city": {"type": "string"}}}}}
    ]
    rendered = tokenizer.apply_chat_template(
        turns, tools=tools, enable_thinking=True, add_generation_prompt=True, tokenize=False
    )
    assert rendered == (
        "<bos><|turn>system\n<|think|>\nBe brief.<|tool>declaration:clock{city:string}<tool|><turn|>\n"
        "<|turn>user\nHi<turn|>\n<|turn>model\nHo<turn|>\n<|turn>user\nBye<turn|>\n<|turn>model\n"
    )
    plain = tokenizer.apply_chat_template(turns[1:2], add_generation_prompt=True, tokenize=False)
    assert plain == "<bos><|turn>user\nHi<turn|>\n<|turn>model\n"
