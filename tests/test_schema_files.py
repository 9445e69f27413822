"""Schemas from files: every line is read or named, and what is refused, invalid and valid is told apart."""

import gzip
import json
from pathlib import Path

import pytest
from conftest import write_shallow

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import main
from mlx_diffusion.measure.known import schemas as schemas_module
from mlx_diffusion.measure.known.schemas import read_schemas

SCHEMAS = [
    {"type": "boolean"},
    '{"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2}',
    {"not": {"type": "string"}},  # is not supported
    {"type": "array", "items": {"const": "a"}, "minItems": 200, "maxItems": 200},  # has no text short enough
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = [json.dumps({"json_schema": schema, "unique_id": number}) for number, schema in enumerate(SCHEMAS)]
    file = tmp_path / "schemas.jsonl"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def run(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[int, int]]:
    """Each way's valid texts and all, of a checkpoint that writes what it must in few steps."""
    folder = file.with_name("checkpoint")
    if not folder.exists():
        write_shallow(DEMO_FOLDER, folder, 16, max_denoising_steps=2)
    assert main(["eval", "--model", str(folder), "--suite", f"schema:{file}", "--json"]) == 0
    return {way["way"]: (way["right"], way["count"]) for way in json.loads(capsys.readouterr().out)["ways"]}


def test_valid_texts_are_counted_of_all_schemas_and_of_the_supported(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jsonschema")
    monkeypatch.setattr(schemas_module, "MOST_TOKENS", 32)
    of_all, of_supported = (2, 4), (2, 2)
    ways = ("denoised", "token by token")
    wanted = {f"{way}, of all": of_all for way in ways} | {f"{way}, of those supported": of_supported for way in ways}
    assert run(file, capsys) == wanted

    class Strict:
        def __init__(self, schema: object) -> None:
            self.schema = schema

        def is_valid(self, value: object) -> bool:
            if self.schema == {"type": "boolean"}:
                raise RecursionError
            return False

    monkeypatch.setattr(schemas_module, "_validator", lambda: Strict)
    found = run(file, capsys)
    assert found["denoised, of all"] == (0, 3) and found["denoised, of those supported"] == (0, 1)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "has no schemas"),
        ("\n{", "line 2: no JSON"),
        ("{}", "line 1: write json_schema"),
        ('{"json_schema": "{"}', "line 1: json_schema is no JSON"),
        ('{"json_schema": "3"}', "line 1: write json_schema"),
    ],
)
def test_lines_that_hold_no_schema_are_named(line: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "schemas.jsonl"
    file.write_text(line)
    with pytest.raises(Exception, match=named):
        read_schemas(file)


def test_the_package_that_judges_is_named_where_it_is_missing(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("mlx_diffusion.measure.known.schemas.importlib.import_module", missing)
    assert main(["eval", "--suite", f"schema:{file}"]) == 2
    assert "pip install jsonschema" in capsys.readouterr().err
