"""A recipe within a budget: the best choice against all choices, what is measured against the model, and the files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import write_source
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.recipe_files import find_recipe, recipe_content
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe
from mlx_diffusion.cli.main import main
from mlx_diffusion.convert import budget as budgets
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.budget import groups_of
from mlx_diffusion.convert.knapsack import Option, least_loss
from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure import sensitivity
from mlx_diffusion.measure.layerwise import load_ends
from mlx_diffusion.measure.sensitivity import Change, sensitivities


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", vocab_size=96)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sensitivity, "TEXTS", ("one", "two three"))
    monkeypatch.setattr(sensitivity, "STEPS", 2)


CHOICES = st.lists(st.builds(Option, st.integers(1, 30), st.integers(0, 50).map(float)), min_size=1, max_size=4)


@given(st.lists(CHOICES, min_size=1, max_size=5), st.integers(0, 120))
def test_no_choice_that_fits_loses_less(groups: list[list[Option]], nbytes: int) -> None:
    every = [
        sum(choice.loss for choice in chosen)
        for chosen in itertools.product(*groups)
        if sum(choice.nbytes for choice in chosen) <= nbytes
    ]
    found = least_loss(groups, nbytes)
    if found is None:
        assert not every
    else:
        chosen = [group[number] for group, number in zip(groups, found, strict=True)]
        assert sum(choice.nbytes for choice in chosen) <= nbytes
        assert math.isclose(sum(choice.loss for choice in chosen), min(every))


def test_sizes_of_any_granularity_fit() -> None:
    groups = [[Option(1_000_003, 2.0), Option(9_999_991, 1.0)] for _ in range(9)]
    found = least_loss(groups, 50_000_000)
    assert found is not None and sum(groups[0][number].nbytes for number in found) <= 50_000_000 and sum(found) == 4


def test_every_matrix_but_the_routers_is_in_one_group(source: Path) -> None:
    checkpoint = Checkpoint.open_source(source)
    tensors = [one.tensor for one in checkpoint.sources]
    groups = groups_of(tensors)
    modules = [module for group in groups for module in group.modules]
    assert len(set(modules)) == len(modules) and not any(".router." in module for module in modules)
    assert all(group.nbytes and (group.layer is None) == (".layers." not in group.pattern) for group in groups)
    layers = checkpoint.config.num_hidden_layers
    assert len(groups) == 4 * layers + 2


def test_losses_do_not_depend_on_what_is_measured_beside(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open_source(source)
    coarse, fine = QuantSpec(32, 2, "affine"), QuantSpec(32, 8, "affine")
    changes = [
        Change(("layers.1.mlp.gate_proj", "layers.1.mlp.up_proj", "layers.1.mlp.down_proj"), 1, coarse),
        Change(("embed_tokens",), None, coarse),
        Change(("layers.0.experts.gate_up_proj",), 0, coarse),
        Change(("layers.0.experts.gate_up_proj",), 0, fine),
    ]
    together = sensitivities(checkpoint, changes, lambda share, label: None)
    monkeypatch.setattr(sensitivity, "STATES_BYTES", 1)
    assert sensitivities(checkpoint, changes, lambda share, label: None) == together
    assert min(together[:3]) > 0 and 0 <= together[3] < together[2] / 10


def test_a_change_is_undone(source: Path) -> None:
    ends = load_ends(Checkpoint.open_source(source))
    before = mx.array(ends.embed_tokens.weight)
    with sensitivity.changed(ends, Change(("embed_tokens",), None, QuantSpec(32, 2, "affine"))):
        assert not mx.array_equal(ends.embed_tokens.weight, before)
    assert mx.array_equal(ends.embed_tokens.weight, before)


def test_a_conversion_within_a_budget(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fits, is measured once, says how it was made, and its recipe's file makes the same bytes again."""
    budget = convert(source, tmp_path / "3bit", "3bit").total_bytes
    made = convert(source, tmp_path / "mine", budget=budget)
    assert made.total_bytes <= budget and made.recipe.startswith("budget-")
    monkeypatch.setattr(budgets, "sensitivities", lambda *_: pytest.fail("measured again"))
    again = convert(source, tmp_path / "mine", budget=budget, reuse=True)
    assert again.finished_earlier
    file = tmp_path / "mine" / "recipe.json"
    assert "--recipe recipe.json" in (tmp_path / "mine" / "README.md").read_text()
    assert main(["convert", str(source), str(tmp_path / "again"), "--recipe", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_bytes"] == made.total_bytes
    for name in made.files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()
    with pytest.raises(
        OptionError, match=r"a budget of 1\.00 kB is too small: the least that this checkpoint takes is \d"
    ):
        convert(source, tmp_path / "less", budget=1000)
    assert not (tmp_path / "less").exists()


@pytest.mark.parametrize(
    "words", [["--recipe", "4bit"], ["--dry-run"], ["--stream"]], ids=lambda words: " ".join(words)
)
def test_a_budget_finds_its_recipe_by_itself(
    words: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(source), "out", "--budget", "1MB", *words])
    assert f"leave out {words[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "14 bananas", "-1", "0", "1e9", "14GiB"])
def test_a_budget_is_a_size(text: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source), str(tmp_path / "out"), f"--budget={text}"]) != 0
    assert "is no size; give one like 14GB" in capsys.readouterr().err


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_bytes(recipe_content(Recipe("own", RECIPES["4bit"].rules)))
    assert find_recipe(str(file)) == Recipe("own", (), RECIPES["4bit"].rules)
    for content in (
        "",
        "[]",
        '{"name": "own"}',
        '{"name": "4bit", "rules": ["*=8"]}',
        '{"name": "own", "rules": ["8"]}',
    ):
        file.write_text(content)
        with pytest.raises(OptionError, match=r"own\.json"):
            find_recipe(str(file))
    with pytest.raises(OptionError, match="no such recipe"):
        find_recipe(str(tmp_path / "none.json"))
