"""The one list of what stands on a page and is not run by tests/docs/test_pages.py, with reasons."""

from __future__ import annotations

from collections.abc import Mapping

_WHEEL = "a network; tests/test_distribution.py installs the wheel and the sdist"
_WEIGHTS = "the real weights of CLIP; benchmarks/LOG.md has the run"

NOT_RUN: Mapping[str, Mapping[str, str]] = {
    "README.md": {
        "make demo": "a network, for a new .venv; docs/index.md and tests/test_demo.py run the demo",
        "make test": "itself: it is this test run",
        "pip install": _WHEEL,
    },
    "docs/index.md": {"pip install": _WHEEL},
    "docs/cluster.md": {
        "pip install": _WHEEL,
        "layercache": "a Ray cluster; tests/engine has one, tests/docs/test_slurm.py another",
    },
    "docs/objects.md": {
        "pip install": _WHEEL,
        "layercache cache push CACHE --to hf://": "the Hub; tests/cache/test_copy.py has a stand-in",
    },
    "docs/slurm.md": {
        "pip install": _WHEEL,
        "export": "a folder that several machines share",
        "sbatch": "SLURM; tests/docs/test_slurm.py submits this script (make slow)",
        "squeue": "SLURM",
    },
    "docs/measurements.md": {"layercache": _WEIGHTS},
}
"""Page -> first words of a command, or of a Python block -> what it needs that a test lacks."""
