"""Fills a model with the tensors of its files: renames, casts and checks them, and quantises modules to match.

Every tensor is used once or known to be skipped, and every parameter is filled; anything else is an error that names
the tensors. Tensors are read, cast and checked one at a time, so that a second copy of the model is never in memory.
Floating tensors are checked for NaN and infinity while they are in the processor's cache. Packed bits cannot be
checked: all values are valid; a NaN in the 8-bit scales of the mx and nv modes shows in the first logits.
Knows nothing of folders, downloads or config files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_diffusion.checkpoint.formats import Quantization, QuantSpec
from mlx_diffusion.checkpoint.packing import quantise_layers
from mlx_diffusion.checkpoint.scaled_layers import with_row_scales
from mlx_diffusion.checkpoint.tensor_names import ROW_SCALE, VISION
from mlx_diffusion.device import activation_dtype, transposed
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.processes import computing
from mlx_diffusion.tuning import tuning

# A tensor's name -> the path of the parameter; the first pattern that matches the whole name counts.
RENAMES = (
    (r"model\.encoder\.language_model\.layers\.(\d+)\.layer_scalar", r"layers.\1.encoder_scalar"),
    (r"model\.decoder\.layers\.(\d+)\.layer_scalar", r"layers.\1.decoder_scalar"),
    # The Hub has bare expert arrays, mlx-vlm a module with weight, scales and biases: that is the last line's case.
    (r"model\.decoder\.layers\.(\d+)\.experts\.(gate_up|down)_proj", r"layers.\1.experts.\2_proj.weight"),
    # Older folders have gate and up apart. Their rows are put together, gate first (see HALF).
    (r"model\.decoder\.layers\.(\d+)\.experts\.(?:gate|up)_proj\.(\w+)", r"layers.\1.experts.gate_up_proj.\2"),
    (r"model\.decoder\.(.+)", r"\1"),
)
EMBEDDINGS = "embed_tokens.weight"  # rows of it are looked up
# Parameters that take part in large products, norms of heads and of the soft signal among them: their outputs do.
PROJECTIONS = re.compile(r"layers\.\d+\.(self_attn|mlp|experts)\.|self_conditioning\.|embed_tokens\.")
EXACT = re.compile(rf"\.router\.|{re.escape(ROW_SCALE)}$")  # float32: in fewer bits, near ties go to other experts
HALF = re.compile(r"(.+\.experts\.)(gate|up)(_proj\.\w+)")
OTHER_HALF = {"gate": "up", "up": "gate"}


@lru_cache(4096)  # layer by layer, all names are asked for at each layer
def parameter_path(name: str) -> str | None:
    """The path of the parameter that this tensor fills, or None for a name of no known shape."""
    for pattern, path in RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(path)
    return None


def fill(model: nn.Module, tensors: dict[str, mx.array], quantization: Quantization | None, where: str) -> None:
    """Put the tensors into the model, or into a part of it with the same paths, and quantise modules to match.

    Takes the lazy arrays out of `tensors` one by one, so that each is freed once it is cast. `where` names the folder
    in errors. Raises CheckpointError.
    """
    sources = _sources(tensors, where)
    _quantise_modules(model, sources, quantization, where)
    parameters = dict(tree_flatten(model.parameters()))
    _check_names(sources, parameters, where)
    for path, names in sources.items():
        _check_array(path, names, tensors, parameters[path], where)
    del parameters

    filled = [
        (path, _parameter(path, [tensors.pop(name) for name in names], names, where)) for path, names in sources.items()
    ]
    model.update(tree_unflatten(filled))  # what was there before has never been evaluated
    mx.clear_cache()


@computing()
def _parameter(path: str, parts: list[mx.array], names: tuple[str, ...], where: str) -> mx.array:
    """The array of a parameter, cast, checked and laid out as the model takes it; `parts` are used up."""
    array = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)  # expert rows [E, 2F, …]
    parts.clear()
    if mx.issubdtype(array.dtype, mx.floating):
        array = array.astype(_dtype(path))
        if not mx.isfinite(array).all().item():
            raise CheckpointError(
                f"{where}: {' and '.join(names)} holds NaN or infinity; download or convert the checkpoint again"
            )
        if array.ndim > 1 and path != EMBEDDINGS and not path.endswith(ROW_SCALE):
            array = transposed(array).swapaxes(-1, -2)
    mx.eval(array)
    return array


def _dtype(path: str) -> mx.Dtype:
    """The type of a parameter that holds floating-point numbers."""
    if EXACT.search(path):
        return mx.float32
    products = tuning().projection_dtype if PROJECTIONS.match(path) else None
    return products or activation_dtype()


def _sources(tensors: Iterable[str], where: str) -> dict[str, tuple[str, ...]]:
    """Parameter path -> the names of the tensors it is made of: one, or the gate and up halves in that order."""
    found: dict[str, list[str]] = {}
    unknown = []
    for name in sorted(tensors):  # gate comes before up
        if name.startswith(VISION):
            continue
        path = parameter_path(name)
        if path is None:
            unknown.append(name)
        else:
            found.setdefault(path, []).append(name)
    if unknown:
        raise CheckpointError(f"{where}: {_listed(unknown, 'is', 'are')} no part of DiffusionGemma's text model")
    missing = []
    for path, names in found.items():
        halves = [match for match in map(HALF.fullmatch, names) if match]
        if len(names) == 1 and halves:
            missing.append(halves[0].expand(rf"\g<1>{OTHER_HALF[halves[0][2]]}\g<3>"))
        elif len(names) > 1 and (len(names) != 2 or len(halves) != 2):
            raise CheckpointError(
                f"{where}: {' and '.join(names)} stand for the same parameter {path}: keep one layout"
            )
    if missing:
        raise CheckpointError(f"{where}: {_listed(missing, 'is', 'are')} missing")
    return {path: tuple(names) for path, names in found.items()}


def _quantise_modules(
    model: nn.Module, sources: Mapping[str, tuple[str, ...]], quantization: Quantization | None, where: str
) -> None:
    """Turn the modules whose tensors come with scales into quantised ones. Nothing is evaluated."""
    scaled = {path.removesuffix(".scales"): names for path, names in sources.items() if path.endswith(".scales")}
    if not scaled:
        return
    if quantization is None:
        name = next(iter(scaled.values()))[0]
        raise CheckpointError(f"{where}: {name} is quantised, but config.json has no quantization to say how")

    def spec_of(path: str, module: nn.Module) -> QuantSpec | None:
        if path not in scaled:
            return None
        spec = _spec(quantization, scaled[path], where)
        width = module["weight"].shape[-1]
        if width % spec.group_size:
            raise CheckpointError(
                f"{where}: {scaled[path][0]} is quantised in groups of {spec.group_size}, but its rows have "
                f"{count_of(width, 'entry')}; the quantization in config.json is not this file's"
            )
        return spec

    quantise_layers(model, spec_of)
    layers = [
        (path, with_row_scales(module))
        for path, module in model.named_modules()
        if f"{path}.{ROW_SCALE}" in sources and getattr(module, "mode", None) == "nvfp4"
    ]
    if layers:
        model.update_modules(tree_unflatten(layers))


def _spec(quantization: Quantization, names: tuple[str, ...], where: str) -> QuantSpec:
    """The format of the module with these `scales`; both halves of an older layout must have the same."""
    modules = [name.removesuffix(".scales") for name in names]
    specs = {quantization.of(module) for module in modules}
    if len(specs) > 1:
        raise CheckpointError(f"{where}: {' and '.join(modules)} are quantised in different ways: not supported")
    (spec,) = specs
    if spec is None:
        raise CheckpointError(f"{where}: {names[0]} is there, but config.json says {modules[0]} is not quantised")
    return spec


def _check_names(sources: Mapping[str, tuple[str, ...]], parameters: Mapping[str, mx.array], where: str) -> None:
    unknown = [name for path, names in sources.items() if path not in parameters for name in names]
    if unknown:
        raise CheckpointError(
            f"{where}: {_listed(unknown, 'has', 'have')} no place in the model that config.json describes"
        )
    missing = [_hub_name(path) for path in parameters if path not in sources]
    if missing:
        raise CheckpointError(f"{where}: {_listed(missing, 'is', 'are')} missing; download or convert it again")


def _check_array(
    path: str, names: tuple[str, ...], tensors: Mapping[str, mx.array], parameter: mx.array, where: str
) -> None:
    arrays = [tensors[name] for name in names]
    shape, expected = list(arrays[0].shape), list(parameter.shape)
    if len(arrays) == 2 and arrays[0].ndim == 3 and arrays[0].shape == arrays[1].shape:
        shape[1] *= 2
    if shape != expected or (len(arrays) == 2 and arrays[0].shape != arrays[1].shape):
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise CheckpointError(
            f"{where}: {' and '.join(names)} has shape {shapes}, the model needs {expected} for {path}"
        )
    floating = mx.issubdtype(parameter.dtype, mx.floating)
    for name, array in zip(names, arrays, strict=True):
        if not (mx.issubdtype(array.dtype, mx.floating) if floating else array.dtype == parameter.dtype):
            kind = "floating-point numbers" if floating else str(parameter.dtype).removeprefix("mlx.core.")
            held = str(array.dtype).removeprefix("mlx.core.")
            raise CheckpointError(f"{where}: {name} holds {held}, the model needs {kind}")


def _hub_name(path: str) -> str:
    """The Hub's name for the tensor of a parameter, for errors."""
    layer = re.fullmatch(r"layers\.(\d+)\.(encoder|decoder)_scalar", path)
    if layer:
        stack = "decoder" if layer[2] == "decoder" else "encoder.language_model"
        return f"model.{stack}.layers.{layer[1]}.layer_scalar"
    bare = re.fullmatch(r"(layers\.\d+\.experts\.\w+)\.weight", path)
    return f"model.decoder.{bare[1] if bare else path}"


def _listed(names: list[str], singular: str, plural: str) -> str:
    """'2 tensors (a, b) are': the first few names, how many there are, and the verb for them."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{count_of(len(names), 'tensor')} ({shown}) {singular if len(names) == 1 else plural}"
