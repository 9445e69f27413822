"""Masks worked out by hand; # is seen, . is not."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffusion.network.masks import encoder_mask, encoder_masks, first_prefix_position, prefix_mask, real_positions


def picture(mask: object) -> list[str]:
    array = np.asarray(mask)
    return ["".join("#" if seen else "." for seen in row) for row in array.reshape(-1, array.shape[-1])]


def pads(*counts: int) -> mx.array:
    return mx.array(counts, dtype=mx.int32)


def test_sliding_layers_see_the_last_window_positions_themselves_included() -> None:
    assert picture(encoder_mask(range(0, 5), range(0, 5), window=3, left_padding=None)) == [
        "#....",
        "##...",
        "###..",
        ".###.",
        "..###",
    ]


def test_a_chunk_behind_a_cache_sees_window_less_one_before_itself() -> None:
    """Positions 0 to 4 were encoded, window 3: the cache holds 3 and 4, the chunk is 5 and 6."""
    assert first_prefix_position(5, window=3) == 3
    assert picture(encoder_mask(range(5, 7), range(3, 7), window=3, left_padding=None)) == ["###.", ".###"]


def test_masks_that_are_plainly_causal_are_not_built() -> None:
    assert encoder_mask(range(0, 9), range(0, 9), window=None, left_padding=None) == "causal"
    assert encoder_mask(range(4, 9), range(0, 9), window=None, left_padding=None) == "causal"
    assert encoder_mask(range(0, 3), range(0, 3), window=3, left_padding=None) == "causal"
    assert encoder_mask(range(2, 3), range(0, 3), window=3, left_padding=None) is None
    assert encoder_mask(range(0, 4), range(0, 4), window=3, left_padding=None) != "causal"


def test_pads_are_seen_by_themselves_alone() -> None:
    mask = encoder_mask(range(0, 4), range(0, 4), window=None, left_padding=pads(0, 2))
    assert np.asarray(mask).shape == (2, 1, 4, 4)
    assert picture(mask) == ["#...", "##..", "###.", "####", "#...", ".#..", "..#.", "..##"]


def test_padding_and_window_together() -> None:
    assert picture(encoder_mask(range(0, 5), range(0, 5), window=2, left_padding=pads(1))) == [
        "#....",
        ".#...",
        ".##..",
        "..##.",
        "...##",
    ]


def test_a_window_of_one_sees_itself() -> None:
    assert picture(encoder_mask(range(0, 3), range(0, 3), window=1, left_padding=None)) == ["#..", ".#.", "..#"]
    assert first_prefix_position(3, window=1) == 3


def test_keys_before_all_queries_need_no_mask() -> None:
    assert encoder_mask(range(4, 6), range(0, 4), window=None, left_padding=None) is None
    assert encoder_mask(range(4, 6), range(2, 4), window=4, left_padding=None) is None
    assert picture(encoder_mask(range(4, 6), range(1, 4), window=4, left_padding=None)) == ["###", ".##"]
    assert picture(encoder_mask(range(4, 6), range(0, 4), window=None, left_padding=pads(2))) == ["..##", "..##"]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 99])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("padding", [None, (0, 5)])
def test_parts_of_a_mask_are_the_mask(width: int, window: int | None, padding: tuple[int, ...] | None) -> None:
    left_padding = None if padding is None else pads(*padding)
    whole = encoder_mask(range(6, 10), range(3, 10), window, left_padding)
    shape = (1 if padding is None else 2, 1, 4, 7)
    if isinstance(whole, str):
        whole = mx.tri(4, 7, 3) > 0
    parts = encoder_masks(range(6, 10), 3, window, left_padding, width)
    assert all(own.stop - own.start <= width for own, _ in parts)
    seen = np.zeros(shape, bool)
    for own, mask in parts:
        if isinstance(mask, str):
            mask = mx.tri(4, own.stop - own.start, own.stop - own.start - 4) > 0
        seen[..., own] = True if mask is None else np.asarray(mask)
    assert (seen == np.broadcast_to(np.asarray(whole), shape)).all()


def test_the_canvas_sees_what_is_held_and_no_pads() -> None:
    """Room for 6, positions 2, 3, 4 are held; the third row is padded as far as its last prefix position."""
    mask = prefix_mask(6, 3, 2, pads(0, 3, 4))
    assert np.asarray(mask).shape == (3, 1, 1, 6)
    assert picture(mask) == ["###...", ".##...", "..#..."]


def test_first_prefix_position() -> None:
    assert [first_prefix_position(end, 4) for end in range(6)] == [0, 0, 0, 0, 1, 2]
    assert first_prefix_position(9, None) == 0


def test_real_positions() -> None:
    assert picture(real_positions(1, 4, pads(0, 2, 9))) == ["###", ".##", "..."]
