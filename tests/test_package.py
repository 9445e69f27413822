"""The package as it is installed: public names, folders that are mapped, what the wheel holds."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mlx_diffusion

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def python(*argv: str, cwd: Path, path: Path | None = None) -> str:
    environment = {"PYTHONPATH": str(path)} if path else None
    done = subprocess.run([sys.executable, *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def folder_of(package: str) -> Path:
    """Where a package's files lie in the repository."""
    mapped = SETUPTOOLS["package-dir"]
    return ROOT / mapped.get(package, package.replace(".", "/"))


def test_public_names_are_there() -> None:
    assert all(getattr(mlx_diffusion, name) is not None for name in mlx_diffusion.__all__)
    assert set(mlx_diffusion.__all__) <= set(dir(mlx_diffusion))
    assert {"load", "generate", "stream_generate", "GenerationConfig"} <= set(mlx_diffusion.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'infil'"):
        _ = mlx_diffusion.infil


@pytest.mark.parametrize("cwd", ["root", "elsewhere"])
def test_mapped_packages_are_found_wherever_python_is_started(cwd: str, tmp_path: Path) -> None:
    probe = "import mlx_diffusion, mlx_diffusion.cli.main, mlx_diffusion.convert; print('found')"
    assert python("-c", probe, cwd=ROOT if cwd == "root" else tmp_path) == "found\n"


def test_an_installed_wheel_supplies_them_in_the_repository_s_root(tmp_path: Path) -> None:
    for package in SETUPTOOLS["packages"]:
        target = tmp_path / package.replace(".", "/")
        shutil.copytree(folder_of(package), target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("demo"))
    # -S leaves out site-packages, and with it any editable install; the copy stands for a wheel's files.
    probe = "import mlx_diffusion, mlx_diffusion.convert as c; print(mlx_diffusion.__file__); print(c.__file__)"
    package, convert = python("-S", "-c", probe, cwd=ROOT, path=tmp_path).split()
    assert Path(package).is_relative_to(ROOT) and Path(convert).is_relative_to(tmp_path)


def test_every_package_of_the_repository_is_installed_and_no_other() -> None:
    tops = {"mlx_diffusion": ROOT / "mlx_diffusion", "mlx_diffusion.cli": ROOT / "cli"}
    tops["mlx_diffusion.convert"] = ROOT / "convert"
    found = set()
    for name, top in tops.items():
        for init in top.rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(top).parts]))
    assert found == set(SETUPTOOLS["packages"])
    assert (ROOT / "mlx_diffusion" / "py.typed").is_file()
