"""Which tensors go into which file."""

from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor
from mlx_diffusion.checkpoint.pieces import Piece, apply_recipe
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.convert.shards import split_into_shards, weight_index


def vision(*sizes: tuple[str, int]) -> tuple[list[SourceTensor], list[Piece]]:
    """Tensors of so many bf16 numbers in these files; none is quantised."""
    stored = [
        SourceTensor.plain(StoredTensor(Tensor(f"model.encoder.vision_tower.{number}", "F32", (size,)), file, 8))
        for number, (file, size) in enumerate(sizes)
    ]
    return stored, apply_recipe([entry.tensor for entry in stored], RECIPES["4bit"])


def test_output_files_follow_the_source_s() -> None:
    shards = split_into_shards(*vision(("b", 1), ("b", 2), ("a", 3)))
    assert [(shard.name, *shard.sources, len(shard.entries)) for shard in shards] == [
        ("model-00001-of-00002.safetensors", "b", 2),
        ("model-00002-of-00002.safetensors", "a", 1),
    ]
    assert [shard.source_bytes for shard in shards] == [12, 12]


def test_a_file_is_full_at_the_limit_and_a_tensor_is_never_split() -> None:
    shards = split_into_shards(*vision(("a", 3), ("a", 2), ("a", 1), ("a", 9), ("a", 1)), limit=10)
    assert [[stored.tensor.shape[0] for stored, _ in shard.entries] for shard in shards] == [[3, 2], [1], [9], [1]]


def test_one_file_has_the_name_of_one() -> None:
    (shard,) = split_into_shards(*vision(("model-00001-of-00001.safetensors", 4)))
    assert shard.name == "model.safetensors"


def test_the_index_names_every_tensor_and_adds_up() -> None:
    shards = split_into_shards(*vision(("b", 1), ("a", 3)))
    assert weight_index(shards) == {
        "metadata": {"total_size": 8},
        "weight_map": {
            "model.encoder.vision_tower.0": "model-00001-of-00002.safetensors",
            "model.encoder.vision_tower.1": "model-00002-of-00002.safetensors",
        },
    }
