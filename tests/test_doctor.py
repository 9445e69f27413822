"""What the machine has, what it can run, what is downloaded: said on any machine, and never with a traceback."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import mlx.core as mx
import pytest
from conftest import FIXTURES
from huggingface_hub import scan_cache_dir

import mlx_diffusion
from mlx_diffusion.checkpoint import hub_cache
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.cli.doctor import diagnosis_text
from mlx_diffusion.cli.main import main
from mlx_diffusion.convert import RECIPES
from mlx_diffusion.fit import machine
from mlx_diffusion.fit.advice import advise
from mlx_diffusion.fit.diagnosis import Diagnosis
from mlx_diffusion.fit.draft_width import WIDTHS
from mlx_diffusion.fit.footprint import context_text
from mlx_diffusion.fit.machine import Machine, this_machine
from mlx_diffusion.fit.macs import MACS, gpu_bytes
from mlx_diffusion.fit.recipe_fits import RecipeFit, recipe_fits, recommended, sizes_on
from mlx_diffusion.modes import MODES

MAC = Machine(
    "Apple M2", 25_769_803_776, 17_179_869_184, "gpu", 8, "macOS 14.5", "3.12.1", {"mlx": "0.32.4"}, 250_000_000_000
)
REVISION = "0" * 40
ON_GPU, ON_CPU = sizes_on("gpu", CONFIG), sizes_on("cpu", CONFIG)


def test_this_machine() -> None:
    found = this_machine(Path.cwd())
    assert found.device == ("cpu" if mx.default_device() == mx.Device(mx.cpu) else "gpu")
    assert found.memory_bytes and found.memory_bytes > 1e8 and found.disk_free_bytes is not None
    assert found.memory.usable_bytes and found.memory.usable_bytes < found.memory_bytes
    assert found.packages["mlx-diffusion"] == mlx_diffusion.__version__
    assert found.packages["mlx"] == importlib.metadata.version("mlx")


def test_what_cannot_be_found_out_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("nothing here")

    def no_device() -> None:
        raise RuntimeError("no device")

    for module, name in ((os, "sysconf"), (subprocess, "run"), (shutil, "disk_usage"), (Path, "read_text")):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(mx, "device_info", no_device)
    monkeypatch.setattr(machine, "PACKAGES", ("no-such-package",))
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        found = this_machine(tmp_path)
        assert found.memory_bytes is found.disk_free_bytes is found.gpu_bytes is found.memory.usable_bytes is None
        assert found.packages["no-such-package"] is None
        text = diagnosis_text(Diagnosis(found, "somewhere", [], "toy/model", recipe_fits(ON_GPU, None), None))
        assert "memory    unknown" in text and "no-such-package missing" in text and "No recipe fits" in text


def test_a_model_may_take_the_gpus_share_or_most_of_the_memory() -> None:
    assert MAC.memory.usable_bytes == 17_179_869_184
    assert replace(MAC, device="cpu").memory.usable_bytes == 25_769_803_776 * 3 // 4


@pytest.mark.parametrize(
    ("memory_gib", "older", "newer"),
    [(16, "2bit", "2bit"), (24, "4bit-small", "4bit"), (32, "4bit", "4bit"), (48, "4bit", "4bit")],
)
def test_the_recipe_to_take_on_a_mac(memory_gib: int, older: str, newer: str) -> None:
    (mac,) = (mac for mac in MACS if mac.memory_gib == memory_gib)
    assert recommended(recipe_fits(ON_GPU, mac.older_bytes)) == older
    assert recommended(recipe_fits(ON_GPU, mac.newer_bytes)) == newer


def test_nothing_is_recommended_where_nothing_fits() -> None:
    recipes = recipe_fits(ON_GPU, 8_000_000_000)
    weights = [found.weight_bytes for found in recipes]
    assert {found.recipe for found in recipes} == set(RECIPES) and weights == sorted(weights, reverse=True)
    assert all(found.longest_context is None for found in recipes) and recommended(recipes) is None


def test_a_context_that_is_short_is_better_than_none() -> None:
    recipes = [RecipeFit(name, 1, 1, 900 if name == "3bit" else None, None) for name in RECIPES]
    assert recommended(recipes) == "3bit"


def test_float32_takes_more_than_bf16() -> None:
    on_cpu, on_gpu = ({one.recipe: one.memory.weight_bytes for one in sized} for sized in (ON_CPU, ON_GPU))
    assert on_cpu["bf16"] == 2 * on_gpu["bf16"]
    assert on_gpu["4bit"] < on_cpu["4bit"] < 1.25 * on_gpu["4bit"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with a whole checkpoint, one that lacks a shard, another model, a data set, and rubbish."""
    folder = tmp_path / "hub"

    def add(name: str, source: Path) -> Path:
        repo = folder / name
        shutil.copytree(source, repo / "snapshots" / REVISION)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(REVISION)
        return repo / "snapshots" / REVISION

    add("models--toy--whole", FIXTURES / "hub")
    (add("models--toy--part", FIXTURES / "transformers") / "model-00002-of-00003.safetensors").unlink()
    (add("models--toy--other", FIXTURES / "hub") / "config.json").write_text('{"model_type": "llama"}')
    (add("models--toy--broken", FIXTURES / "hub") / "config.json").write_text("{")
    odd = {"model_type": "diffusion_gemma", "quantization": {"mode": [], "group_size": 64, "bits": 4}}
    (add("models--toy--odd", FIXTURES / "hub") / "config.json").write_text(json.dumps(odd))
    add("datasets--toy--data", FIXTURES / "hub")
    (folder / "rubbish").write_text("")
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan_cache_dir(folder))
    return folder


