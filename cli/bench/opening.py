"""Opens the model of a benchmark, a checkpoint or one with random weights, after making sure that it can run.

Knows the command line, and nothing of how anything is measured.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import local_folder
from mlx_diffusion.checkpoint.pieces import written_tensors
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, recipe_named
from mlx_diffusion.cli.bench import PUBLISHED
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.disk import free_bytes
from mlx_diffusion.fit.machine import Machine
from mlx_diffusion.fit.memory import Memory, item_bytes_on, weight_bytes
from mlx_diffusion.fit.opening import find_model, memory_of
from mlx_diffusion.fit.verdict import judge
from mlx_diffusion.json_files import read_json
from mlx_diffusion.loading import load_model
from mlx_diffusion.measure import Benchmark, Blueprint, Case, Peer, SyntheticTokenizer, all_cases
from mlx_diffusion.modes import MODES
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import load_tokenizer


@contextmanager
def opened(args: argparse.Namespace, machine: Machine, line: ProgressLine) -> Iterator[Benchmark]:
    """The benchmark of the command line's model, with a peer of the same weights where one is asked for.

    Raises OptionError for cases that the model cannot run and CheckpointError where it does not fit, before it is
    loaded.
    """
    if args.synthetic is None:
        yield _of_checkpoint(args, machine, line)
    else:
        with tempfile.TemporaryDirectory(prefix="mlx-diffusion-bench-") as folder:
            yield _of_random_weights(args, machine, Path(folder), line)


def _of_checkpoint(args: argparse.Namespace, machine: Machine, line: ProgressLine) -> Benchmark:
    found = find_model(args.model, say, args.revision)
    folder = found.folder
    config, cases = _config_and_cases(args, found.config)
    weights = memory_of(found, machine.device).weight_bytes
    _heed_verdict(args, cases, config, weights, machine, args.model, read_json(folder / "config.json"))

    line.announce(f"loading {args.model}")
    started = time.perf_counter()
    model, tokenizer = load_model(replace(found, config=config)), load_tokenizer(folder)
    seconds = time.perf_counter() - started
    return Benchmark(
        args.model,
        model,
        tokenizer,
        config,
        _options(args),
        cases,
        seconds,
        _peer(args, folder, config, model.dtype, line),
    )


def _of_random_weights(args: argparse.Namespace, machine: Machine, folder: Path, line: ProgressLine) -> Benchmark:
    """Made in memory; written into `folder` only for the peer."""
    blueprint, name = _blueprint(args)
    config, cases = _config_and_cases(args, blueprint.config)
    blueprint = replace(blueprint, config=config)
    weights = weight_bytes(written_tensors(blueprint.pieces), item_bytes_on(machine.device))
    _heed_verdict(args, cases, config, weights, machine, name, blueprint.raw)
    if args.against and 0 < free_bytes(folder) < weights:
        raise CheckpointError(
            f"{args.against} would read the random weights, {size_text(weights)}, from {folder.parent}, which has "
            f"{size_text(free_bytes(folder))} free; set TMPDIR to a folder with more, or leave out --against"
        )

    started = time.perf_counter()
    model = blueprint.build(
        args.seed, lambda done, total: line.show(f"random weights: {size_text(done)} of {size_text(total)}")
    )
    seconds = time.perf_counter() - started
    if args.against:
        line.announce("writing the random weights for the peer")
        blueprint.save(model, folder)
    return Benchmark(
        name,
        model,
        SyntheticTokenizer(),
        config,
        _options(args),
        cases,
        seconds,
        _peer(args, folder, config, model.dtype, line),
    )


def _options(args: argparse.Namespace) -> GenerationConfig:
    """The options that all cases share."""
    return GenerationConfig(seed=args.seed, max_denoising_steps=args.steps, prefill_step_size=args.prefill_step_size)


def _blueprint(args: argparse.Namespace) -> tuple[Blueprint, str]:
    """The blueprint of the model with random weights, and its name."""
    raw = synthetic_config(args.synthetic)
    recipe = recipe_named(args.recipe or DEFAULT_RECIPE)
    layers = f", {count_of(args.layers, 'layer')}" if args.layers else ""
    name = f"{args.synthetic} ({recipe.name}{layers}, random weights)"
    return Blueprint.of(raw, recipe, args.layers, args.canvas_length), name


def synthetic_config(name: str) -> Mapping[str, Any]:
    """The config.json of a folder, or of the published model. Raises CheckpointError where there is none."""
    if name == PUBLISHED:
        return CONFIG
    folder = local_folder(name)
    if folder is None:
        raise CheckpointError(f'--synthetic {name}: no such folder; give one with a config.json, or "{PUBLISHED}"')
    return read_json(folder / "config.json")


def _peer(
    args: argparse.Namespace, folder: Path, config: ModelConfig, dtype: mx.Dtype, line: ProgressLine
) -> Peer | None:
    if not args.against:
        return None
    line.announce(f"loading {args.against}")
    return Peer.load(folder, config, dtype)


def _config_and_cases(args: argparse.Namespace, config: ModelConfig) -> tuple[ModelConfig, list[Case]]:
    """The configuration with the canvas and the context of the command line, and the cases."""
    changed = replace(
        config,
        canvas_length=args.canvas_length or config.canvas_length,
        max_position_embeddings=args.context or config.max_position_embeddings,
    )
    modes = tuple(dict.fromkeys(args.mode or MODES[:1]))
    return changed, all_cases(args.prompt_tokens, args.output_tokens, modes, changed)


def _heed_verdict(
    args: argparse.Namespace, cases: Sequence[Case], config: ModelConfig, weights: int, machine: Machine, name: str,
    raw: Mapping[str, Any],
) -> None:  # fmt: skip
    """Warn or refuse where the longest case does not fit. With a peer, memory holds the weights twice."""
    longest = max(case.prompt_tokens + case.output_tokens for case in cases) + config.canvas_length
    memory = Memory(config, weights * (2 if args.against else 1), item_bytes_on(machine.device))
    if args.prefill_step_size:
        memory = memory.in_steps_of(args.prefill_step_size)
    judge(name, memory, longest, machine.memory, raw).heed(say)
