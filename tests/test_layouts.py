"""Published layouts beside the Hub's own: what is read of them, what a conversion makes of it, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import contents, loaded, write_source
from foreign_layouts import BOTH_SIGNS, E4M3, LAYOUTS, Stored, numbers, read_files, write_files, write_layout
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_diffusion.convert.quantise as quantise_module
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.description import described
from mlx_diffusion.checkpoint.encodings import Nvfp4
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import ITEM_BYTES, StoredTensor, Tensor, read_header
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.checkpoint.text_tensors import check_complete
from mlx_diffusion.convert import Progress, convert
from mlx_diffusion.convert.dry_run import dry_run
from mlx_diffusion.convert.fetching import fetched, most_at_once
from mlx_diffusion.convert.shards import split_into_shards
from mlx_diffusion.convert.verify import verify
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.products import formats_of
from mlx_diffusion.loading import load_model
from mlx_diffusion.measure.layerwise import PromptedCanvas, hidden_states, load_ends

EXPERT = "model.decoder.layers.0.experts.1.up_proj"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("original") / "source")


@pytest.fixture(scope="module", params=LAYOUTS)
def published(request: pytest.FixtureRequest, original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in each layout, in four files, so that experts lie in two of them."""
    return write_layout(original, tmp_path_factory.mktemp(request.param) / request.param, request.param, shards=4)


Headers = dict[str, tuple[dict[str, Any], ModelConfig, list[StoredTensor]]]


