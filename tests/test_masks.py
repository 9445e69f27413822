"""Masks worked out by hand; # is seen, . is not."""

import mlx.core as mx
import numpy as np

from mlx_diffusion.masks import decoder_mask, encoder_mask, first_prefix_position, real_positions


def picture(mask: object) -> list[str]:
    array = np.asarray(mask)
    return ["".join("#" if seen else "." for seen in row) for row in array.reshape(-1, array.shape[-1])]


def pads(*counts: int) -> mx.array:
    return mx.array(counts, dtype=mx.int32)


def test_sliding_layers_see_the_last_window_positions_themselves_included() -> None:
    assert picture(encoder_mask(0, 0, 5, window=3, left_padding=None)) == [
        "#....",
        "##...",
        "###..",
        ".###.",
        "..###",
    ]


def test_a_chunk_behind_a_cache_sees_window_less_one_before_itself() -> None:
    """Positions 0 to 4 were encoded, window 3: the cache holds 3 and 4, the chunk is 5 and 6."""
    assert first_prefix_position(5, window=3) == 3
    assert picture(encoder_mask(3, 5, 7, window=3, left_padding=None)) == ["###.", ".###"]


def test_masks_that_are_plainly_causal_are_not_built() -> None:
    assert encoder_mask(0, 0, 9, window=None, left_padding=None) == "causal"
    assert encoder_mask(0, 4, 9, window=None, left_padding=None) == "causal"
    assert encoder_mask(0, 0, 3, window=3, left_padding=None) == "causal"
    assert encoder_mask(0, 2, 3, window=3, left_padding=None) == "causal"
    assert encoder_mask(0, 0, 4, window=3, left_padding=None) != "causal"


def test_pads_are_seen_by_themselves_alone() -> None:
    mask = encoder_mask(0, 0, 4, window=None, left_padding=pads(0, 2))
    assert np.asarray(mask).shape == (2, 1, 4, 4)
    assert picture(mask) == ["#...", "##..", "###.", "####", "#...", ".#..", "..#.", "..##"]


def test_padding_and_window_together() -> None:
    assert picture(encoder_mask(0, 0, 5, window=2, left_padding=pads(1))) == [
        "#....",
        ".#...",
        ".##..",
        "..##.",
        "...##",
    ]


def test_a_window_of_one_sees_itself() -> None:
    assert picture(encoder_mask(0, 0, 3, window=1, left_padding=None)) == ["#..", ".#.", "..#"]
    assert first_prefix_position(3, window=1) == 3


def test_the_canvas_sees_all_of_itself_and_of_what_is_held() -> None:
    assert decoder_mask(2, 5, 3, left_padding=None) is None


def test_the_canvas_sees_no_pads() -> None:
    """Keys 2, 3, 4 are prefix, 5 and 6 the canvas; the third row is padded as far as its last prefix position."""
    mask = decoder_mask(2, 5, 2, left_padding=pads(0, 3, 4))
    assert np.asarray(mask).shape == (3, 1, 1, 5)
    assert picture(mask) == ["#####", ".####", "..###"]


def test_first_prefix_position() -> None:
    assert [first_prefix_position(end, 4) for end in range(6)] == [0, 0, 0, 0, 1, 2]
    assert first_prefix_position(9, None) == 0


def test_real_positions() -> None:
    assert picture(real_positions(1, 4, pads(0, 2, 9))) == ["###", ".##", "..."]
