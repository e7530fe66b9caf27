"""Fetch the wheels that a machine with torch and timm, but without a network, lacks.

    python -m benchmarks.gpu.wheels .wheels [--python 3.12]

The versions are those installed here. Copy the folder along and run `make bench-gpu WHEELS=.wheels`
there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "annotated-types",
    "donfig",
    "google-crc32c",
    "numcodecs",
    "platformdirs",
    "pydantic",
    "pydantic-core",
    "timm",
    "typer",
    "typing-inspection",
    "zarr",
)
"""Dependencies that come with neither PyTorch nor the usual scientific packages."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="Python version of the other machine")
    parser.add_argument("--machine", default="x86_64", help="processor of the other machine")
    args = parser.parse_args()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", args.python]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_{args.machine}"]
    command += ["-d", str(args.folder), *(f"{name}=={version(name)}" for name in PACKAGES)]
    subprocess.run(command, check=True)
    size = sum(file.stat().st_size for file in args.folder.glob("*.whl"))
    print(f"{len(PACKAGES)} wheels, {size / 2**20:.0f} MiB, in {args.folder}")


if __name__ == "__main__":
    main()