@pytest.fixture(scope="module")
def headers(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Headers:
    """config.json, what it says, and the header of a checkpoint in each layout."""
    made = {}
    for layout in LAYOUTS:
        folder = write_layout(original, tmp_path_factory.mktemp("headers") / layout, layout)
        raw = json.loads((folder / "config.json").read_text())
        made[layout] = raw, ModelConfig.from_dict(raw), read_header(folder / "model.safetensors")
    return made


def logits(folder: Path) -> mx.array:
    """Of two random canvases behind a prompt."""
    checkpoint = Checkpoint.open(folder)
    ends, draw = load_ends(checkpoint), np.random.default_rng(0)
    size = checkpoint.config.vocab_size, checkpoint.config.canvas_length
    canvases = [mx.array(draw.integers(0, *size, dtype=np.int32)[None].repeat(size[1])) for _ in range(2)]
    drafts = [PromptedCanvas((2, 5, 9), canvas) for canvas in canvases]
    return mx.stack([ends.logits(state) for state in hidden_states(checkpoint, ends, drafts, lambda layer: None)])


def test_bf16_is_the_numbers_of_the_source(published: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise_module, "CHUNK_BYTES", 3000)
    convert(published, target, "bf16")
    made = loaded(target)
    for name, exact in numbers(published).items():
        array = made.pop(name, None)
        array = made.pop(f"{name}.weight") if array is None else array
        assert mx.array_equal(array, mx.array(exact).astype(mx.bfloat16)), name
    assert not made
    assert "quantization_config" not in json.loads((target / "config.json").read_text())


@pytest.mark.parametrize("recipe", ["8bit", "nvfp4"])
def test_every_layout_goes_into_every_recipe_and_is_verified(
    recipe: str, published: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_diffusion.measure.logit_errors.STEPS", 1)  # how far canvases converge plays no part here
    convert(published, target, recipe)
    report = verify(published, target)
    assert report.ok, report.problems
    assert dry_run(published).recipes[recipe].total_bytes == sum(array.nbytes for array in loaded(target).values())
    logits(target)


@pytest.mark.parametrize("layout", ["modelopt", "packed"])
def test_nvfp4_stays_as_it_is(layout: str, original: Path, tmp_path: Path, target: Path) -> None:
    """Loaded as it came, or converted: the same bits, and the logits of its numbers in float32."""
    source = write_layout(original, tmp_path / "source", layout, shards=3)
    twin = shutil.copytree(original, tmp_path / "twin", ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    exact = numbers(source)
    mx.save_safetensors(str(twin / "model.safetensors"), {name: mx.array(array) for name, array in exact.items()})
    convert(
        source, target, "nvfp4", rules=["*.self_attn.*=bf16", "*embed*=bf16", "*.router.*=bf16", "*conditioning*=bf16"]
    )
    formats = formats_of(load_model(Checkpoint.open(source)))  # which speeds are foretold with
    assert formats("layers.0.experts.down_proj") == QuantSpec(16, 4, "nvfp4")
    assert formats("layers.0.mlp.down_proj") == (QuantSpec(16, 4, "nvfp4") if layout == "packed" else None)
    if layout == "modelopt":
        target = convert_experts(source, tmp_path / "experts")
    expected = logits(twin)
    for folder in (source, target):
        assert mx.allclose(logits(folder), expected, rtol=1e-4, atol=1e-4), folder
    stored = read_files(source)
    scales = loaded(target)["model.decoder.layers.0.experts.down_proj.scales"]
    for expert, own in enumerate(scales):
        name = f"model.decoder.layers.0.experts.{expert}.down_proj.weight_scale"
        assert np.array_equal(np.array(own), stored[name][1])


def convert_experts(source: Path, target: Path) -> Path:
    convert(source, target, "bf16", rules=["*.experts.*=nvfp4"])
    return target


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))
def test_nvfp4_is_unpacked_in_any_number_of_rows_and_groups(rows: int, groups: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 127, (rows, groups, 9), np.uint8)
    codes, scales = bits[..., :8], bits[..., 8]
    expected = BOTH_SIGNS[np.stack([codes & 15, codes >> 4], -1)].reshape(rows, groups, 16) * E4M3[scales][..., None]
    arrays = [mx.array(codes.reshape(rows, -1)), mx.array(scales), mx.array(2.0)]
    assert np.array_equal(np.array(Nvfp4(True).values(arrays)), expected.reshape(rows, -1) / 2)


def test_an_infinite_scale_makes_no_zeros() -> None:
    arrays = [mx.full((2, 8), 0x22, mx.uint8), mx.full((2, 1), 0x38, mx.uint8), mx.array(np.inf)]
    assert mx.isnan(Nvfp4(True).values(arrays)).all() and mx.isnan(Nvfp4(True).factor(arrays)).all()


def test_experts_one_by_one_are_loaded_as_they_are(original: Path, tmp_path: Path) -> None:
    source = write_layout(original, tmp_path / "source", "per-expert", shards=3)
    assert mx.array_equal(logits(source), logits(original))


def test_fp8_is_refused_with_the_command_that_converts_it(original: Path, tmp_path: Path) -> None:
    for bare in (False, True):
        source = write_layout(original, tmp_path / f"bare {bare}", "fp8", bare=bare)
        with pytest.raises(
            CheckpointError, match=r"is in FP8, .*mlx-diffusion convert '.*bare .*' OUTPUT --recipe 8bit"
        ):
            Checkpoint.open(source)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_its_quantization_config_the_output_is_the_same(layout: str, original: Path, tmp_path: Path) -> None:
    expected = {"fp8": ["FP8"], "per-expert": []}.get(layout, ["NVFP4"])
    made: list[dict[str, bytes]] = []
    told: list[str] = []
    for bare in (False, True):
        source = write_layout(original, tmp_path / str(bare) / "source", layout, bare=bare)
        convert(source, tmp_path / str(bare) / "target", warn=told.append)
        assert dry_run(source).encodings == expected
        made.append({file.name: file.read_bytes() for file in (tmp_path / str(bare) / "target").iterdir()})
    for files in made:
        files.pop("made_from.json")
    assert made[0] == made[1]
    assert [
        line.rsplit(" ", 1)[1] for line in told if "no quantization_config; by its tensors it is in" in line
    ] == expected


HALF = np.zeros((64, 31), np.uint8)
BAD = [
    ("fp8", {f"{EXPERT}.weight_scale": None}, "weight is F8_E4M3 and has no weight_scale beside it"),
    (
        "fp8",
        {f"{EXPERT}.weight_scale": ("BF16", np.zeros((3, 1), np.uint16))},
        r"weight_scale has shape \[3, 1\], where",
    ),
    ("fp8", {f"{EXPERT}.weight_scale": ("I32", np.zeros((64, 1), np.int32))}, "weight_scale holds I32, not BF16"),
    (
        "fp8",
        {f"{EXPERT}.weight": ("BF16", np.zeros((64, 64), np.uint16))},
        r"weight is BF16 \[64, 64\] with a weight_s",
    ),
    (
        "fp8",
        {f"{EXPERT}.weight_scale_2": ("F32", np.asarray(1, np.float32))},
        "weight_scale_2 is no part of the format",
    ),
    ("fp8", {f"{EXPERT}.weight": None}, "weight_scale is there without .*1.up_proj.weight"),
    (
        "fp8",
        {f"{EXPERT}.weight_scale_inv": ("F32", np.ones((1, 1), np.float32)), f"{EXPERT}.weight_scale": None},
        "belongs to a format that is not read",
    ),
    (
        "modelopt",
        {f"{EXPERT}.weight_scale_2": None},
        "weight_scale_2 is missing, without which .*1.up_proj.weight cannot",
    ),
    (
        "modelopt",
        {f"{EXPERT}.weight_scale_2": ("F32", np.ones(2, np.float32))},
        r"weight_scale_2 has shape \[2\], where",
    ),
    ("modelopt", {f"{EXPERT}.weight": ("U8", HALF)}, "rows of 62 numbers, which NVFP4's groups of 16 do not divide"),
    ("modelopt", {f"{EXPERT}.weight_scale": ("U8", np.zeros((64, 4), np.uint8))}, "weight_scale holds U8, not F8_E4M3"),
    (
        "modelopt",
        {f"{EXPERT}.weight_scale": ("F8_E4M3", np.zeros((64, 3), np.uint8))},
        r"scale has shape \[64, 3\], where",
    ),
    ("packed", {f"{EXPERT}.weight_scale": None}, "1.up_proj.weight_scale is missing"),
    ("packed", {f"{EXPERT}.weight_packed": ("I32", np.zeros((64, 8), np.int32))}, "weight_packed holds I32, not U8"),
    ("per-expert", {f"{EXPERT}.weight": None}, "1.up_proj.weight is missing"),
    (
        "per-expert",
        {f"{EXPERT}.weight": ("BF16", np.zeros((64, 32), np.uint16))},
        r"shapes \[64, 32\], \[64, 64\], where one",
    ),
]


@pytest.mark.parametrize(("layout", "edits", "message"), BAD, ids=[message for _, _, message in BAD])
def test_what_is_wrong_with_a_layout_is_one_line(
    layout: str, edits: dict[str, Stored | None], message: str, original: Path, tmp_path: Path
) -> None:
    source = write_layout(original, tmp_path / "source", layout)
    written = read_files(source) | edits
    write_files(source, {name: stored for name, stored in written.items() if stored is not None})
    for act in (lambda: convert(source, tmp_path / "target"), lambda: Checkpoint.open(source), lambda: dry_run(source)):
        with pytest.raises(CheckpointError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "target").exists()


def test_a_nan_in_the_scales_is_named(original: Path, tmp_path: Path, target: Path) -> None:
    source = write_layout(original, tmp_path / "source", "modelopt")
    written = read_files(source)
    written[f"{EXPERT}.weight_scale"] = ("F8_E4M3", np.full((64, 4), 127, np.uint8))
    write_files(source, written)
    for recipe in ("bf16", "nvfp4"):
        with pytest.raises(CheckpointError, match=r"experts\.gate_up_proj holds NaN or infinity"):
            convert(source, target, recipe, force=True)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("layout", ["fp8", "modelopt"])
def test_killed_anywhere_the_same_call_gives_the_same_bytes(
    layout: str, original: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_module, "CHUNK_BYTES", 20_000)
    source = write_layout(original, tmp_path / "source", layout, shards=4)
    told: list[Progress] = []
    convert(source, tmp_path / "calm", "nvfp4", report=told.append)
    assert told[-1].fraction == 1 and len(told) > 50
    expected = contents(tmp_path / "calm")
    for stop in range(5, len(told), len(told) // 5):
        seen: list[Progress] = []

        def kill(progress: Progress, stop: int = stop, seen: list[Progress] = seen) -> None:
            seen.append(progress)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            convert(source, target, "nvfp4", report=kill)
        with pytest.raises(CheckpointError, match="unfinished"):
            Checkpoint.open(target)
        assert convert(source, target, "nvfp4").files_from_earlier == len({p.file for p in seen}) - 1
        assert contents(target) == expected
        shutil.rmtree(target)


class Logged:
    """A source that notes what is fetched and dropped."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.log: list[list[str]] = []

    def fetch(self, shard: str, after: str | None = None) -> Path:
        self.held = list(dict.fromkeys([*self.held, *filter(None, (shard, after))]))
        return Path(shard)

    def drop(self, shard: str) -> None:
        self.held.remove(shard)


@pytest.mark.parametrize(
    ("needed", "held", "most"),
    [
        (["a", "b", "c"], ["ab", "bc", "c"], 2),
        (["a", "ab", "b", "bc", "c"], ["ab", "ab", "bc", "bc", "c"], 2),
        (["a", "a", "b"], ["ab", "ab", "b"], 2),
        (["a", "ac", "bc", "c"], ["ac", "ac", "cb", "c"], 2),
        (["az", "bz", "abz"], ["az", "azb", "azb"], 3),
    ],
)
def test_files_are_there_while_they_are_needed(needed: list[str], held: list[str], most: int) -> None:
    source, seen = Logged(), []
    for names, paths in zip(needed, fetched(source, needed), strict=True):  # type: ignore[arg-type]
        assert paths == {name: Path(name) for name in names}
        seen.append("".join(source.held))
    assert seen == held and source.held == [] and most_at_once(needed) == most


def test_a_config_that_names_another_encoding_is_refused(original: Path, tmp_path: Path, target: Path) -> None:
    source = write_layout(original, tmp_path / "source", "per-expert")
    raw = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(raw | {"quantization_config": LAYOUTS["fp8"][1]}))
    for act in (lambda: convert(source, target), lambda: Checkpoint.open(source), lambda: dry_run(source)):
        with pytest.raises(CheckpointError, match="its quantization_config says FP8, and no tensor is in it"):
            act()
    assert ModelConfig.from_dict(raw).quantization is None and not target.exists()


NAMES = ("_scale", "_scale_2", "_packed", "_global_scale")
SHAPES = ((), (0,), (1,), (3, 0), (64,), (64, 1), (64, 32), (4, 64, 64))


@settings(max_examples=100)
@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_whatever_headers_say_is_a_layout_or_one_line(headers: Headers, layout: str, data: st.DataObject) -> None:
    raw, config, stored = headers[layout]
    changed = list(stored)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        tensor = changed[place].tensor
        name = data.draw(st.sampled_from([tensor.name, *(tensor.name + end for end in NAMES), stored[0].tensor.name]))
        encoder = name.replace("model.decoder.", "model.encoder.language_model.")
        dtype, shape = data.draw(st.sampled_from([tensor.dtype, *ITEM_BYTES])), data.draw(st.sampled_from(SHAPES))
        other = Tensor(
            data.draw(st.sampled_from([name, encoder])), dtype, data.draw(st.sampled_from([tensor.shape, shape]))
        )
        changed[place] = replace(changed[place], tensor=other)
    try:
        _, sources = described(raw, config, changed, "it")
        check_complete([one.tensor for one in sources], config, "it")
        for recipe in ("bf16", "nvfp4"):
            made = apply_recipe([one.tensor for one in sources], RECIPES[recipe])
            assert all(shard.chunks() for shard in split_into_shards(sources, made))
    except CheckpointError as error:
        assert str(error).startswith("it") and "\n" not in str(error)
