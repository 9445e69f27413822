"""Loading from the Hub, with the real huggingface_hub: what is refused before weights come, what is never fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import config_dict, contents, write_source
from fake_hub import FakeHub, Repo
from foreign_layouts import write_layout

from mlx_diffusion.convert import convert

# Every argument is a name to load, to open alone where it ends with a star, or a file to remove first.
PROGRAM = """
import json, sys
from pathlib import Path
from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.loading import load
for word in sys.argv[1:]:
    name = word.removesuffix("*")
    if name.startswith("/"):
        Path(name).unlink()
        continue
    try:
        load(name) if name == word else Checkpoint.open(find_folder(name))
        shards = open_source(name).shards()
        print(json.dumps(["loaded", *shards]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""
UNNEEDED = "preprocessor_config.json"
COPIES = [
    "original/model.safetensors",
    "consolidated.safetensors",
    "onnx/model.onnx",
    "x.gguf",
    "pytorch_model.bin",
    UNNEEDED,
]


@dataclass(frozen=True)
class Desk:
    folder: Path
    hub: FakeHub

    def ask(self, *names: str, **more: str) -> list[list[str]]:
        return [json.loads(line) for line in self.run(PROGRAM, *names, **more).splitlines()]

    def run(self, program: str, *arguments: str, **more: str) -> str:
        cleared = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"}
        kept = {name: value for name, value in os.environ.items() if name not in cleared}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, timeout=120,
            env=kept | {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "home")} | more,
        )  # fmt: skip
        return done.stdout

    def sent(self, name: str) -> dict[str, int]:
        """Bytes of each weight file of a repository that went out."""
        files = {key.removeprefix(f"{name}/"): nbytes for key, nbytes in self.hub.sent.items() if key.startswith(name)}
        return {file: nbytes for file, nbytes in files.items() if nbytes and file not in SMALL}


SMALL = {
    "config.json", "model.safetensors.index.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", UNNEEDED,
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("downloads")
    source = write_source(folder / "source")
    whole = Repo.of(source)
    other = json.dumps(config_dict() | {"model_type": "gemma4"}).encode()
    gptq = json.dumps(config_dict() | {"quantization_config": {"quant_method": "gptq"}}).encode()
    repos = {
        "toy/copies": replace(whole, files=whole.files | dict.fromkeys(COPIES, b"{}")),
        "toy/fp8": Repo.of(write_layout(source, folder / "fp8", "fp8", shards=2)),
        "toy/bare": Repo.of(write_layout(source, folder / "bare", "fp8", bare=True)),
        "toy/nvfp4": Repo.of(write_layout(source, folder / "nvfp4", "modelopt")),
        "toy/other": replace(whole, files=whole.files | {"config.json": other}),
        "toy/gptq": replace(whole, files=whole.files | {"config.json": gptq}),
        "toy/early": replace(whole, files=whole.files | {"generation_config.json": b'{"t_min": 0.8, "t_max": 0.4}'}),
        "toy/empty": Repo({"README.md": b"x"}),
        "toy/gguf": Repo({"README.md": b"x", "toy-Q4_K.gguf": b"GGUF" + bytes(4000)}),
    }
    with FakeHub(repos).running() as hub:
        yield Desk(folder, hub)


def test_what_cannot_be_loaded_is_refused_before_its_weights_come(desk: Desk) -> None:
    answers = desk.ask("toy/fp8", "toy/bare", "toy/other", "toy/gptq", "toy/empty", "toy/gguf", "toy/early")
    for answer, name in zip(answers, ("toy/fp8", "toy/bare"), strict=False):
        assert answer[0] == "CheckpointError" and f"{name} is in FP8" in answer[1]
        assert f"mlx-diffusion convert {name} OUTPUT --recipe 8bit" in answer[1]
        weights = {file: content for file, content in desk.hub.repos[name].files.items() if ".safetensors" in file}
        lengths = {file: 8 + int.from_bytes(weights[file][:8], "little") for file in weights if "index" not in file}
        assert desk.sent(name) == lengths
        asked = [line for line in desk.hub.asked if name in line and ".safetensors" in line and "index" not in line]
        assert all(line.startswith("GET") for line in asked)  # a download begins with HEAD
    assert (
        "model_type is 'gemma4'" in answers[2][1] and "of gptq" in answers[3][1] and "no config.json" in answers[4][1]
    )
    assert "toy/gguf holds toy-Q4_K.gguf" in answers[5][1] and "convert toy-Q4_K.gguf OUTPUT" in answers[5][1]
    assert "generation_config.json: t_max is 0.4 and t_min is 0.8" in answers[6][1]
    early = desk.hub.repos["toy/early"].files
    assert all(nbytes < len(early[file]) for file, nbytes in desk.sent("toy/early").items())  # their heads alone
    assert not desk.sent("toy/other") and not desk.sent("toy/gptq") and not desk.sent("toy/gguf").get("toy-Q4_K.gguf")


def test_only_what_is_needed_is_fetched_and_serves_offline(desk: Desk) -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    expected = [["loaded", *shards], ["loaded", "model.safetensors"]]
    assert desk.ask("toy/copies", "toy/nvfp4*") == expected
    assert sorted(desk.sent("toy/copies")) == shards
    (cached,) = (desk.folder / "home" / "hub" / "models--toy--copies" / "snapshots").iterdir()
    another_s, lost = str(cached / UNNEEDED), str(cached / shards[1])  # as if another program had fetched the rest
    *found, (kind, line) = desk.ask(
        "toy/copies", "toy/nvfp4*", another_s, "toy/copies", lost, "toy/copies", HF_HUB_OFFLINE="1"
    )
    assert found == [*expected, expected[0]]
    assert kind == "CheckpointError" and "toy/copies: not in the Hub's cache" in line


def test_experts_in_two_files_are_streamed(desk: Desk, tmp_path: Path) -> None:
    """The output is that of the folder, and no third file of the source is there at any time."""
    program = """
import sys
from pathlib import Path
from mlx_diffusion.convert import convert
target, most = Path(sys.argv[1]), 0

def look(progress):
    global most
    held = [file for file in (target / ".downloads").glob("*.safetensors")]
    most = max(most, len(held))

convert("toy/fp8-in-four", target, "nvfp4", stream=True, report=look)
print(most)
"""
    source = write_layout(desk.folder / "source", tmp_path / "source", "fp8", shards=4)
    desk.hub.repos["toy/fp8-in-four"] = Repo.of(source)
    done = desk.run(program, str(tmp_path / "streamed"))
    assert done == "2\n"
    convert(source, tmp_path / "local", "nvfp4")
    streamed, local = contents(tmp_path / "streamed"), contents(tmp_path / "local")
    weights = [name for name in local if name.endswith(".safetensors")]
    assert streamed.keys() == local.keys() and len(weights) > 4
    assert all(streamed[name] == local[name] for name in weights)
