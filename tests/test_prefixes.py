"""Kept prefixes: the same tokens as from scratch, what is saved, what is thrown away, and files."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES
from mlx.utils import tree_flatten, tree_unflatten

from mlx_diffusion.engine.prefix_files import sampled_fingerprint
from mlx_diffusion.engine.prefix_store import MOST_POINTS, PrefixStore
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.events import Finish, Prefill, Segment
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.tokenizer import Tokenizer

Pair = tuple[DiffusionGemma, Tokenizer]
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def hub() -> Pair:
    return load(FIXTURES / "hub")


@pytest.fixture(scope="module")
def demo() -> Pair:
    return load("demo")


def write(pair: Pair, prompt: Any, **options: Any) -> tuple[list[int], Finish]:
    """The tokens that are written, and the end."""
    events = list(stream_generate(*pair, prompt, **options))
    finish = events[-1]
    assert isinstance(finish, Finish)
    return [token for event in events if isinstance(event, Segment) for token in event.tokens], finish


def segments(pair: Pair, prompt: Any, **options: Any) -> list[Segment]:
    return [event for event in stream_generate(*pair, prompt, **options) if isinstance(event, Segment)]


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(10, 96, count).tolist()


def test_the_next_turn_encodes_only_what_is_new_and_writes_the_same(demo: Pair) -> None:
    model, tokenizer = demo
    store = PrefixStore(model, PLENTY)
    messages = [{"role": "user", "content": "Copy: fig oak ant"}]
    for turn, question in enumerate(("Reverse: fig oak ant", "Sort: owl hen cat", "In words: 4217", "")):
        options: dict[str, Any] = {"max_denoising_steps": 2, "canvas_length": 16, "max_tokens": 32}
        written, finish = write(demo, messages, prefixes=store, **options)
        from_scratch, _ = write(demo, messages, **options)
        assert written == from_scratch
        stats = finish.stats
        assert (stats.cached_tokens > 0) == (turn > 0)
        assert stats.encoder_positions == stats.prompt_tokens - stats.cached_tokens
        answer = tokenizer.decode([token for token in written if token not in (0, 1)]).removesuffix("<turn|>")
        messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    assert len(store) == 1, "a longer conversation is the same text, not another one"


@pytest.mark.parametrize("shared", [0, 5, 8, 30, 31, 64, 70])
def test_prompts_that_share_a_beginning_write_what_they_write_alone(hub: Pair, shared: int) -> None:
    store, options = PrefixStore(hub[0], PLENTY), {"max_tokens": 20, "max_denoising_steps": 3, "prefill_step_size": 8}
    first = tokens(70)
    second = first[:shared] + tokens(30, seed=1)
    brief = options | {"max_tokens": 4, "max_denoising_steps": 1}  # of the first prompt nothing is read but its keys
    write(hub, first, prefixes=store, **brief)
    written, finish = write(hub, second, prefixes=store, **options)
    assert written == write(hub, second, **options)[0]
    assert finish.stats.cached_tokens <= shared
    assert finish.stats.cached_tokens > 0 or shared < 64, "no point near the end was kept"
    assert write(hub, first, prefixes=store, **brief)[1].stats.cached_tokens == 70


def test_rows_of_a_batch_share_a_store(hub: Pair) -> None:
    store = PrefixStore(hub[0], PLENTY)
    options: dict[str, Any] = {"max_tokens": 20, "max_denoising_steps": 4}
    beginning = tokens(40)
    write(hub, beginning, prefixes=store, **options)
    prompts = [[*beginning, *tokens(count, seed=count)] for count in (3, 9)]
    events = list(stream_generate(*hub, prompts, prefixes=store, **options))
    for row, prompt in enumerate(prompts):
        (finish,) = (event for event in events if isinstance(event, Finish) and event.row == row)
        assert finish.stats.cached_tokens == 40
        own = [token for e in events if isinstance(e, Segment) and e.row == row for token in e.tokens]
        assert own == write(hub, prompt, **options)[0]


def test_a_text_that_turns_off_within_a_canvas_goes_on_from_there(hub: Pair) -> None:
    """Up to a canvas before a kept point, sliding layers are wound back."""
    canvas = hub[0].config.canvas_length
    store, options = PrefixStore(hub[0], PLENTY), {"max_tokens": 20, "max_denoising_steps": 2}
    first = tokens(70)
    write(hub, first, prefixes=store, **options)
    for shared, cached in ((70 - canvas, 70 - canvas), (65, 65), (70 - canvas - 1, 0)):
        second = [*first[:shared], *tokens(30, seed=1)]
        written, finish = write(hub, second, prefixes=store, **options)
        assert written == write(hub, second, **options)[0]
        assert finish.stats.cached_tokens == cached
        store = PrefixStore(hub[0], PLENTY)
        write(hub, first, prefixes=store, **options)


def test_blocks_that_were_written_are_kept_too(hub: Pair) -> None:
    store, options = PrefixStore(hub[0], PLENTY), {"max_denoising_steps": 4, "eos_token_id": ()}
    prompt = tokens(20)
    written, _ = write(hub, prompt, prefixes=store, max_tokens=48, **options)
    longer = [*prompt, *written, *tokens(3, seed=2)]
    again, finish = write(hub, longer, prefixes=store, max_tokens=16, **options)
    assert finish.stats.cached_tokens == 20 + 32  # the third canvas was the last and never encoded
    assert again == write(hub, longer, max_tokens=16, **options)[0]


def test_the_budget_holds_and_the_least_recently_used_go_first(hub: Pair) -> None:
    model, _ = hub
    one = model.make_cache().bytes_at(60, 4)
    cache = model.make_cache()
    model.encode([Passage(mx.array(tokens(60)), cache)])
    assert cache.nbytes == one
    store = PrefixStore(model, 2 * one + one // 2)
    options = {"prefixes": store, "max_tokens": 4, "max_denoising_steps": 1}
    for seed in (0, 1, 0, 2):
        write(hub, tokens(60, seed), **options)
        assert store.nbytes <= store.budget_bytes
    assert len(store) == 2
    assert write(hub, tokens(60, 0), **options)[1].stats.cached_tokens == 60
    assert write(hub, tokens(60, 1), **options)[1].stats.cached_tokens == 0


def test_few_points_are_kept_of_a_long_text(hub: Pair) -> None:
    store = PrefixStore(hub[0], PLENTY)
    options = {"prefixes": store, "max_tokens": 4, "max_denoising_steps": 1, "prefill_step_size": 4}
    write(hub, tokens(200), **options)
    (kept,) = store._kept
    assert len(kept.points) == MOST_POINTS
    assert sorted(kept.points)[-3:] == [192, 196, 200], "dense towards the end"
    assert min(kept.points) <= 100, "something of the beginning"


def test_saved_prefixes_serve_another_process(hub: Pair, tmp_path: Path) -> None:
    options = {"max_tokens": 20, "max_denoising_steps": 4, "prefill_step_size": 16}
    store, file = PrefixStore(hub[0], PLENTY), tmp_path / "document.safetensors"
    prompt = tokens(50)
    first, _ = write(hub, prompt, prefixes=store, **options)
    store.save(file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    restored = PrefixStore(hub[0], PLENTY)
    restored.load(file)
    written, finish = write(hub, prompt, prefixes=restored, **options)
    assert written == first
    assert finish.stats.cached_tokens == 50


def test_prefixes_that_an_earlier_version_saved_still_serve(hub: Pair) -> None:
    """Saved by the code before caches could be wound back: sliding layers hold their window alone."""
    options: dict[str, Any] = {"max_tokens": 20, "max_denoising_steps": 4}
    for shared, cached in ((50, 50), (49, 48), (40, 32)):
        store = PrefixStore(hub[0], PLENTY)
        store.load(FIXTURES / "prefixes-1.safetensors")
        prompt = [*tokens(50)[:shared], *tokens(3, seed=1)]
        written, finish = write(hub, prompt, prefixes=store, **options)
        assert written == write(hub, prompt, **options)[0]
        assert finish.stats.cached_tokens == cached


def test_prefixes_of_an_earlier_version_can_be_saved_anew(hub: Pair, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "max_denoising_steps": 4}
    store, again = PrefixStore(hub[0], PLENTY), PrefixStore(hub[0], PLENTY)
    store.load(FIXTURES / "prefixes-1.safetensors")
    store.save(tmp_path / "anew.safetensors")
    again.load(tmp_path / "anew.safetensors")
    prompt = [*tokens(50), *tokens(3, seed=1)]
    written, finish = write(hub, prompt, prefixes=again, **options)
    assert written == write(hub, prompt, **options)[0]
    assert finish.stats.cached_tokens == 50


def test_files_of_another_model_or_none_are_refused(hub: Pair, demo: Pair, tmp_path: Path) -> None:
    store, file = PrefixStore(hub[0], PLENTY), tmp_path / "document.safetensors"
    write(hub, tokens(30), prefixes=store, max_tokens=4, max_denoising_steps=1)
    store.save(file)
    with pytest.raises(CheckpointError, match=r"document\.safetensors was saved with another model"):
        PrefixStore(demo[0], PLENTY).load(file)
    with pytest.raises(CheckpointError, match="missing or no file"):
        store.load(tmp_path / "nothing")
    (tmp_path / "cut").write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="missing or no file"):
        store.load(tmp_path / "cut")
    with pytest.raises(CheckpointError, match="holds no saved prefixes"):
        store.load(FIXTURES / "hub" / "model.safetensors")
    with pytest.raises(OptionError, match="cannot be written"):
        store.save(tmp_path / "no" / "such" / "folder")


def test_what_cannot_work_is_said_before_any_work(hub: Pair, demo: Pair) -> None:
    with pytest.raises(OptionError, match="budget_bytes is 0"):
        PrefixStore(hub[0], 0)
    with pytest.raises(OptionError, match=r"a budget of 1,000 bytes and a prefix of 30 tokens takes [\d,]+; raise"):
        stream_generate(*hub, tokens(30), prefixes=PrefixStore(hub[0], 1000))
    with pytest.raises(OptionError, match="belongs to another model"):
        stream_generate(*hub, tokens(30), prefixes=PrefixStore(demo[0], PLENTY))


IN_PARTS: dict[str, Any] = {"max_tokens": 20, "max_denoising_steps": 2}


@pytest.fixture(scope="module")
def in_one_part(hub: Pair) -> list[tuple[Any, list[Segment]]]:
    """Prompts, and what is written behind each when it is encoded as a whole."""
    prompts = (tokens(80), [tokens(80), tokens(33, seed=1), tokens(5, seed=2)])
    return [(prompt, segments(hub, prompt, **IN_PARTS)) for prompt in prompts]


@pytest.mark.parametrize("step", [1, 7, 16, 31, 32, 33, 79, 80])
def test_a_prompt_in_parts_is_the_prompt(hub: Pair, in_one_part: list[tuple[Any, list[Segment]]], step: int) -> None:
    """Prompts past the window, alone and in a batch: the same tokens as in one part, whatever the parts."""
    for prompt, expected in in_one_part:
        events = list(stream_generate(*hub, prompt, prefill_step_size=step, **IN_PARTS))
        for row in range(3):
            own = [event for event in events if isinstance(event, Segment) and event.row == row]
            assert own == [segment for segment in expected if segment.row == row]
        progress = [event.encoded_tokens for event in events if isinstance(event, Prefill) and event.row == 0]
        assert progress == list(range(step, 80, step))


def test_a_long_prompt_can_be_left_between_its_parts(hub: Pair) -> None:
    events = stream_generate(*hub, tokens(80), prefill_step_size=16)
    assert next(events) == Prefill(16, 80)
    events.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(events)


@pytest.fixture(scope="module")
def kept(hub: Pair) -> PrefixStore:
    """A store that has met one prompt; tests save it and do not change it."""
    store = PrefixStore(hub[0], PLENTY)
    write(hub, tokens(50), prefixes=store, max_tokens=4, max_denoising_steps=1)
    return store


def saved(kept: PrefixStore, file: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    kept.save(file)
    loaded = mx.load(str(file), return_metadata=True)
    assert isinstance(loaded, tuple) and isinstance(loaded[0], dict)
    return dict(loaded[0]), dict(loaded[1])


def swapped(arrays: dict[str, mx.array], metadata: dict[str, str]) -> None:
    one, other = [name for name in arrays if name.endswith(".0.keys") or name.endswith(".1.keys")][:2]
    arrays[one], arrays[other] = arrays[other], arrays[one]


def changed(array: mx.array) -> mx.array:
    return array + mx.array(1, array.dtype)


DAMAGES: dict[str, Any] = {
    "no tokens": lambda arrays, metadata: metadata.update(tokens=""),
    "no key": lambda arrays, metadata: metadata.pop("tokens"),
    "other tokens": lambda arrays, metadata: metadata.update(tokens="[[1, 2, 3]]"),
    "beyond the vocabulary": lambda arrays, metadata: metadata.update(tokens="[[1000000]]"),
    "no numbers": lambda arrays, metadata: metadata.update(tokens='[["a"], {}, null]'),
    "deep": lambda arrays, metadata: metadata.update(tokens="[" * 100_000),
    "layer missing": lambda arrays, metadata: arrays.pop(next(iter(arrays))),
    "layers swapped": swapped,
    "one number": lambda arrays, metadata: arrays.update({min(arrays): changed(arrays[min(arrays)])}),
    "another name": lambda arrays, metadata: arrays.update(x=mx.zeros(1)),
    "another layer": lambda arrays, metadata: arrays.update({"0.50.9.keys": mx.zeros((1, 1, 1, 1))}),
}


@pytest.mark.parametrize("format", [1, 2, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_before_anything_of_them_is_kept(
    damage: str, format: int, hub: Pair, kept: PrefixStore, tmp_path: Path
) -> None:
    file = tmp_path / "document.safetensors"
    arrays, metadata = saved(kept, file)
    if format < 3:
        metadata |= {"format": f"mlx-diffusion prefixes {format}", "model": sampled_fingerprint(hub[0])}
    if format < 3 and damage in ("layers swapped", "one number"):
        pytest.skip("files of earlier versions have no digest of their arrays")
    DAMAGES[damage](arrays, metadata)
    mx.save_safetensors(str(file), arrays, metadata)
    store = PrefixStore(hub[0], PLENTY)
    with pytest.raises(CheckpointError, match=r"document\.safetensors (is damaged|was saved with another)") as caught:
        store.load(file)
    assert len(store) == 0 and "\n" not in str(caught.value)


def test_loading_twice_keeps_once(hub: Pair, kept: PrefixStore, tmp_path: Path) -> None:
    file, store = tmp_path / "document.safetensors", PrefixStore(hub[0], PLENTY)
    saved(kept, file)
    store.load(file)
    once = len(store), store.nbytes
    store.load(file)
    assert (len(store), store.nbytes) == once


def test_a_file_of_prompts_is_the_user_s_alone(hub: Pair, kept: PrefixStore, tmp_path: Path) -> None:
    saved(kept, tmp_path / "document.safetensors")
    assert (tmp_path / "document.safetensors").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("part", ["experts.down_proj", "mlp.down_proj", "self_attn.v_proj"])
@pytest.mark.parametrize("earlier", [False, True])
def test_other_weights_are_another_model(
    part: str, earlier: bool, hub: Pair, kept: PrefixStore, tmp_path: Path
) -> None:
    file = tmp_path / "document.safetensors"
    saved(kept, file)
    other = load(FIXTURES / "hub")[0]
    weights = dict(tree_flatten(other.parameters()))
    (name,) = (name for name in weights if f"layers.0.{part}" in name)
    other.update(tree_unflatten([(name, -weights[name])]))
    store = PrefixStore(other, PLENTY)
    with pytest.raises(CheckpointError, match="was saved with another model"):
        store.load(FIXTURES / "prefixes-1.safetensors" if earlier else file)
    assert len(store) == 0
