"""Write tests/fixtures anew: small checkpoints, and what Transformers does with them on recorded randomness.

    python tests/record_fixtures.py FOLDER      in an environment with torch and transformers >= 5.23

FOLDER holds make_checkpoint.py and record_trajectory.py, the scripts that define the reference. Takes a minute. The
checkpoints lose the big tensors of their vision tower, which the text model skips; the recordings lose their tape of
random numbers, which conftest.py draws again from its seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parent / "fixtures"

SIZES = {"vocab": 96, "hidden": 32, "dense": 32, "moe": 16, "head-dim": 8, "window": 12, "canvas": 16}

# name -> options of make_checkpoint.py, and the number of files to write
CHECKPOINTS: dict[str, tuple[dict[str, str | int], int]] = {
    "hub": ({"seed": 0, "layers": 3, "config-style": "hub", "dtype": "bfloat16"}, 1),
    "transformers": ({"seed": 1, "layers": 4, "config-style": "transformers", "dtype": "bfloat16"}, 3),
    "two-full": ({"seed": 2, "layers": 2, "sliding-per-full": 1, "config-style": "hub", "experts": 4}, 2),
}

# checkpoint, seed, prompt length, rows, padding per row, new tokens. The window is 12, a canvas 16.
RUNS = [
    ("hub", 0, 5, 1, 0, 16),
    ("hub", 1, 11, 1, 0, 32),
    ("hub", 2, 12, 1, 0, 16),
    ("hub", 3, 13, 1, 0, 16),
    ("hub", 4, 40, 1, 0, 48),
    ("hub", 5, 9, 3, 3, 32),
    ("hub", 6, 12, 3, 5, 16),
    ("hub", 7, 40, 3, 13, 32),
    ("hub", 8, 90, 1, 0, 16),
    ("transformers", 10, 4, 1, 0, 32),
    ("transformers", 11, 12, 1, 0, 16),
    ("transformers", 12, 30, 1, 0, 32),
    ("transformers", 13, 10, 3, 4, 32),
    ("transformers", 14, 12, 3, 2, 16),
    ("transformers", 15, 25, 3, 11, 48),
    ("transformers", 16, 60, 1, 0, 16),
    ("two-full", 20, 7, 1, 0, 16),
    ("two-full", 21, 12, 1, 0, 48),
    ("two-full", 22, 33, 1, 0, 16),
    ("two-full", 23, 8, 3, 3, 32),
    ("two-full", 24, 12, 3, 4, 32),
    ("two-full", 25, 36, 3, 12, 16),
    ("two-full", 26, 1, 1, 0, 16),
]
TAPE = ("initial", "gumbel", "renoise")


def run_name(checkpoint: str, seed: int) -> str:
    return f"{checkpoint}-{seed}"


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_checkpoint(script: Path, options: dict[str, str | int], out: Path) -> None:
    arguments = [f"--{key}={value}" for key, value in {**SIZES, **options}.items()]
    subprocess.run([sys.executable, script, out, *arguments], check=True)


def shrink(full: Path, out: Path, files: int) -> None:
    """Copy a checkpoint without the bulk of its vision tower, its text tensors spread over so many files."""
    out.mkdir(parents=True)
    for file in full.iterdir():
        if file.suffix != ".safetensors" and file.name != "model.safetensors.index.json":
            shutil.copyfile(file, out / file.name)
    tensors = {
        name: tensor
        for name, tensor in load_file(full / "model.safetensors").items()
        if "vision_tower" not in name or name.endswith("norm.weight")
    }
    if files == 1:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for part in range(files):
        name = f"model-{part + 1:05d}-of-{files:05d}.safetensors"
        shard = dict(list(tensors.items())[part::files])
        save_file(shard, out / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the reference scripts")
    folder = parser.parse_args().folder
    recorder = load_script(folder / "record_trajectory.py")
    shutil.rmtree(FIXTURES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (options, files) in CHECKPOINTS.items():
            write_checkpoint(folder / "make_checkpoint.py", {**options, "shard-mb": 1000}, Path(scratch) / name)
            shrink(Path(scratch) / name, FIXTURES / name, files)
        (FIXTURES / "runs").mkdir()
        runs = []
        for checkpoint, seed, length, batch, padding, new_tokens in RUNS:
            whole = Path(scratch) / "run.npz"
            recorder.record(
                Path(scratch) / checkpoint,
                whole,
                seed=seed,
                prompt_length=length,
                batch=batch,
                max_new_tokens=new_tokens,
                padding=padding,
            )
            with np.load(whole) as arrays:
                kept = {key: arrays[key] for key in arrays.files if key not in TAPE}
            for key in ("canvas", "argmax"):
                kept[key] = kept[key].astype(np.int32)
            name = run_name(checkpoint, seed)
            np.savez_compressed(FIXTURES / "runs" / f"{name}.npz", **kept)
            runs.append({"name": name, "checkpoint": checkpoint, "seed": seed, "max_new_tokens": new_tokens})
        (FIXTURES / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
