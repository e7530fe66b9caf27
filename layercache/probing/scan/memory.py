"""Memory that a scan needs, checked before it starts.

Shapes: N rows of the final fit, V validation rows, R reference rows, S tokens, D width, k tokens of
a subset, P = k D features, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from layercache._units import format_bytes, join_words
from layercache.errors import OptionError
from layercache.probing.scan.plan import ScanPlan
from layercache.probing.scan.rows import MAX_QUERIES, ScanRows
from layercache.probing.scan.stream import BLOCK_ROWS

FREE_FRACTION = 0.8
"""Part of the free memory that a scan may take."""
FEATURE_MATRICES = 32
"""Bytes per pair of features while a subset is solved: moments, their concatenation and scatter in
float64, and two matrices in float32."""
SAMPLE_MATRICES = 40
"""Bytes per pair of samples while a subset is solved in samples: three centered matrices in
float64, a temporary one, and two in float32."""
OUTPUT_BYTES = 40
"""Bytes per test row and model of a classification, of which logits are not kept."""


@dataclass(frozen=True)
class ScanMemory:
    """Bytes that a scan holds, by what they are."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """Return the three largest parts in words."""
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:3]
        return join_words([f"{format_bytes(size)} for {name}" for name, size in largest if size])


def count_memory(
    plan: ScanPlan,
    rows: ScanRows,
    *,
    heads: Sequence[str],
    outputs: int,
    test_rows: int,
    itemsize: int,
    keeps_logits: bool,
) -> ScanMemory:
    """Return the memory of a scan without that for reading ahead; an upper bound.

    Args:
        plan: Tokens and subsets.
        rows: Parts of the rows.
        heads: ridge, lda and knn, or some of them.
        outputs: C.
        test_rows: Rows of the test split, 0 without one.
        itemsize: Bytes of a stored value.
        keeps_logits: Metrics need all outputs of the test rows.
    """
    linear = [head for head in heads if head != "knn"]
    width, row = plan.width, len(plan.pairs) * plan.width
    in_samples = [s for s in plan.subsets if plan.in_samples(s)] if linear else []
    in_features = [s for s in plan.subsets if not plan.in_samples(s)] if linear else []
    pairs = {(s, t) for sub in in_features for s in sub.tokens for t in sub.tokens if s <= t}
    largest = max((len(s.tokens) * width for s in in_features), default=0)
    parts = {
        "sums over tokens": 8 * width**2 * len(pairs) + 8 * row * outputs,
        "a block of rows": 2 * 4 * row * BLOCK_ROWS,
        "validation rows": itemsize * row * len(rows.val) + 4 * width * len(rows.val),
        "the largest subset's equations": FEATURE_MATRICES * largest**2,
        "the fitted heads": 4
        * outputs
        * len(linear)
        * sum(len(s.tokens) * width for s in plan.subsets),
        "outputs on the test rows": test_rows
        * len(heads)
        * len(plan.subsets)
        * (12 * outputs if keeps_logits else OUTPUT_BYTES),
    }
    if in_samples:
        used = len(rows.used)
        names = join_words([subset.layers for subset in in_samples])
        parts[f"products of samples ({names})"] = (
            8 * used**2 * len(in_samples) + SAMPLE_MATRICES * len(rows.refit) ** 2
        )
        parts["all tokens of the training samples"] = (itemsize + 4) * row * used
    if "knn" in heads:
        queries = min(len(rows.val), MAX_QUERIES)
        parts["reference rows of knn"] = (
            (itemsize + 8) * row * len(rows.references)
            + 4 * row * queries
            + 16 * max(queries, BLOCK_ROWS) * len(rows.references)
        )
    return ScanMemory(parts)


def fit_into_memory(
    plan: ScanPlan,
    count: Callable[[ScanPlan, Sequence[str]], ScanMemory],
    heads: Sequence[str],
    *,
    plan_with: Callable[[str | Sequence[str] | None, str | None], ScanPlan],
    layers: str | None,
    by_default: bool,
    free: int,
) -> ScanPlan:
    """Return the plan, without those of its default subsets that memory does not suffice for.

    Args:
        plan: Requested tokens and subsets.
        count: Memory of a plan with some heads.
        heads: Requested heads.
        plan_with: The plan with other subsets and layers.
        layers: Requested layers.
        by_default: The subsets were not requested by name.
        free: Free bytes.

    Raises:
        OptionError: Single tokens, or the requested subsets, need more; the error names the first
            change of options with which the scan fits.
    """
    while by_default and not _fits(count(plan, heads), free):
        several = [subset for subset in plan.subsets if not subset.single]
        if not several:
            break
        largest = max(several, key=lambda subset: len(subset.tokens))
        plan = replace(
            plan,
            subsets=tuple(subset for subset in plan.subsets if subset is not largest),
            too_large=(*plan.too_large, largest),
        )
    several = [subset for subset in plan.subsets if not subset.single]
    numbers = list(dict.fromkeys(layer for layer, _ in plan.pairs))
    linear = [head for head in heads if head != "knn"]
    changes: list[tuple[str, ScanPlan, Sequence[str]]] = []
    if several:
        words = "scan single tokens alone (subsets=[], --subsets none)"
        changes.append((words, plan_with([], layers), heads))
    if "knn" in heads and linear:
        options = " ".join(f"--head {head}" for head in linear)
        words = f"leave out knn and subsets (heads={linear}, subsets=[]; {options} --subsets none)"
        changes.append((words, plan_with([], layers), linear))
    while len(numbers) > 1:
        numbers = numbers[len(numbers) // 2 :]
        part = ",".join(map(str, numbers))
        words = (
            f"scan fewer layers at a time (layers={part!r}, subsets=[]; --layers {part} "
            "--subsets none)"
        )
        changes.append((words, plan_with([], part), heads))
    needed = count(plan, heads)
    if _fits(needed, free):
        return plan
    remedy = "scan on a machine with more memory"
    for words, changed_plan, changed_heads in changes:
        changed = count(changed_plan, changed_heads)
        if _fits(changed, free):
            remedy = f"{words}, which needs {format_bytes(changed.total)}"
            break
    raise OptionError(
        f"this scan needs {format_bytes(needed.total)} of memory, {needed.describe()}; "
        f"{FREE_FRACTION:.0%} of the free memory is {format_bytes(FREE_FRACTION * free)}: {remedy}"
    )


def _fits(needed: ScanMemory, free: int) -> bool:
    """Return whether a scan may take that much of the free bytes."""
    return needed.total <= FREE_FRACTION * free
