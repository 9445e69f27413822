"""The sizes that a dry run gives: pinned for the real configuration, and equal to what a conversion writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import FIXTURES, config_dict

from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.cli.main import main
from mlx_diffusion.convert import RECIPES, convert
from mlx_diffusion.convert.dry_run import DryRun, dry_run
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.fit.footprint import context_text

REAL = FIXTURES / "real_config"

# Of all tensors, the vision tower in bf16 included; weights in memory are without it.
TOTALS = {
    "bf16": 51_647_562_456,
    "8bit": 27_975_421_656,
    "6bit": 22_265_925_336,
    "5bit": 19_411_177_176,
    "4bit": 17_983_803_096,
    "4bit-small": 15_477_563_096,
    "3bit": 13_701_680_856,
    "2bit": 10_243_858_136,
    "mxfp4": 15_842_741_976,
    "mxfp8": 27_261_734_616,
    "nvfp4": 16_556_429_016,
}
PARTS_4BIT = {
    "experts": 14_273_740_800,
    "embeddings": 784_334_848,
    "attention": 1_179_566_080,
    "dense MLP": 568_719_360,
    "router": 11_489_280,
    "self-conditioning": 18_957_312,
    "norms and scalars": 1_406_584,
    "vision": 1_145_588_832,
}


@pytest.fixture(scope="module")
def real() -> DryRun:
    return dry_run(REAL)


def test_the_real_configuration(real: DryRun) -> None:
    assert (len(real.tensors), real.parameters, real.read_from) == (1047, 25_823_781_228, "config.json")
    assert {name: sized.total_bytes for name, sized in real.recipes.items()} == TOTALS
    assert real.chosen.recipe == "4bit" and dict(real.chosen.parts) == PARTS_4BIT
    assert 17e9 < TOTALS["4bit"] < 18.5e9 and TOTALS["4bit-small"] < 15.7e9 and TOTALS["2bit"] < 10.5e9


def test_the_macs_it_fits(real: DryRun) -> None:
    """Weights in memory, cache and arrays decide: recipes fit the Macs that they are named for."""
    for recipe, memory_gib, fits in (
        ("4bit", 16, False),
        ("4bit", 32, True),
        ("4bit-small", 24, True),
        ("2bit", 16, True),
    ):
        macs = {mac["memory_gib"]: mac for mac in real.recipes[recipe].as_dict()["macs"]}
        assert macs[memory_gib]["fits"] == [fits, fits], (recipe, memory_gib)
    for sized in real.recipes.values():
        for mac in sized.as_dict()["macs"]:
            assert all(share > 9e9 for share in mac["gpu_bytes"])
            for share, context in zip(mac["gpu_bytes"], mac["longest_context"], strict=True):
                assert context is None or sized.memory.total_bytes(context) <= share


def test_the_published_sizes_are_those_of_the_real_configuration(real: DryRun, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert dry_run(tmp_path).tensors == real.tensors
    assert dry_run(tmp_path).chosen == real.chosen
    assert "/" in REPO_ID


def test_json_and_table(real: DryRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(REAL), "--dry-run", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == "" and report == json.loads(json.dumps(real.as_dict()))
    assert report["total_bytes"] == TOTALS["4bit"] and report["parts"] == PARTS_4BIT
    assert {name: sized["total_bytes"] for name, sized in report["recipes"].items()} == TOTALS
    assert report["recipes"]["2bit"]["weights_in_memory_bytes"] == TOTALS["2bit"] - PARTS_4BIT["vision"]
    assert main(["convert", str(REAL), "--dry-run"]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    for name, total in TOTALS.items():
        (line,) = (line for line in table.splitlines() if line.split()[:2] == [name, f"{total / 1e9:.2f}"])
        assert len(line.split()) == 10


def test_one_recipe_with_rules_of_ones_own() -> None:
    report = dry_run(REAL, ["*.experts.*=3", "*.router.*=bf16"], recipe="6bit")
    assert list(report.recipes) == ["6bit"]
    experts, router = 22_837_985_280, 30 * 128 * 2816
    assert report.chosen.parts["experts"] == experts * 3 // 8 + experts // 64 * 4
    assert report.chosen.parts["router"] == router * 2
    with pytest.raises(OptionError, match="unknown recipe '4bits'; did you mean '4bit'"):
        dry_run(REAL, recipe="4bits")
    with pytest.raises(OptionError, match=r"'\*\.attn\.\*' fits no matrix"):
        dry_run(REAL, ["*.attn.*=6"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_sizes_are_those_of_the_files_that_a_conversion_writes(recipe: str, source: Path, target: Path) -> None:
    groups = ["*=4,32"] if recipe == "4bit-small" else []  # its groups are too long for the rows of a small model
    report = dry_run(source, groups, recipe=recipe)
    convert(source, target, recipe, rules=groups)
    written = [entry.tensor for file in target.glob("*.safetensors") for entry in read_header(file)]
    assert report.chosen.total_bytes == sum(tensor.nbytes for tensor in written)
    assert report.read_from == "safetensors headers"


def test_a_recipe_that_does_not_fit_the_sizes_says_why(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = dry_run(source)
    assert set(report.recipes) | set(report.problems) == set(RECIPES)
    assert "which groups of 128 do not divide" in report.problems["4bit-small"]
    assert report.problems["4bit-small"] in report.table()
    assert main(["convert", str(source), "--dry-run", "--recipe", "4bit-small"]) == 1
    assert "which groups of 128 do not divide" in capsys.readouterr().err


def test_a_config_without_vision_has_no_tower(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_dict()))
    assert dry_run(tmp_path, recipe="bf16").chosen.parts["vision"] == 0


def test_what_is_no_source(source: Path, tmp_path: Path) -> None:
    raw = json.loads((source / "config.json").read_text())
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    (quantised / "config.json").write_text(json.dumps(raw | {"quantization": {"group_size": 32, "bits": 4}}))
    with pytest.raises(CheckpointError, match="is quantised already"):
        dry_run(quantised)
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 3 weight files is missing"):
        dry_run(source)
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        dry_run(source)


@pytest.mark.parametrize(
    ("context", "text"), [(None, "no"), (900, "900"), (1023, "1023"), (1024, "1K"), (262_144, "256K"), (18_000, "17K")]
)
def test_contexts_in_words(context: int | None, text: str) -> None:
    assert context_text(context) == text
