from __future__ import annotations

import pandas as pd
import pytest

from layercache.errors import OptionError
from layercache.probing.scan.result import ScanResult
from layercache.reporting.plotting.depth_curve import depth_curve


def result(*, tested: bool = True) -> ScanResult:
    rows = [
        {
            "head": head,
            "layers": layers,
            "tokens": "cls",
            "n_tokens": 1 if layers != "all" else 2,
            "config": "",
            "val_balanced_accuracy": score,
        }
        for head, offset in (("ridge", 0.0), ("lda", 0.05))
        for layers, score in (("1", 0.5 + offset), ("2", 0.6 + offset), ("all", 0.7 + offset))
    ]
    table = pd.DataFrame(rows)
    if tested:
        test = table["val_balanced_accuracy"] - 0.02
        table = table.assign(
            test_balanced_accuracy=test, test_ci95_low=test - 0.1, test_ci95_high=test + 0.1
        )
    return ScanResult(table=table, task="classification", title="m on d", notes=(), seconds=1.0)


@pytest.mark.parametrize(("tested", "expected"), [(True, [53.0, 63.0]), (False, [55.0, 65.0])])
def test_depth_curve_draws_the_best_head(tested: bool, expected: list[float]) -> None:
    axes = depth_curve(result(tested=tested)).axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx(expected)
    assert len(axes.collections) == (1 if tested else 0)  # the band
    assert axes.lines[1].get_ydata()[0] == pytest.approx(73.0 if tested else 75.0)


def test_depth_curve_of_a_head_that_was_not_scanned_raises() -> None:
    with pytest.raises(OptionError, match="expected one of ridge, lda, got 'knn'"):
        depth_curve(result(), head="knn")
