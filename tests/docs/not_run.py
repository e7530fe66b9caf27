"""The one list of what the pages show and tests/docs/test_pages.py does not run, with reasons."""

from __future__ import annotations

from collections.abc import Mapping

_WHEEL = "a network; tests/test_distribution.py installs the wheel and the sdist"
_WEIGHTS = "the real weights of CLIP; benchmarks/LOG.md has the run"
_HUB = "the Hub; tests/cache/storage/test_hub.py has a stand-in"

NOT_RUN: Mapping[str, Mapping[str, str]] = {
    "README.md": {
        "make demo": "a network, for a new .venv; tests/test_demo.py runs the demo",
        "make test": "itself: it is this test run",
        "pip install": _WHEEL,
    },
    "docs/index.md": {
        "pip install": _WHEEL,
        "layercache doctor": "training in full; tests/test_doctor.py runs it (make slow)",
    },
    "docs/cluster.md": {
        "pip install": _WHEEL,
        "layercache": "a Ray cluster; tests/engine has one, tests/docs/test_slurm.py another",
    },
    "docs/objects.md": {
        "pip install": _WHEEL,
    },
    "docs/slurm.md": {
        "pip install": _WHEEL,
        "export": "a folder that several machines share",
        "sbatch": "SLURM; tests/docs/test_slurm.py submits this script (make slow)",
        "squeue": "SLURM",
    },
    "docs/reproduce.md": {
        "layercache study studies/alf-table1.toml": "a GPU, twenty datasets and days",
        "layercache extract": "the real weights of CLIP",
    },
    "docs/share.md": {
        "layercache cache push --model clip_b16 --dataset pets --to hf://": _HUB,
        "layercache cache pull hf://": _HUB,
    },
    "docs/measurements.md": {
        "layercache": _WEIGHTS,
        "python benchmarks/methods.py": "hours; benchmarks/LOG.md has the runs",
    },
}
"""Page -> first words of a command, or of a Python block -> what it needs that a test lacks."""
