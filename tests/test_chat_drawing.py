"""The chat's drawing: recorded events in, lines of a terminal out."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from draw_picture import CELL, MARGIN, Frames, draw, text_of
from hypothesis import given
from hypothesis import strategies as st
from recorded_events import Recording
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mlx_diffusion.channels import TextPart
from mlx_diffusion.cli.chat import palette
from mlx_diffusion.cli.chat.canvas import DIMMEST, CanvasText
from mlx_diffusion.cli.chat.cells import one_line, printable, wrap
from mlx_diffusion.cli.chat.palette import ATTRIBUTES, DARK, palette_for
from mlx_diffusion.cli.chat.stage import Stage
from mlx_diffusion.cli.chat.views import LARGEST_SHARE, LiveView, Pace, PlainView
from mlx_diffusion.events import Draft, Segment

RECORDING = Recording.read()
ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def plain(line: str) -> str:
    return Text.from_ansi(line).plain


def draft(tokens: Sequence[int], settled: Sequence[bool], entropy: Sequence[float]) -> Draft:
    ids = np.array(tokens, np.int32)
    return Draft(0, 0, ids, ids, np.array(settled), np.array(entropy, np.float32))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def live_view(frames: Frames, decode: CanvasText, clock: Clock, out: StringIO | None = None) -> LiveView:
    console = Console(file=out or StringIO(), width=frames.window[0], force_terminal=True, color_system="standard")
    return LiveView(console, frames, decode, DARK, steps=48, memory_bytes=lambda: 18_000_000_000, clock=clock)


# Text in cells


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 30))
def test_no_line_is_wider_than_the_window_and_no_text_is_lost(text: str, width: int) -> None:
    text = printable(text)
    lines = wrap([(text[:5], 0), (text[5:], 1)], width)
    joined = ["".join(part for part, _ in line) for line in lines]
    assert all(sum(cell_len(character) for character in line) <= width for line in joined)
    if width > 1:
        assert "".join("".join(joined).split()) == "".join(text.split())


def test_words_wide_and_combining_characters_break_where_they_may() -> None:
    def broken(text: str, width: int) -> list[str]:
        return ["".join(part for part, _ in line).rstrip(" ") for line in wrap([(text, 0)], width)]

    assert broken("one two three", 8) == ["one two", "three"]
    assert broken("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert broken("漢字漢字", 5) == ["漢字", "漢字"]
    assert broken("e\N{COMBINING ACUTE ACCENT}e\N{COMBINING ACUTE ACCENT}e", 2) == [
        "e\N{COMBINING ACUTE ACCENT}e\N{COMBINING ACUTE ACCENT}",
        "e",
    ]
    assert broken("a漢b", 1) == ["a", "·", "b"]
    assert broken("a\n\nb", 9) == ["a", "", "b"]


def test_runs_of_one_level_stay_together() -> None:
    assert wrap([("ab", 0), ("cd", 0), (" ef", 2)], 20) == [[("abcd", 0), (" ef", 2)]]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\nc\td\x9b\u202e") == "a\\x1b[2Jb\\x07\nc    d\\u009b\\u202e"
    assert one_line("one\ntwo three", 8) == "one two…"
    assert one_line("one", 8) == "one"
    assert one_line("漢字", 3) == "漢…"
    assert one_line("ab", 1) == "…"


# Steps of a canvas

LETTERS = {
    1: "<eos>",
    2: " a",
    3: "b\n",
    4: "<|channel>",
    5: "<channel|>",
    6: "thought\n",
    7: "\x1b[2J",
    8: "�",
    9: "�",
}


def decode(tokens: Sequence[int]) -> str:
    return "ü" if list(tokens) == [8, 9] else "".join(LETTERS[token] for token in tokens)


def test_levels_follow_entropy() -> None:
    look = CanvasText(decode).look(draft([2] * 6, [True] + [False] * 5, [9, 0, 0.4, 1, 2, 9]))
    assert [level for _, level in look.answer] == [0, 1, 1, 2, 3, 4]
    assert DIMMEST == 4 and len(DARK.levels) == len(ATTRIBUTES.levels) == DIMMEST + 1
    assert look.settled == pytest.approx(1 / 6)


def test_text_ends_where_a_stop_token_has_settled() -> None:
    canvas = CanvasText(decode, stops=[1])
    assert canvas.look(draft([2, 1, 2], [True, True, True], [0] * 3)).answer == [(" a", 0)]
    assert canvas.look(draft([2, 1, 2], [True, False, True], [0, 1, 0])).answer == [(" a", 0), (" a", 0)]


def test_nothing_of_a_draft_is_settled_before_it_is_verified() -> None:
    look = CanvasText(decode, stops=[1], verified=True).look(draft([2, 2, 1, 2], [True] * 4, [0, 2, 0.1, 0]))
    assert look.answer == [(" a", 1), (" a", 3)] and look.settled == 0
    frames, clock = Frames(60, 20), Clock()
    view = live_view(frames, CanvasText(decode, verified=True), clock)
    view.final(Segment(0, (2, 2), "one two"), [TextPart("answer", "one two")])
    clock.now += 1
    view.draft(draft([2] * 3, [True] * 3, [0] * 3), "answer")
    assert plain(frames.frames[-1][-1]) == "step 1/48 · a draft · 2 tokens/s · 18.00 GB"


def test_pieces_of_a_character_are_drawn_together_as_open_as_the_most_open() -> None:
    assert CanvasText(decode).look(draft([8, 9, 2], [True, False, True], [0, 1, 0])).answer == [("ü", 2), (" a", 0)]


def test_thoughts_and_markers_are_no_part_of_the_answer() -> None:
    canvas = CanvasText(decode, {4: "<|channel>", 5: "<channel|>"})
    look = canvas.look(draft([4, 6, 2, 5, 3, 7], [True] * 6, [0] * 6))
    assert look.thought == [(" a", 0)]
    assert look.answer == [("b\n", 0), ("\\x1b[2J", 0)]
    assert canvas.look(draft([2, 5, 3], [True] * 3, [0] * 3), kind="thought").answer == [("b\n", 0)]


@pytest.mark.parametrize("columns", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("rows", [1, 2, 5, 50])
def test_recorded_steps_fit_any_window(columns: int, rows: int) -> None:
    frames, clock = Frames(columns, rows), Clock()
    view = live_view(frames, CanvasText(RECORDING.decode, stops=RECORDING.stops), clock)
    for event in RECORDING.drafts:
        clock.now += 1
        view.draft(event, "answer")
    assert len(frames.frames) == len(RECORDING.drafts) + 1
    for frame in frames.frames:
        assert 1 <= len(frame) <= max(rows - 1, 1)
        assert all(cell_len(plain(line)) <= max(columns - 1, 1) for line in frame)


def test_the_last_step_of_a_canvas_shows_its_text() -> None:
    frames, clock = Frames(200, 50), Clock()
    view = live_view(frames, CanvasText(RECORDING.decode, stops=RECORDING.stops), clock)
    first = next(event for event in RECORDING.events if isinstance(event, Segment))
    last = [event for event in RECORDING.drafts if event.block == 0][-1]
    clock.now += 1
    view.draft(last, "answer")
    clock.now += 1
    view.draft(last, "answer")
    *text, status = map(plain, frames.frames[-1])
    assert " ".join(text).split() == first.text.split()
    assert f"step {last.step + 1}/48" in status and "100% settled" in status
    assert "64 tokens/s" in status and "18.00 GB" in status


def test_in_a_small_window_the_first_open_line_is_seen() -> None:
    frames, clock = Frames(11, 5), Clock()
    view = live_view(frames, CanvasText(decode), clock)
    clock.now += 1
    view.draft(draft([3] * 20 + [2] + [3] * 20, [True] * 20 + [False] + [True] * 20, [0] * 41), "answer")
    assert any("a" in line for line in frames.frames[-1][:-1]) and len(frames.frames[-1]) == 4


def test_final_text_leaves_the_canvas_block_by_block() -> None:
    frames, clock, out = Frames(60, 20), Clock(), StringIO()
    view = live_view(frames, CanvasText(decode), clock, out)
    view.final(
        Segment(0, (2, 2), "x"), [TextPart("thought", "let me see"), TextPart("answer", "One *two*.\n\n```py\nx = 1\n")]
    )
    assert "One" in plain(out.getvalue()) and "thought, 3 words: let me see" in out.getvalue()
    assert "x = 1" not in plain(out.getvalue())
    clock.now += 1
    view.draft(draft([2], [True], [0]), "answer")
    assert "x = 1" in "\n".join(map(plain, frames.frames[-1]))
    view.final(Segment(1, (2,), "x"), [TextPart("answer", "y = 2\n```\n")])
    view.close()
    text = plain(out.getvalue())
    assert text.endswith("One *two*.\n\n```py\nx = 1\ny = 2\n```\n")
    assert "let me see" not in text.split("One")[1]


def test_text_without_drafts_is_drawn_as_it_comes() -> None:
    frames, clock = Frames(60, 20), Clock()
    view = live_view(frames, CanvasText(decode), clock)
    for word in ("one", " two", " three"):
        clock.now += 1
        view.final(Segment(0, (2,), word), [TextPart("answer", word)])
    *text, status = map(plain, frames.frames[-1])
    assert text == ["one two three"] and status == "3 tokens · 2 tokens/s · 18.00 GB"


def test_a_thought_that_is_being_written_is_one_word_of_the_status() -> None:
    frames, clock = Frames(60, 20), Clock()
    view = live_view(frames, CanvasText(decode, {4: "<|channel>"}), clock)
    clock.now += 1
    view.draft(draft([4, 6, 2], [True] * 3, [0] * 3), "answer")
    (status,) = map(plain, frames.frames[-1])
    assert status.startswith("thinking · step 1/48")


def test_drawing_takes_no_more_than_its_share() -> None:
    """Steps of 20 ms, drawings of 5 ms: not every step can be drawn."""
    clock = Clock()
    pace, drawings = Pace(clock), 0
    for _ in range(2000):
        clock.now += 0.02
        if pace.due():
            started, drawings = clock.now, drawings + 1
            clock.now += 0.005
            pace.drew(started)
    assert pace.spent == pytest.approx(0.005 * drawings) and drawings > 100
    assert pace.spent <= LARGEST_SHARE * (clock.now - 100) + 0.005 and LARGEST_SHARE < 0.03


# Colours


def test_palettes_use_what_the_terminal_has() -> None:
    assert palette_for("standard", {}) is ATTRIBUTES
    assert palette_for(None, {}) is ATTRIBUTES
    assert palette_for("truecolor", {"NO_COLOR": "1"}) is ATTRIBUTES
    assert palette_for("256", {}) is palette.EITHER
    assert palette_for("256", {"COLORFGBG": "15;0"}) is DARK
    assert palette_for("truecolor", {"COLORFGBG": "0;default;15"}) is palette.LIGHT
    assert ATTRIBUTES.paint([("ab 漢", DIMMEST)]) == "\x1b[2m·· ··\x1b[0m"
    assert DARK.paint([("ab", 0), ("c", 1)]) == "ab\x1b[38;5;248mc\x1b[0m"
    for each in (ATTRIBUTES, palette.EITHER, DARK, palette.LIGHT):
        assert each.levels[0] == "" and not any(level.startswith("4") for level in each.levels)
    assert all("38" not in level and "9" not in level for level in ATTRIBUTES.levels)


# The terminal


def test_the_stage_rests_where_it_began() -> None:
    out = StringIO()
    stage = Stage(out)
    stage.clear()
    assert out.getvalue() == ""
    stage.draw(["one", "two", "three"])
    body = out.getvalue()
    assert body.count("\n") == 2 and body.index("three") < body.index("\r\x1b[2A")
    stage.clear()
    assert out.getvalue().endswith("\r\x1b[J\x1b[?25h")
    assert stage.size() == (80, 24)


def test_plain_text_is_the_answer_alone() -> None:
    out = StringIO()
    view = PlainView(out)
    view.draft(RECORDING.drafts[0], "answer")
    view.final(Segment(0, (), ""), [TextPart("thought", "hm"), TextPart("answer", "\n\nyes\x1b")])
    view.final(Segment(1, (), ""), [TextPart("answer", " no")])
    view.close()
    assert out.getvalue() == "yes\x1b no\n"


def test_the_picture_shows_every_step_in_its_time_and_the_whole_text_without_animation(tmp_path: Path) -> None:
    draw(tmp_path / "canvas.svg")
    picture = (tmp_path / "canvas.svg").read_text(encoding="utf-8")
    assert picture == (ROOT / "docs" / "canvas.svg").read_text(encoding="utf-8"), "run: make picture"
    root = ElementTree.fromstring(picture)
    frames = [group for group in root.iter(f"{SVG}g") if group.get("class") == "frame"]
    assert len(frames) == len(RECORDING.drafts)
    assert [group.get("visibility") for group in frames] == ["hidden"] * (len(frames) - 1) + [None]
    whole = " ".join("".join(line.itertext()) for line in list(frames[-1])[:-1]).replace("\N{NO-BREAK SPACE}", " ")
    assert " ".join(whole.split()) == RECORDING.text.removesuffix("<turn|>").strip()
    assert " " not in "".join("".join(line.itertext()) for line in root.iter(f"{SVG}text")), "it would collapse"


def test_a_run_of_the_picture_stands_at_its_column() -> None:
    line = ElementTree.fromstring(text_of("  a  \x1b[38;5;240m <b>\x1b[0m", 0))
    runs = [(run.text, run.get("x"), run.get("fill")) for run in line]
    assert runs == [
        ("\u00a0\u00a0a\u00a0\u00a0", f"{MARGIN:.1f}", None),
        ("\u00a0<b>", f"{MARGIN + 5 * CELL:.1f}", "#585858"),
    ]
