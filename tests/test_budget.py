"""A recipe within a budget: the best choice against all choices, what is measured against the model, and the files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import write_source
from foreign_layouts import write_layout
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.checkpoint import least_squares
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipe_files import find_recipe, recipe_content
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe
from mlx_diffusion.cli.main import main
from mlx_diffusion.convert import budget as budgets
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.budget import matrices_of, recipe_within
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.inspection import inspect
from mlx_diffusion.convert.knapsack import Option, least_loss
from mlx_diffusion.convert.loss_law import Measured, loss_factors, overall_loss
from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure import probe, sensitivity
from mlx_diffusion.measure.layerwise import load_ends, load_layer
from mlx_diffusion.measure.rounding import relative_error
from mlx_diffusion.measure.sensitivity import Change, LossMeter


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", vocab_size=96)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(probe, "TEXTS", ("one", "two three"))
    monkeypatch.setattr(probe, "STEPS", 2)
    monkeypatch.setattr(least_squares, "REACHES", (0.9,))  # how well groups are fitted plays no part here
    monkeypatch.setattr(least_squares, "ROUNDS", 1)


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


def test_every_matrix_but_the_routers_has_a_format_of_its_own(source: Path) -> None:
    checkpoint = Checkpoint.open_source(source)
    matrices = matrices_of([one.tensor for one in checkpoint.sources])
    paths = [matrix.path for matrix in matrices]
    assert len(set(paths)) == len(paths) and not any("router" in path for path in paths)
    with_values = checkpoint.config.layer_types.count("sliding_attention")
    assert len(paths) == 8 * checkpoint.config.num_hidden_layers + with_values + 4
    assert all(spec in matrix.nbytes for matrix in matrices for spec in matrix.measured)


def silent(share: float, label: str) -> None:
    """Nobody is told."""


def test_losses_do_not_depend_on_what_is_measured_beside(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, fine = QuantSpec(32, 2, "affine"), QuantSpec(32, 8, "affine")
    changes = [
        Change({f"layers.1.mlp.{name}_proj": coarse for name in ("gate", "up", "down")}),
        Change({"embed_tokens": coarse, "layers.1.experts.down_proj": fine}),
        Change({"layers.0.experts.gate_up_proj": coarse}),
        Change({"layers.0.experts.gate_up_proj": fine}),
        Change({}),
    ]
    meter = LossMeter.of(Checkpoint.open_source(source), silent)
    together = meter.losses(changes, silent)
    monkeypatch.setattr(sensitivity, "STATES_BYTES", 1)
    assert meter.losses(changes, silent) == together
    assert [meter.losses([change], silent) for change in changes] == [[one] for one in together]
    losses = list(map(sum, together))
    assert min(losses[:3]) > 0 and 0 <= losses[3] < losses[2] / 10 and losses[4] == 0


def test_texts_of_the_same_tokens_count_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TEXTS", ("one", "two three", "one"))
    assert len(LossMeter.of(Checkpoint.open_source(source), silent).probe.views) == 2 * 3


def test_a_change_is_undone(source: Path) -> None:
    ends = load_ends(Checkpoint.open_source(source))
    before = mx.array(ends.embed_tokens.weight)
    with sensitivity.changed(ends, {"embed_tokens": QuantSpec(32, 2, "affine")}):
        assert not mx.array_equal(ends.embed_tokens.weight, before)
    assert mx.array_equal(ends.embed_tokens.weight, before)


def test_errors_are_those_of_the_matrices_that_are_written(source: Path, tmp_path: Path) -> None:
    path, spec = "layers.1.experts.down_proj", QuantSpec(32, 4, "affine")
    (found,) = LossMeter.of(Checkpoint.open_source(source), silent).errors({path: [spec]})[path]
    convert(source, tmp_path / "4bit", "4bit")
    own, written = (
        dict(load_layer(checkpoint, 1).named_modules())[path]
        for checkpoint in (Checkpoint.open_source(source), Checkpoint.open(tmp_path / "4bit"))
    )
    kept = mx.dequantize(written.weight, written.scales, written.biases, 32, 4).astype(mx.float32)
    weight = own.weight.astype(mx.float32)
    assert math.isclose(found, ((kept - weight).square().sum() / weight.square().sum()).item(), rel_tol=1e-3)


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5),
    st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=4),
    st.floats(0.01, 100),
)
def test_the_law_finds_what_losses_were_made_of(factors: list[float], errors: list[float], scale: float) -> None:
    """Losses in proportion to errors; a kind of logits that loses more than another counts no more."""
    matrices = [Measured(errors, [(factor * error, factor * error * scale) for error in errors]) for factor in factors]
    found = loss_factors(matrices, 2)
    assert math.isclose(sum(found), 1, rel_tol=1e-6)
    for factor, one in zip(factors, found, strict=True):
        assert math.isclose(one, factor / sum(factors), rel_tol=1e-6)


def test_what_was_solved_is_never_worse_than_the_recipe_of_that_size(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the canvases that it was chosen by; where solving goes wrong, the named recipe is taken."""
    checkpoint = Checkpoint.open_source(source)
    tensors = [one.tensor for one in checkpoint.sources]
    pieces = apply_recipe(tensors, RECIPES["3bit"])
    budget = sum(piece.nbytes for piece in pieces)
    meter = LossMeter.of(checkpoint, silent)

    def loss_of(recipe: Recipe) -> float:
        return overall_loss(meter.losses([Change(budgets.formats_of(apply_recipe(tensors, recipe)))], silent)[0])

    assert loss_of(budgets.budget_recipe(checkpoint, budget, silent)) <= loss_of(RECIPES["3bit"])
    monkeypatch.setattr(budgets, "_solved", lambda matrices, nbytes, ledger: [("*", QuantSpec(64, 2, "affine"))])
    assert budgets.budget_recipe(checkpoint, budget + 1, silent).own in budgets.rivals_within(budget, tensors)


