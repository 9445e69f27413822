"""Whether a wheel holds the package's files, all of them and nothing else.

python .ci/check_wheel.py dist/mlx_diffusion-*.whl
"""

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
FOLDERS = {"mlx_diffusion": "mlx_diffusion", "cli": "mlx_diffusion/cli", "convert": "mlx_diffusion/convert"}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "LICENSE"}


def expected() -> set[str]:
    """The files of the folders under their names in the package; links to folders are not followed."""
    found = set()
    for folder, package in FOLDERS.items():
        for file in (ROOT / folder).rglob("*"):
            inside = file.relative_to(ROOT / folder)
            linked = folder == "mlx_diffusion" and inside.parts[0] in FOLDERS
            if file.is_file() and not linked and "__pycache__" not in inside.parts:
                found.add(f"{package}/{inside.as_posix()}")
    return found


def main(wheel: str) -> None:
    names = [name for name in ZipFile(wheel).namelist() if not name.endswith("/")]
    package = {name for name in names if ".dist-info/" not in name}
    metadata = {name.rsplit("/", 1)[1] for name in names} - {name.rsplit("/", 1)[-1] for name in package}
    problems = [f"missing: {name}" for name in sorted(expected() - package)]
    problems += [f"not of the package: {name}" for name in sorted(package - expected())]
    problems += [f"missing from the metadata: {name}" for name in sorted(METADATA - metadata)]
    if len(names) != len(set(names)):
        problems.append("a file is there twice")
    if problems:
        sys.exit("\n".join([wheel, *problems]))
    print(f"{wheel}: {len(package)} files, all of the package and no other")


if __name__ == "__main__":
    main(*sys.argv[1:])
