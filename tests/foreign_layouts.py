"""Checkpoints in the layouts of published FP8 and NVFP4 builds, made of one in the Hub's own layout, and their numbers.

Numbers are worked out by tables and NumPy: the slow twin of what the library makes of the same files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.headers import Tensor, write_header

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
BOTH_SIGNS = np.concatenate([E2M1, -E2M1]).astype(np.float32)
CODES = np.arange(256)
E4M3 = np.where(CODES >> 3 & 15, (1 + (CODES & 7) / 8) * 2.0 ** ((CODES >> 3 & 15) - 7.0), (CODES & 7) * 2.0**-9)
E4M3 = np.where(CODES & 127 == 127, np.nan, np.where(CODES & 128, -E4M3, E4M3)).astype(np.float32)
FINITE = np.nan_to_num(E4M3[:127], nan=np.inf)

FP8_CONFIG: Mapping[str, object] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"format": "float-quantized", "targets": ["Linear"]}},
}
MODELOPT_CONFIG: Mapping[str, object] = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "config_groups": {"group_0": {"targets": []}},
}
PACKED_CONFIG: Mapping[str, object] = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}

Stored = tuple[str, np.ndarray]  # safetensors' type, and an array of its bits
Written = dict[str, Stored]


def bf16(array: np.ndarray) -> Stored:
    bits = np.array(mx.array(array.astype(np.float32)).astype(mx.bfloat16).view(mx.uint16))
    return "BF16", bits.reshape(array.shape)


def of_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def e4m3(array: np.ndarray) -> np.ndarray:
    """The codes of the nearest numbers, for numbers of a few thousand at most."""
    nearest = np.abs(np.abs(array)[..., None] - FINITE).argmin(-1)
    return (nearest | (array < 0) * 128).astype(np.uint8)


def fp8(name: str, weight: np.ndarray, dense: bool) -> Written:
    if not dense and ".experts." not in name:
        return {name: bf16(weight)}
    kind, bits = bf16(np.abs(weight).max(1, keepdims=True) / 448 + 1e-12)
    return {name: ("F8_E4M3", e4m3(weight / of_bf16(bits))), f"{name}_scale": (kind, bits)}


def nvfp4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed codes, scales, and the scale of all."""
    whole = np.asarray(np.abs(weight).max() / (6 * 448), np.float32)
    groups = weight.reshape(len(weight), -1, 16)
    scale = e4m3(np.abs(groups).max(-1) / 6 / whole)
    steps = groups / np.maximum(E4M3[scale] * whole, 1e-30)[..., None]
    codes = np.abs(np.abs(steps)[..., None] - E2M1).argmin(-1) | (steps < 0) << 3
    codes = codes.reshape(weight.shape).astype(np.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scale, whole


def modelopt(name: str, weight: np.ndarray, dense: bool) -> Written:
    if ".experts." not in name:
        return {name: bf16(weight)}
    packed, scale, whole = nvfp4(weight)
    return {
        name: ("U8", packed),
        f"{name}_scale": ("F8_E4M3", scale),
        f"{name}_scale_2": ("F32", whole),
        name.removesuffix("weight") + "input_scale": ("F32", np.asarray(0.01, np.float32)),
    }


def packed(name: str, weight: np.ndarray, dense: bool) -> Written:
    if ".experts." not in name and ".mlp." not in name:
        return {name: bf16(weight)}
    codes, scale, whole = nvfp4(weight)
    return {
        f"{name}_packed": ("U8", codes),
        f"{name}_scale": ("F8_E4M3", scale),
        f"{name}_global_scale": ("F32", (1 / whole.reshape(1)).astype(np.float32)),
    }


def per_expert(name: str, weight: np.ndarray, dense: bool) -> Written:
    return {name: bf16(weight)}


LAYOUTS: Mapping[str, tuple[Callable[[str, np.ndarray, bool], Written], Mapping[str, object] | None]] = {
    "fp8": (fp8, FP8_CONFIG),
    "modelopt": (modelopt, MODELOPT_CONFIG),
    "packed": (packed, PACKED_CONFIG),
    "per-expert": (per_expert, None),
}


def one_by_one(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    single: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        base, _, kind = name.rpartition(".")
        for expert, matrix in enumerate(array if base.endswith("experts") else ()):
            halves = (
                zip(("gate", "up"), np.split(matrix, 2), strict=True) if kind == "gate_up_proj" else [("down", matrix)]
            )
            single |= {f"{base}.{expert}.{half}_proj.weight": rows for half, rows in halves}
        if not base.endswith("experts"):
            single[name] = array
    return single


def write_layout(source: Path, folder: Path, layout: str, bare: bool = False, shards: int = 1) -> Path:
    """The checkpoint in `source` in this layout; `bare` leaves quantization_config out."""
    encode, config = LAYOUTS[layout]
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    raw = json.loads((source / "config.json").read_text())
    if config and not bare:
        raw["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(raw))
    arrays: dict[str, np.ndarray] = {}
    for file in sorted(source.glob("*.safetensors")):
        arrays |= {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(file)).items()}  # type: ignore[union-attr]
    written: Written = {}
    for name, array in one_by_one(arrays).items():
        dense = array.ndim == 2 and name.startswith("model.decoder.layers.") and ".router." not in name
        written |= encode(name, array, dense) if array.ndim == 2 else {name: bf16(array)}
    write_files(folder, written, shards)
    return folder


def write_files(folder: Path, written: Written, shards: int = 1) -> None:
    """The tensors as so many files, and an index if there are several."""
    names = (
        [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
        if shards > 1
        else ["model.safetensors"]
    )
    homes = {name: names[number * shards // len(written)] for number, name in enumerate(written)}
    for file in names:
        own = {name: written[name] for name in written if homes[name] == file}
        header, _ = write_header([Tensor(name, kind, array.shape) for name, (kind, array) in own.items()])
        (folder / file).write_bytes(
            header + b"".join(np.ascontiguousarray(array).tobytes() for _, array in own.values())
        )
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


def read_files(folder: Path) -> Written:
    """All tensors of a folder, as `write_files` takes them."""
    types = {"F8_E4M3": np.uint8, "U8": np.uint8, "BF16": np.uint16, "F32": np.float32}
    found: Written = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = (8 + length + offset for offset in entry["data_offsets"])
                array = np.frombuffer(content[first:last], types[entry["dtype"]]).reshape(entry["shape"])
                found[name] = entry["dtype"], array
    return found


def numbers(folder: Path) -> dict[str, np.ndarray]:
    """The numbers of all tensors, float32, by the names and in the shapes of the Hub's own layout."""
    stored = read_files(folder)
    single: dict[str, np.ndarray] = {}
    for name, (kind, bits) in stored.items():
        base = name.removesuffix("_packed")
        if re.search(r"weight_(scale|scale_2|global_scale)$|input_scale$", name):
            continue
        if kind == "F8_E4M3":
            single[name] = E4M3[bits] * of_bf16(stored[f"{name}_scale"][1])
        elif kind == "U8":
            codes = np.stack([bits & 15, bits >> 4], -1).reshape(len(bits), -1, 16)
            grouped: np.ndarray = BOTH_SIGNS[codes] * E4M3[stored[f"{base}_scale"][1]][..., None]
            whole = stored.get(f"{base}_scale_2")
            grouped = grouped * whole[1] if whole else grouped / stored[f"{base}_global_scale"][1]
            single[base] = grouped.reshape(len(bits), -1).astype(np.float32)
        else:
            single[name] = of_bf16(bits) if kind == "BF16" else bits
    return fused(single)


def fused(single: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    experts: dict[str, dict[tuple[int, str], np.ndarray]] = {}
    for name, array in single.items():
        match = re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)_proj\.weight", name)
        if match:
            experts.setdefault(match[1], {})[int(match[2]), match[3]] = array
        else:
            made[name] = array
    for base, parts in experts.items():
        count = range(len(parts) // 3)
        made[f"{base}.gate_up_proj"] = np.stack([np.concatenate([parts[e, "gate"], parts[e, "up"]]) for e in count])
        made[f"{base}.down_proj"] = np.stack([parts[e, "down"] for e in count])
    return made