def test_a_conversion_within_a_budget(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fits, is measured once, says how it was made, and its recipe's file makes the same bytes again."""
    budget = convert(source, tmp_path / "3bit", "3bit").total_bytes
    made = convert(source, tmp_path / "mine", budget=budget)
    assert made.total_bytes <= budget and made.recipe.startswith("budget-")
    monkeypatch.setattr(LossMeter, "of", lambda *_: pytest.fail("measured again"))
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


def test_weights_are_fetched_for_a_budget_that_something_fits(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    fp8 = write_layout(source, source.with_name("fp8"), "fp8", shards=2)  # which nothing but a conversion reads
    found = inspect(open_source(fp8))

    def fetch(shard: str, after: str | None) -> Path:
        fetched.append(shard)
        return fp8 / shard

    monkeypatch.setattr(found.source, "fetch", fetch)
    monkeypatch.setattr(budgets, "budget_recipe", lambda checkpoint, budget, tell: RECIPES["4bit"])
    with pytest.raises(OptionError, match=r"a budget of 1\.00 kB is too small"):
        recipe_within(1000, found, silent, stream=False, rules=())
    assert not fetched
    recipe_within(10**9, found, silent, stream=False, rules=())
    assert fetched == found.source.shards()


def test_what_is_packed_is_measured_as_the_numbers_that_it_stands_for(source: Path, tmp_path: Path) -> None:
    packed = write_layout(source, tmp_path / "packed", "modelopt")
    budget = convert(packed, tmp_path / "3bit", "3bit").total_bytes
    made = convert(packed, tmp_path / "mine", budget=budget)
    assert made.recipe.startswith("budget-") and made.total_bytes <= budget


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
        '{"name": "own", "rules": ["*=8"], "fitted": true}',
    ):
        file.write_text(content)
        with pytest.raises(OptionError, match=r"own\.json"):
            find_recipe(str(file))
    with pytest.raises(OptionError, match="no such recipe"):
        find_recipe(str(tmp_path / "none.json"))


def test_rows_that_no_group_divides_stay_as_they_are() -> None:
    """And routers of narrow rows take groups of 32, all within the budget."""
    names = ("layers.0.experts.down_proj", "layers.0.router.proj.weight", "layers.0.mlp.up_proj.weight", "norm.weight")
    shapes = ((4, 64, 48), (4, 96), (64, 64), (64,))
    tensors = [Tensor(f"model.decoder.{name}", "BF16", shape) for name, shape in zip(names, shapes, strict=True)]
    (matrix,) = matrices_of(tensors)
    assert matrix.path == "layers.0.mlp.up_proj"
    rules = budgets.rules_of(tensors)
    made = apply_recipe(tensors, Recipe("rest", (), (*rules, (matrix.module, QuantSpec(64, 4, "affine")))))
    assert [piece.spec and piece.spec.group_size for piece in made] == [None, 32, 64, None]


def test_a_matrix_of_any_number_of_rows_is_rounded_in_the_same_memory() -> None:
    weight, spec = mx.random.normal((2**14, 128), key=mx.random.key(0)), QuantSpec(64, 4, "affine", fitted=True)
    mx.eval(weight)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    relative_error(weight, spec)
    assert mx.get_peak_memory() - held < 8 * weight.nbytes


def test_a_state_folder_that_cannot_be_made_is_named_before_anything_is_measured(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(LossMeter, "of", lambda *_: pytest.fail("measured"))
    assert main(["convert", str(source), str(tmp_path / "out"), "--budget", "100000"]) == 1
    assert "cannot be made (Not a directory); set XDG_STATE_HOME" in capsys.readouterr().err