def test_the_hubs_cache(cache: Path) -> None:
    found = hub_cache.cached_checkpoints()
    assert [(entry.repo_id, entry.revision, entry.whole) for entry in found] == [
        ("toy/part", REVISION, False),
        ("toy/whole", REVISION, True),
    ]
    assert found[1].kept_as == "bf16" and found[1].nbytes > 100_000
    assert hub_cache.cached_snapshots("toy/whole") == [cache / "models--toy--whole" / "snapshots" / REVISION]
    shutil.rmtree(cache)
    assert hub_cache.cached_checkpoints() == []


def test_the_report(cache: Path) -> None:
    recipes = recipe_fits(ON_GPU, MAC.memory.usable_bytes)
    found = hub_cache.cached_checkpoints()
    lines = diagnosis_text(Diagnosis(MAC, str(cache), found, "toy/model", recipes, recommended(recipes))).splitlines()
    assert lines[:7] == [
        "chip      Apple M2, 8 cores",
        "memory    25.77 GB, of which the GPU may use 17.18 GB",
        "system    macOS 14.5, Python 3.12.1",
        "packages  mlx 0.32.4",
        "MLX on    GPU",
        "disk      250.00 GB free here",
        f"cache     {cache}",
    ]
    assert lines[7].startswith("  toy/part 00000000, ") and lines[7].endswith(", bf16, not whole")
    assert lines[8].startswith("  toy/whole 00000000, ") and lines[8].endswith(", bf16")
    (small,) = (found for found in recipes if found.recipe == "4bit-small")
    contexts = [context_text(small.longest_context), context_text(small.longest_context_short_steps)]
    assert ["4bit-small", "15.48", "GB", "14.33", "GB", *contexts] in [line.split() for line in lines]
    assert lines[-1] == "mlx-diffusion convert toy/model OUTPUT --recipe 4bit-small --stream"
    advice = advise("Apple M4 Max", CONFIG, RECIPES["4bit-small"])
    advised = diagnosis_text(Diagnosis(MAC, str(cache), found, "toy/model", recipes, "4bit-small", advice)).splitlines()
    assert advised[: len(lines)] == lines
    said = " ".join(advised[len(lines) + 1 :])
    assert said.startswith("Predicted on M4 Max (32) in 4bit-small, not measured, tokens a second: reference ")
    assert max(map(len, lines)) <= 120


def test_the_command(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("chip ") and f"cache     {hub_cache.cache_folder()}\n  toy/part" in out
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["machine", "hub_cache", "model", "recipes", "recommended", "advice", "levers"]
    assert set(facts["recipes"]) == set(RECIPES)
    assert [entry["repo_id"] for entry in facts["hub_cache"]["checkpoints"]] == ["toy/part", "toy/whole"]
    assert facts["machine"]["device"] == this_machine().device
    assert facts["advice"] is None or facts["advice"]["predicted"] is True


def test_advice_is_for_chips_that_are_known() -> None:
    assert advise("AMD EPYC", CONFIG, RECIPES["4bit"]) is advise(None, CONFIG, RECIPES["4bit"]) is None
    advice = advise("Apple M4 Pro", CONFIG, RECIPES["4bit"])
    assert advice is not None and advice.fastest in MODES
    assert set(advice.tokens_per_second) == set(MODES) - {"balanced", "fast"}  # theirs depends on the checkpoint
    assert advice.draft_width in (0, *WIDTHS)


def test_the_gpus_share_of_a_memory_size() -> None:
    assert [gpu_bytes(gib) for gib in (8, 36, 40, 512)] == [4 << 30, 30_000_000_000, 30_000_000_000, 384 << 30]


def test_it_runs_in_a_process_of_its_own() -> None:
    """In this one, other tests have imported what a command may have forgotten."""
    command = [sys.executable, "-m", "mlx_diffusion.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "recipes" in json.loads(done.stdout)
