"""Masks and blocks worked out by hand; # is seen, . is not."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.network import masks
from mlx_diffusion.network.masks import Mask, blocks, causal_mask, first_seen


def picture(mask: object) -> list[str]:
    array = np.asarray(mask)
    return ["".join("#" if seen else "." for seen in row) for row in array.reshape(-1, array.shape[-1])]


def test_sliding_layers_see_the_last_window_positions_themselves_included() -> None:
    assert picture(causal_mask(range(0, 5), range(0, 5), window=3)) == ["#....", "##...", "###..", ".###.", "..###"]


def test_a_chunk_behind_a_cache_sees_window_less_one_before_itself() -> None:
    """Positions 0 to 4 were encoded, window 3: 3 and 4 can be seen, the chunk is 5 and 6."""
    assert first_seen(5, window=3) == 3
    assert picture(causal_mask(range(5, 7), range(3, 7), window=3)) == ["###.", ".###"]


def test_masks_that_are_plainly_causal_are_not_built() -> None:
    assert causal_mask(range(0, 9), range(0, 9), window=None) == "causal"
    assert causal_mask(range(4, 9), range(0, 9), window=None) == "causal"
    assert causal_mask(range(0, 3), range(0, 3), window=3) == "causal"
    assert causal_mask(range(2, 3), range(0, 3), window=3) is None
    assert causal_mask(range(0, 4), range(0, 4), window=3) != "causal"


def test_a_window_of_one_sees_itself() -> None:
    assert picture(causal_mask(range(0, 3), range(0, 3), window=1)) == ["#..", ".#.", "..#"]
    assert first_seen(3, window=1) == 3


def test_keys_before_all_queries_need_no_mask() -> None:
    assert causal_mask(range(4, 6), range(0, 4), window=None) is None
    assert causal_mask(range(4, 6), range(2, 4), window=4) is None
    assert picture(causal_mask(range(4, 6), range(1, 4), window=4)) == ["###", ".##"]


def test_first_seen() -> None:
    assert [first_seen(end, 4) for end in range(6)] == [0, 0, 0, 0, 1, 2]
    assert first_seen(9, None) == 0


def as_array(mask: Mask, queries: int, keys: int) -> np.ndarray:
    if isinstance(mask, str):
        return np.tri(queries, keys, keys - queries, dtype=bool)
    return np.ones((queries, keys), bool) if mask is None else np.array(mx.broadcast_to(mask, (queries, keys)))


@given(
    before=st.integers(0, 9),
    count=st.integers(1, 20),
    window=st.sampled_from([None, 1, 2, 5, 9]),
    size=st.integers(1, 7),
    most=st.integers(1, 9),
)
@settings(deadline=None, max_examples=150)
def test_blocks_see_every_pair_that_counts_and_no_other(
    before: int, count: int, window: int | None, size: int, most: int
) -> None:
    before = before if window is None else min(before, window - 1)  # what a cache holds
    seen = np.zeros((count, before + count), bool)
    looked_at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "QUERIES", size)
        patch.setattr(masks, "LEAST_QUERIES", 1)
        for block in blocks(before, count, window, most):
            for keys, mask in block.parts:
                assert keys.stop - keys.start <= most
                shape = block.queries.stop - block.queries.start, keys.stop - keys.start
                seen[block.queries, keys] |= as_array(mask, *shape)
                looked_at += shape[0] * shape[1]
    query, key = np.arange(before, before + count)[:, None], np.arange(before + count)[None]
    wanted = (key <= query) if window is None else (key <= query) & (key > query - window)
    assert (seen == wanted).all()
    widest = size - 1 + (before + count if window is None else window)
    assert looked_at <= count * widest, "keys that no query of a block sees are left out"
