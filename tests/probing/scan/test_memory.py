from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peak_memory import STATUS
from layercache.errors import OptionError
from layercache.probing.scan.memory import count_memory, fit_into_memory
from layercache.probing.scan.plan import ScanPlan, Subset
from layercache.probing.scan.rows import split_rows

ROOT = Path(__file__).parents[3]
PAIRS = tuple((layer, "cls") for layer in range(1, 9))


def plan(several: bool = True, *, layers: int = 8) -> ScanPlan:
    singles = tuple(Subset(str(i + 1), "cls", (i,)) for i in range(layers))
    whole = (Subset("all", "cls", tuple(range(layers))),) if several else ()
    return ScanPlan(
        pairs=PAIRS[8 - layers :], subsets=(*singles, *whole), left_out=(), width=64, rows=1000
    )


def count(plan: ScanPlan, heads: object) -> object:
    rows = split_rows(np.arange(plan.rows) % 5, seed=0)
    return count_memory(
        plan, rows, heads=heads, outputs=5, test_rows=100, itemsize=2, keeps_logits=False
    )


@pytest.mark.parametrize(
    ("heads", "share", "remedy"),
    [
        (["ridge", "knn"], 1.0, "subsets=[]"),
        (["ridge", "knn"], 0.85, "leave out knn"),
        (["ridge"], 0.6, "layers='5,6,7,8'"),
        (["ridge"], 1e-6, "on a machine with more memory"),
    ],
)
def test_error_proposes_the_smallest_change_that_fits(
    heads: list[str], share: float, remedy: str
) -> None:
    free = int(share * count(plan(False), heads).total / 0.8) + 1

    def plan_with(subsets: object, layers: str | None) -> ScanPlan:
        return plan(False, layers=8 if layers is None else layers.count(",") + 1)

    with pytest.raises(OptionError, match="this scan needs") as error:
        fit_into_memory(
            plan(), count, heads, plan_with=plan_with, layers=None, by_default=False, free=free
        )
    assert remedy in str(error.value)


def test_more_rows_than_features_need_no_more_memory_but_for_what_is_kept() -> None:
    few, many = (replace(plan(), rows=n) for n in (60_000, 600_000))
    assert count(many, ["ridge"]).total == count(few, ["ridge"]).total


MEASURE = """
import sys, tempfile
from pathlib import Path
import numpy as np, torch
from layercache import testing
import layercache
from layercache.probing.scan import api
from benchmarks.peak_memory import peak_memory
torch.set_num_threads(1)
n = int(sys.argv[1])
rng = np.random.default_rng(0)
tokens = {s: rng.standard_normal((6, 2, m, 128), np.float32).astype(np.float16)
          for s, m in (("train", n), ("test", 100))}
labels = {s: np.arange(x.shape[2]) % 4 for s, x in tokens.items()}
counted = []
count = api.count_memory
api.count_memory = lambda *a, **k: counted.append(count(*a, **k)) or counted[-1]
with tempfile.TemporaryDirectory() as folder:
    cache = testing.write_cache(tokens, labels, root=Path(folder))
    layercache.scan(cache, test_split=None, layers="1", subsets=[], heads="ridge")
    before = peak_memory()
    layercache.scan(cache, subsets=["all"], memory_budget="32MiB")
    print(peak_memory() - before, counted[-1].total)
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not STATUS.exists(), reason="this system has no /proc/self/status")
@pytest.mark.parametrize("rows", [1400, 4000])
def test_counted_memory_is_an_upper_bound_of_what_a_scan_takes(rows: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(rows)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    taken, counted = map(int, done.stdout.split())
    assert taken <= counted + 2**26
    assert counted <= 6 * taken + 2**26
