"""GGUF files as sources: tensor by tensor, with config and tokenizer out of the file; and what is refused."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, contents, loaded
from hypothesis import given, settings
from hypothesis import strategies as st

gguf = pytest.importorskip("gguf")

from gguf_files import TYPES, metadata, numbers_of, random_tensors, write_gguf  # noqa: E402

import mlx_diffusion  # noqa: E402
import mlx_diffusion.convert.quantise as quantise_module  # noqa: E402
from mlx_diffusion.checkpoint import least_squares  # noqa: E402
from mlx_diffusion.checkpoint.folder import Checkpoint  # noqa: E402
from mlx_diffusion.convert import RECIPES, Progress, convert  # noqa: E402
from mlx_diffusion.convert import budget as budgets  # noqa: E402
from mlx_diffusion.convert.dry_run import dry_run  # noqa: E402
from mlx_diffusion.convert.gguf_names import hub_name  # noqa: E402
from mlx_diffusion.convert.gguf_source import GgufSource  # noqa: E402
from mlx_diffusion.convert.inspection import inspect  # noqa: E402
from mlx_diffusion.convert.plan import plan_conversion  # noqa: E402
from mlx_diffusion.convert.verify import verify  # noqa: E402
from mlx_diffusion.errors import CheckpointError, OptionError  # noqa: E402
from mlx_diffusion.measure import probe  # noqa: E402


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A place for a file, and the content of a sound one."""
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", random_tensors("Q4_0"))
    return path, path.read_bytes()


@pytest.mark.parametrize("kind", TYPES)
def test_bf16_is_the_numbers_of_every_type(
    kind: str, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_module, "CHUNK_BYTES", 9000)
    monkeypatch.setattr("mlx_diffusion.measure.logit_errors.STEPS", 1)  # how far canvases converge plays no part here
    tensors = random_tensors(kind)
    path = write_gguf(tmp_path / "model.gguf", tensors)
    convert(path, target, "bf16")
    made = loaded(target)
    for name, numbers in numbers_of(tensors).items():
        if name != "rope_freqs.weight":
            hub = hub_name(name)
            assert hub is not None
            array = made.pop(f"{hub}.weight" if hub.endswith(("gate_up_proj", "experts.down_proj")) else hub)
            assert mx.array_equal(array, mx.array(numbers).astype(mx.bfloat16)), name
    assert not made
    if kind not in ("F16", "Q4_K"):
        return
    report = verify(path, target)
    assert report.ok, report.problems
    model, tokenizer = mlx_diffusion.load(target)
    assert isinstance(mlx_diffusion.generate(model, tokenizer, [{"role": "user", "content": "ab"}], max_tokens=8), str)


