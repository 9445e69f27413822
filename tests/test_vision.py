"""The vision tower's tensors, from sizes alone."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.tensor_names import VISION
from mlx_diffusion.checkpoint.vision_tensors import vision_tensors
from mlx_diffusion.errors import CheckpointError

REAL: dict[str, Any] = json.loads((FIXTURES / "real_config" / "config.json").read_text())


def test_names_and_shapes_are_those_of_transformers(checkpoint_folder: Path) -> None:
    """The small checkpoints hold a part of the tower that Transformers built: what is not large."""
    raw = json.loads((checkpoint_folder / "config.json").read_text())
    tensors = Checkpoint.open(checkpoint_folder).tensors()
    found = {name: array.shape for name, array in tensors.items() if name.startswith(VISION)}
    made = {t.name: t.shape for t in vision_tensors(raw["vision_config"], raw["text_config"]["hidden_size"])}
    assert found and found.items() <= made.items()
    assert {name.rpartition(".")[2] for name in made.keys() - found.keys()} == {"weight", "position_embedding_table"}


def test_the_real_tower() -> None:
    """As Transformers builds it: 27 layers of 13 tensors, two of the patches, two to standardise, one projection."""
    made = vision_tensors(REAL["vision_config"], 2816)
    shapes = {tensor.name: tensor.shape for tensor in made}
    assert len(made) == len(shapes) == 27 * 13 + 5
    assert sum(math.prod(tensor.shape) for tensor in made) == 572_794_416
    assert shapes["model.encoder.vision_tower.patch_embedder.position_embedding_table"] == (2, 10240, 1152)
    assert shapes["model.encoder.vision_tower.encoder.layers.26.mlp.down_proj.linear.weight"] == (1152, 4304)
    assert shapes["model.encoder.embed_vision.embedding_projection.weight"] == (2816, 1152)


def test_a_size_that_is_missing_is_named() -> None:
    vision = {name: value for name, value in REAL["vision_config"].items() if name != "patch_size"}
    with pytest.raises(CheckpointError, match=re.escape("the field vision_config.patch_size is missing")):
        vision_tensors(vision, 2816)
