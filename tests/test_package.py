"""The package as it is installed: public names, folders that are mapped, what the wheel holds."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import mlx_diffusion
from mlx_diffusion import convert, measure

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def python(*argv: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("package", [mlx_diffusion, convert, measure])
def test_public_names_are_there(package: ModuleType) -> None:
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))


def test_users_find_what_they_look_for() -> None:
    assert {"load", "generate", "stream_generate", "GenerationConfig"} <= set(mlx_diffusion.__all__)


def test_completion_shows_what_is_public() -> None:
    for package in (mlx_diffusion, convert, measure):
        assert {name for name in dir(package) if not name.startswith("__")} == set(package.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'infil'"):
        _ = mlx_diffusion.infil


@pytest.mark.parametrize("cwd", ["root", "elsewhere"])
def test_mapped_packages_are_found_wherever_python_is_started(cwd: str, tmp_path: Path) -> None:
    probe = "import mlx_diffusion, mlx_diffusion.cli.main, mlx_diffusion.convert; print('found')"
    assert python("-c", probe, cwd=ROOT if cwd == "root" else tmp_path) == "found\n"


def test_the_package_run_as_a_program_is_the_command(tmp_path: Path) -> None:
    for argv, code in ((["--version"], 0), (["generate", "--max-tokens", "0", "a"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "mlx_diffusion", *argv], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == code and (done.stdout or done.stderr).startswith("mlx-diffusion"), done.stderr


def test_heavy_packages_are_imported_when_they_are_needed(tmp_path: Path) -> None:
    heavy = "transformers mlx_lm rich pygments prompt_toolkit matplotlib huggingface_hub.errors".split()
    probe = (
        "import sys, mlx_diffusion.loading, mlx_diffusion.cli.main as command\n"
        "code = command.main(['generate', 'Copy: fig oak ant'])\n"
        f"print(code, sorted(set({heavy}) & set(sys.modules)))"
    )
    assert python("-c", probe, cwd=tmp_path) == "fig oak ant\n0 []\n"


def test_every_package_of_the_repository_is_installed_and_no_other() -> None:
    tops = {"mlx_diffusion": ROOT / "mlx_diffusion", "mlx_diffusion.cli": ROOT / "cli"}
    tops["mlx_diffusion.convert"] = ROOT / "convert"
    found = {"mlx_diffusion.demo"}  # files without code
    for name, top in tops.items():
        for init in top.rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(top).parts]))
    assert found == set(SETUPTOOLS["packages"])
    assert (ROOT / "mlx_diffusion" / "py.typed").is_file()
