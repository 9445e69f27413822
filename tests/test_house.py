"""The drawing of the house is that of the code: every module and no other, in its own words, imports running down."""

import re
import xml.etree.ElementTree as ElementTree

import draw_house
import pytest
from house import MODULES, ROOT, Room, floors, inner_imports, level, room_of, rooms, sentence, stairs

SVG = "{http://www.w3.org/2000/svg}"


def test_the_page_and_the_picture_are_those_of_the_code() -> None:
    assert not draw_house.stale(), f"they differ from the code; run: {draw_house.MAKE}"


def test_every_module_is_listed_once_and_none_that_is_gone() -> None:
    listed = re.findall(r"^\| \[`[\w.]+`\]\(\.\./([\w./]+)\) \|", draw_house.PAGE.read_text("utf-8"), re.MULTILINE)
    there = [MODULES[name].relative_to(ROOT).as_posix() for name in MODULES if not name.endswith(".__init__")]
    assert sorted(listed) == sorted(there), f"run: {draw_house.MAKE}"


def test_every_module_says_what_it_is_in_one_sentence() -> None:
    said = {name: sentence(name) for name in MODULES}
    assert not {name: text for name, text in said.items() if not re.fullmatch(r"\S.{8,118}[.?]", text)}
    assert not {name: text for name, text in said.items() if re.match(r"(What|How|Whether|Which|Where|Who)\b", text)}


def test_within_a_folder_modules_import_from_those_below() -> None:
    for room in rooms().values():
        for listed in room.folders.values():
            for place, name in enumerate(listed):
                assert not inner_imports(name) & set(listed[:place]), f"{name} imports from above itself"


def test_arrows_lead_down() -> None:
    found = rooms()
    storey = {room.name: index for index, rooms_there in enumerate(floors(found)) for room in rooms_there}
    assert stairs(found)
    assert all(storey[upper] < storey[lower] for upper, lower in stairs(found))
    drawn = ElementTree.fromstring(draw_house.picture())
    arrows = [path.attrib["d"] for path in drawn.iter(f"{SVG}path") if path.attrib["class"] == "stair"]
    assert len(arrows) == len(stairs(found))
    for path in arrows:
        heights = [float(point.split(",")[1]) for point in path.removeprefix("M").split(" L")]
        assert heights == sorted(heights) and heights[0] < heights[-1]


def test_every_import_between_rooms_is_an_arrow_or_follows_from_some() -> None:
    found = rooms()
    reached = {room.name: {lower for upper, lower in stairs(found) if upper == room.name} for room in found.values()}
    for storey in reversed(floors(found)):
        for room in storey:
            reached[room.name] |= {deeper for lower in reached[room.name] for deeper in reached[lower]}
    for name in MODULES:
        for imported in inner_imports(name):
            assert room_of(imported) in reached[room_of(name)] | {room_of(name)}, f"{name} imports {imported}"
            assert level(imported) < level(name)


def test_imports_that_go_round_have_no_floors() -> None:
    there, back = Room("a", "", {"a/": []}, frozenset("b")), Room("b", "", {"b/": []}, frozenset("a"))
    with pytest.raises(ValueError, match="a -> b -> a"):
        floors({"a": there, "b": back})
