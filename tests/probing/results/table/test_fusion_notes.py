from __future__ import annotations

from types import SimpleNamespace

import pytest

from layercache.probing.results.table.notes import describe_selection


@pytest.mark.parametrize(
    ("share", "branch"),
    [(0.0, "the layers"), (1.0, "the spatial tokens"), (0.5, None), (None, None)],
)
def test_note_names_the_branch_that_a_fusion_head_falls_back_on(
    share: float | None, branch: str | None
) -> None:
    probe = SimpleNamespace(
        row={"spatial_share": share}, configs=(), spec={"head_spec": {"multi_label": False}}
    )
    lines = [line for line in describe_selection([probe]) if "fusion" in line]  # type: ignore[list-item]
    assert lines == ([] if branch is None else lines[:1])
    assert branch is None or f"used alone: {branch} (1 probe)" in lines[0]
