"""Write tests/fixtures anew: small checkpoints, and what Transformers does with them on recorded randomness.

    python tests/record_fixtures.py FOLDER [--demo]      in an environment with mlx-diffusion[train]

FOLDER holds make_checkpoint.py and record_trajectory.py, the scripts that define the reference. Takes a minute. The
checkpoints lose the big tensors of their vision tower, which the text model skips; the recordings lose their tape of
random numbers, which conftest.py draws again from its seed. On the bundled checkpoint real prompts are run, so that
canvases converge and stop early; `--demo` records these alone, after a new training.
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
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion

FIXTURES, REFERENCE = Path(__file__).parent / "fixtures", Path(__file__).parent / "reference"

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
# The bundled checkpoint: seed, new tokens, prompts (one batch).
DEMO = Path(__file__).parent.parent / "mlx_diffusion" / "demo"
DEMO_RUNS = [
    (30, 64, ["Copy: fig oak ant"]),
    (31, 64, ["Sort: hen fig oak ant"]),
    (32, 64, ["Shuffle: fig oak ant hen rye"]),
    (33, 64, ["In words: 4217"]),
    (34, 64, ["Sudoku:\n1030\n0012\n2043\n0000"]),
    (35, 192, ["Story: Katan and the fox"]),
    (36, 64, ["Reverse: fig oak ant", "As JSON: Katan is 34 and lives in Oslo.", "Latin square: 3581"]),
]
GREEDY_LENGTHS, GREEDY_TOKENS = (1, 11, 12, 40, 90), 24  # of prompts whose continuation the encoder writes
TAPE = ("initial", "gumbel", "renoise")
FIRST_POSITIONS = 8  # of the bundled checkpoint's first logits, which are big
KEPT = {"canvas": np.int32, "argmax": np.int32, "accepted": np.bool_, "entropy": np.float32}


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


def record_demo(recorder: ModuleType, seed: int, new_tokens: int, prompts: list[str], out: Path) -> None:
    """What record_trajectory.py records, on prompts of the bundled checkpoint's own template."""
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(DEMO, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO, padding_side="left")
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    rows, length = ids.shape
    canvas, vocab = model.config.canvas_length, model.config.text_config.vocab_size
    steps = model.generation_config.max_denoising_steps
    tape = recorder.Tape(seed, -(-new_tokens // canvas), steps, rows, canvas, vocab)
    record: list[dict[str, np.ndarray]] = []
    model._prepare_sampler = lambda config: recorder.TapedSampler(
        config.sampler_config,
        canvas_length=canvas,
        vocab_size=vocab,
        max_denoising_steps=steps,
        tape=tape,
        record=record,
    )
    with torch.no_grad():
        hidden = model.model.encoder(input_ids=ids, attention_mask=mask.bool())
        result = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens)
        first = model(
            decoder_input_ids=torch.from_numpy(tape.initial[0]).long(),
            cache=hidden.cache,
            decoder_attention_mask=torch.nn.functional.pad(mask.bool(), (0, canvas), value=True),
            decoder_position_ids=torch.arange(length, length + canvas)[None],
        ).logits
    blocks = [row["block"] for row in record]
    np.savez_compressed(
        out,
        prompt_ids=ids.numpy().astype(np.int32),
        prompt_mask=mask.numpy().astype(np.int8),
        steps=np.bincount(blocks).astype(np.int32),
        sequences=result.sequences.numpy().astype(np.int32),
        encoder_last_hidden=hidden.last_hidden_state.numpy(),
        first_logits=first.numpy()[:, :FIRST_POSITIONS],
        **{key: np.stack([row[key] for row in record]).astype(kind) for key, kind in KEPT.items()},
    )
    print(f"{out.name}: steps per block {np.bincount(blocks)}")


def record_greedy(name: str, folder: Path, seed: int) -> list[dict[str, object]]:
    """What the encoder with the tied head writes greedily, token by token, each from the whole text anew.

    Also with a penalty for what stands there already: random weights say the last token again for ever without it.
    """
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config.text_config
    table, softcap = model.get_input_embeddings().weight, config.final_logit_softcapping
    rng, texts = np.random.default_rng(seed), []
    for length in GREEDY_LENGTHS:
        prompt = rng.integers(8, config.vocab_size - 8, length).tolist()
        for penalty in (1.0, 3.0):
            text = list(prompt)
            for _ in range(GREEDY_TOKENS):
                ids = torch.tensor([text])
                with torch.no_grad():
                    found = model.model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids).bool())
                    logits = torch.tanh(found.last_hidden_state[0, -1] @ table.T / softcap) * softcap
                own = torch.tensor(sorted(set(text)))
                logits[own] = torch.where(logits[own] < 0, logits[own] * penalty, logits[own] / penalty)
                text.append(int(logits.argmax()))
            texts.append({"checkpoint": name, "prompt": prompt, "penalty": penalty, "tokens": text[length:]})
    return texts


def record_toys(folder: Path, recorder: ModuleType) -> list[dict[str, object]]:
    """Write the random checkpoints and their runs; returns the runs' entries."""
    runs: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, (options, files) in CHECKPOINTS.items():
            write_checkpoint(folder / "make_checkpoint.py", {**options, "shard-mb": 1000}, Path(scratch) / name)
            shrink(Path(scratch) / name, FIXTURES / name, files)
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
            kept |= {key: kept[key].astype(kind) for key, kind in KEPT.items()}
            name = run_name(checkpoint, seed)
            np.savez_compressed(FIXTURES / "runs" / f"{name}.npz", **kept)
            runs.append({"name": name, "checkpoint": checkpoint, "seed": seed, "max_new_tokens": new_tokens})
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=REFERENCE, help="of the reference scripts")
    parser.add_argument("--demo", action="store_true", help="record the bundled checkpoint alone")
    args = parser.parse_args()
    recorder = load_script(args.folder / "record_trajectory.py")
    listing = FIXTURES / "runs.json"
    if args.demo:
        runs = [run for run in json.loads(listing.read_text()) if run["checkpoint"] != "demo"]
    else:
        for folder in (*CHECKPOINTS, "runs"):  # the others are not made here
            shutil.rmtree(FIXTURES / folder, ignore_errors=True)
        (FIXTURES / "runs").mkdir()
        runs = record_toys(args.folder, recorder)
    for seed, new_tokens, prompts in DEMO_RUNS:
        name = run_name("demo", seed)
        record_demo(recorder, seed, new_tokens, prompts, FIXTURES / "runs" / f"{name}.npz")
        runs.append({"name": name, "checkpoint": "demo", "seed": seed, "max_new_tokens": new_tokens})
    listing.write_text(json.dumps(runs, indent=1) + "\n")
    greedy = [
        text
        for seed, (name, folder) in enumerate([*((name, FIXTURES / name) for name in CHECKPOINTS), ("demo", DEMO)])
        for text in record_greedy(name, folder, seed)
    ]
    (FIXTURES / "greedy.json").write_text("[\n" + ",\n".join(map(json.dumps, greedy)) + "\n]\n")


if __name__ == "__main__":
    main()
