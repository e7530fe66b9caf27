from __future__ import annotations

import pytest

from layercache.reporting.plotting.heatmap_cells import luminance


def test_luminance_follows_the_definition():
    assert luminance((1, 1, 1)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    # sRGB grey 119 is 0.184 in WCAG tables
    assert luminance((119 / 255,) * 3) == pytest.approx(0.184, abs=1e-3)