def test_a_budget_is_solved_for_what_is_unpacked(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(probe, "TEXTS", ("ab",))
    monkeypatch.setattr(least_squares, "REACHES", (0.9,))
    monkeypatch.setattr(least_squares, "ROUNDS", 1)
    monkeypatch.setattr(budgets, "FORMATS", [one for one in budgets.FORMATS if one.group_size == 64])
    path = write_gguf(tmp_path / "model.gguf", random_tensors("Q8_0"))
    budget = convert(path, tmp_path / "4bit", "4bit").total_bytes
    made = convert(path, target, budget=budget)
    assert made.recipe.startswith("budget-") and made.total_bytes <= budget
    again = convert(path, tmp_path / "again", str(target / "recipe.json"))
    assert again.total_bytes == made.total_bytes
    assert (tmp_path / "again" / made.files[0]).read_bytes() == (target / made.files[0]).read_bytes()


def test_config_and_defaults_come_from_the_file(tmp_path: Path, target: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_tensors("Q4_K"))
    convert(path, target, "8bit", command=None)
    config = Checkpoint.open(target).config
    assert (config.hidden_size, config.num_key_value_heads, config.num_global_key_value_heads) == (256, 2, 1)
    assert (config.vocab_size, config.canvas_length, config.sliding_window) == (24, 8, 8)
    assert (config.head_dim, config.global_head_dim, config.rms_norm_eps) == (32, 64, 1e-6)
    assert config.rope["full_attention"].rotated == 0.25 and config.rope["full_attention"].theta == 1e6
    assert config.layer_types == ("sliding_attention", "full_attention")
    assert json.loads((target / "generation_config.json").read_text()) == {
        "max_denoising_steps": 5, "t_min": 0.4, "eos_token_id": [1, 6], "bos_token_id": 2, "pad_token_id": 0,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    }  # fmt: skip
    report = dry_run(path)
    assert report.read_from == "GGUF header" and report.encodings == ["GGUF Q4_K", "GGUF Q8_0"]
    assert report.recipes["8bit"].total_bytes == sum(array.nbytes for array in loaded(target).values())


def test_the_tokenizer_comes_from_the_file(tmp_path: Path, target: Path) -> None:
    convert(write_gguf(tmp_path / "model.gguf", random_tensors("F16")), target)
    _, tokenizer = mlx_diffusion.load(target)
    assert tokenizer.encode("ab cd") == [2, 13, 10, 17]  # <bos> ab ▁ cd
    assert tokenizer.encode("<|turn>ab<turn|>", add_special_tokens=False) == [5, 13, 6]
    assert tokenizer.encode("ü ab", add_special_tokens=False) == [8, 9, 14]
    assert tokenizer.decode([13, 10, 17, 8, 9]) == "ab cdü"
    assert tokenizer.encode_prompt([{"role": "user", "content": "a"}], 24) == [2, 5, 11, 6]


def test_a_tokenizer_s_folder_goes_before_the_file_s(tmp_path: Path, target: Path) -> None:
    keys = {key: value for key, value in metadata().items() if not key.startswith("tokenizer.")}
    path = write_gguf(tmp_path / "model.gguf", random_tensors("F16"), keys)
    assert dry_run(path).tensors
    with pytest.raises(CheckpointError, match=r"has no tokenizer, .* give tokenizer=\.\.\."):
        convert(path, target)
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; give the folder"):
        convert(path, target, tokenizer=tmp_path)
    for nothing in (tmp_path / "none", path):
        with pytest.raises(CheckpointError, match="no such folder; give the folder of the tokenizer"):
            convert(path, target, tokenizer=nothing)
    broken = shutil.copytree(FIXTURES / "hub", tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="broken: the tokenizer cannot be read"):
        convert(path, target, tokenizer=broken)
    convert(path, target, tokenizer=FIXTURES / "hub")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (target / name).read_bytes() == (FIXTURES / "hub" / name).read_bytes()
    with pytest.raises(OptionError, match="for a GGUF only"):
        convert(FIXTURES / "hub", tmp_path / "other", tokenizer=FIXTURES / "hub")


class Killed(BaseException):
    pass


def test_killed_anywhere_the_same_call_gives_the_same_bytes(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_module, "CHUNK_BYTES", 60_000)
    path = write_gguf(tmp_path / "model.gguf", random_tensors("Q6_K"))
    told: list[Progress] = []
    convert(path, tmp_path / "calm", report=told.append)
    assert told[-1].fraction == 1
    for stop in range(2, len(told), len(told) // 3):
        seen: list[Progress] = []

        def kill(progress: Progress, stop: int = stop, seen: list[Progress] = seen) -> None:
            seen.append(progress)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            convert(path, target, report=kill)
        convert(path, target)
        assert contents(target) == contents(tmp_path / "calm")
        shutil.rmtree(target)


def test_parts_and_folders(tmp_path: Path, target: Path) -> None:
    tensors = random_tensors("Q8_0")
    folder = tmp_path / "parts"
    folder.mkdir()
    names = list(tensors)
    parts = [folder / f"m-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for part, own in zip(parts, (names[:20], names[20:]), strict=True):
        write_gguf(part, {name: tensors[name] for name in own})
    convert(write_gguf(tmp_path / "whole.gguf", tensors), tmp_path / "one", "bf16")
    convert(folder, target, "bf16")
    made, expected = loaded(target), loaded(tmp_path / "one")
    assert made.keys() == expected.keys() and all(mx.array_equal(made[name], expected[name]) for name in made)
    shutil.copy(parts[0], parts[1])
    with pytest.raises(CheckpointError, match=r"token_embd\.weight is there twice"):
        convert(parts[0], tmp_path / "other")
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"one of 2 parts, and m-00002-of-00002\.gguf is not beside it"):
        convert(parts[0], tmp_path / "other")
    shutil.copy(tmp_path / "whole.gguf", folder)
    with pytest.raises(CheckpointError, match="several GGUF files"):
        convert(folder, tmp_path / "other")


Edits = dict[str, Any]  # keys and tensors, by name; None removes one
OWN = "diffusion-gemma."
BAD: list[tuple[str, Edits]] = [
    ("self_attn.q_proj.weight: missing", {"blk.0.attn_q.weight": None}),
    ("blk.0.extra is no part", {"blk.0.extra": ("F32", np.ones(3, np.float32))}),
    ("has no token_embd.weight", {"token_embd.weight": None}),
    ("diffusion-gemma.block_count is missing", {f"{OWN}block_count": None}),
    ("block_count is two, not of the kind", {f"{OWN}block_count": "two"}),
    ("diffusion.canvas_length is missing", {"diffusion.canvas_length": None}),
    ("it has 2 blocks, and says of 1", {f"{OWN}attention.sliding_window_pattern": [True]}),
    ("feed_forward_length is not one number for all", {f"{OWN}feed_forward_length": [256, 512]}),
    ("a tokenizer of the model 'gpt2'", {"tokenizer.ggml.model": "gpt2"}),
    ("24 tokens, 24 of them different, and 2 types", {"tokenizer.ggml.token_type": [3, 3]}),
    ("unknown_token_id is 99, which no token", {"tokenizer.ggml.unknown_token_id": 99}),
    ("24 tokens, 1 of them different", {"tokenizer.ggml.tokens": ["x"] * 24}),
    ("tokens is no list of texts", {"tokenizer.ggml.tokens": [1] * 24}),
    ("eb_t_min is nan", {"diffusion.eb_t_min": float("nan")}),
    ("eb_t_min is low, not of the kind", {"diffusion.eb_t_min": "low"}),
    ("holds a line that is no pair", {"tokenizer.ggml.merges": ["ab"]}),
    ("merges joins 'a c', and not all", {"tokenizer.ggml.merges": ["a b", "a c"]}),
    ("it has no tokenizer.ggml.merges; give tokenizer=", {"tokenizer.ggml.merges": None}),
    ("rope_freqs.weight scales frequencies", {"rope_freqs.weight": ("F32", np.full(32, 8, np.float32))}),
    ("has shape .*config.json makes it", {"blk.0.ffn_down_exps.weight": ("F16", np.ones((256, 256), np.float16))}),
    (
        "GGML type I32, which the gguf package does not",
        {"blk.0.ffn_up.weight": ("I32", np.zeros((256, 256), np.int32))},
    ),
    ("token_type holds what is no number", {"tokenizer.ggml.token_type": ["x"] * 24}),
    # A list of that length would take 16 GB.
    ("it has 2,147,483,648 blocks", {f"{OWN}block_count": 2**31, f"{OWN}attention.head_count_kv": 1}),
]


@pytest.mark.parametrize(("message", "edits"), BAD, ids=[message for message, _ in BAD])
def test_what_is_wrong_is_one_line(message: str, edits: Edits, tmp_path: Path, target: Path) -> None:
    keys, tensors = metadata(), random_tensors("Q8_0")
    for name, value in edits.items():
        place: dict[str, Any] = tensors if name.endswith((".weight", ".extra")) else keys
        place[name] = value
        if value is None:
            del place[name]
    path = write_gguf(tmp_path / "model.gguf", tensors, keys)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(path, target)
    assert "\n" not in str(caught.value) and not target.exists()


def test_another_architecture_is_named(tmp_path: Path, target: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_tensors("F16"), architecture="llama")
    with pytest.raises(CheckpointError, match="of the architecture 'llama'"):
        convert(path, target)


def test_every_truncation_is_named(tmp_path: Path, target: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", random_tensors("Q4_0")).read_bytes()
    path = tmp_path / "model.gguf"
    for length in (0, 3, 20, 100, 1000, 3000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|cannot be read|no GGUF file") as caught:
            convert(path, target)
        assert "\n" not in str(caught.value) and not target.exists()
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little") + whole[8:])
    with pytest.raises(CheckpointError, match="GGUF of version 9"):
        convert(path, target)


def test_an_unknown_type_is_named(tmp_path: Path, target: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_tensors("Q8_0"))
    content = bytearray(path.read_bytes())
    name = b"blk.0.ffn_up.weight"
    place = content.index(name) + len(name) + 4 + 16
    assert content[place] == 8
    content[place] = 199
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"gguf: blk\.0\.ffn_up\.weight is of the GGML type 199") as caught:
        convert(path, target)
    assert "cannot be read" not in str(caught.value)


def test_the_package_is_named_where_it_is_missing(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_tensors("Q8_0"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=re.escape("pip install 'mlx-diffusion[gguf]'")):
        convert(path, target)


def test_without_rope_freqs_the_published_share_is_taken_and_said(tmp_path: Path, target: Path) -> None:
    tensors = random_tensors("F16")
    del tensors["rope_freqs.weight"]
    told: list[str] = []
    convert(write_gguf(tmp_path / "model.gguf", tensors), target, warn=told.append)
    assert any("has no rope_freqs.weight; 25% of a head" in line for line in told)
    assert Checkpoint.open(target).config.rope["full_attention"].rotated == 0.25


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(4, 6000), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_a_head_says_is_a_plan_or_one_line(small: tuple[Path, bytes], changes: list[tuple[int, int]]) -> None:
    path, whole = small
    content = bytearray(whole)
    for place, byte in changes:
        content[place] = byte
    path.write_bytes(content)
    try:
        plan_conversion(inspect(GgufSource(path)), RECIPES["8bit"], "command")
    except CheckpointError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
