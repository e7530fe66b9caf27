"""The steps of a scan: moments in one pass, search on validation rows, refit, test.

Shapes: N training rows, V validation rows, R reference rows, S tokens, D width, M targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.metrics import Samples
from layercache.probing.scan.gram import GramMatrix, gram_matrices
from layercache.probing.scan.linear import GRIDS, NAMES, Linear, climb
from layercache.probing.scan.neighbors import GRID, Config, Voter
from layercache.probing.scan.plan import ScanPlan, Subset
from layercache.probing.scan.rows import ScanRows
from layercache.probing.scan.scores import Outputs, score
from layercache.probing.scan.solvers import FeatureSolver, SampleSolver, Solver
from layercache.probing.scan.stream import BLOCK_ROWS, Kept, iter_blocks
from layercache.probing.scan.token_moments import TokenMoments
from layercache.probing.splits.stratified_split import Rows

KNN = "knn"
Key = tuple[int, str]
"""(number of a subset, head)."""


@dataclass(kw_only=True, eq=False)
class Scanner:
    """A scan under way."""

    plan: ScanPlan
    """Tokens and subsets."""
    heads: Sequence[str]
    """Heads to fit."""
    dataset: TokenDataset
    """Tokens of the training split, followed by those of the validation split if there is one."""
    y: Tensor
    """Targets of all its rows: int64 (N,), or (N, M)."""
    classes: int
    """M."""
    task: str
    """classification, multi-label or regression."""
    rows: ScanRows
    """Parts of its rows."""
    settings: dict[Key, Config] = field(default_factory=dict)
    """Selected setting of each subset and head."""
    val_scores: dict[Key, float] = field(default_factory=dict)
    """Its validation score."""

    def __post_init__(self) -> None:
        self._linear = [head for head in self.heads if head != KNN]
        self._weight = torch.ones(len(self.y), dtype=torch.float64, device=self.y.device)
        self._absent = torch.zeros(self.classes, dtype=torch.bool, device=self.y.device)
        refit = self._index(self.rows.refit)
        y = self.y[refit]
        if self.task == CLASSIFICATION:
            self._weight[refit] = balanced_weights(y, self.classes)
            self._absent = torch.bincount(y, minlength=self.classes) == 0
        elif self.task != REGRESSION:
            self._absent = (y == 0).all(0)
        self._val = Kept.empty(self.dataset, self.rows.val)
        self._references = Kept.empty(
            self.dataset, self.rows.references if KNN in self.heads else self.rows.references[:0]
        )
        self._gram_matrices: dict[tuple[int, ...], GramMatrix] = {}
        self._moments = TokenMoments(
            tokens=self.dataset.tokens,
            width=self.dataset.width,
            targets=self.classes,
            subsets=[s.tokens for s in self.plan.subsets if not self.plan.in_samples(s)],
            device=self.dataset.device,
        )

    def read(self) -> None:
        """Read the training split once."""
        in_samples = [s.tokens for s in self.plan.subsets if self.plan.in_samples(s)]
        kept = bool(self._linear) and bool(in_samples)
        samples = Kept.empty(self.dataset, self.rows.used if kept else self.rows.val[:0])
        keep = (self._val, self._references, samples)
        for x_snd, rows in iter_blocks(self.dataset, self.rows.train, keep=keep):
            if self._linear:
                self._add(x_snd, rows)
        if kept:
            needed = sorted({s for tokens in in_samples for s in tokens})
            tokens = {s: samples.normalized(s) for s in needed}
            self._gram_matrices = gram_matrices(tokens, in_samples)

    def search(self) -> None:
        """Select a setting for each subset and head by the validation rows."""
        starts: dict[tuple[str, str], int] = {}
        for number, subset in enumerate(self.plan.subsets):
            if self._linear:
                solver = self._solver(subset, self.rows.train)
                for head in self._linear:
                    # neighboring layers have neighboring settings; each kind has its own
                    start = starts.get((head, subset.kinds), len(GRIDS[head]) // 2)
                    starts[head, subset.kinds] = self._search_linear(
                        number, head, solver, start=start
                    )
        if KNN in self.heads:
            self._search_votes()

    def refit(self) -> dict[Key, Linear]:
        """Fit all linear heads with their settings to all training samples."""
        if not self._linear:
            return {}
        added = len(self.rows.val) if self.rows.val_is_refitted else 0
        for start in range(0, added, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            x = [self._val.normalized(s, rows) for s in range(self.dataset.tokens)]
            self._add(torch.stack(x), self.rows.val[rows])
        fitted = {}
        for number, subset in enumerate(self.plan.subsets):
            solver = self._solver(subset, self.rows.refit)
            for head in self._linear:
                setting = self.settings[number, head][NAMES[head]]
                # rounding errors grow with the rows: the next setting if this one is below them
                larger = [value for value in GRIDS[head] if value >= setting]
                found = (solver.fit(head, value) for value in larger)
                fitted[number, head] = next(solver.linear(c) for c in found if c is not None)
        return fitted

    def test(
        self, dataset: TokenDataset, y: Tensor, fitted: Mapping[Key, Linear]
    ) -> dict[Key, Samples]:
        """Read the test split once; return what the metrics need of each subset and head."""
        outputs = {key: Outputs(self.task, self.classes) for key in self.settings}
        voter = self._voter(with_val=True) if KNN in self.heads else None
        for x_snd, rows in iter_blocks(dataset, np.arange(dataset.rows)):
            targets = y[self._index(rows)]
            for (number, head), linear in fitted.items():
                tokens = [x_snd[s] for s in self.plan.subsets[number].tokens]
                outputs[number, head].add(linear.outputs(tokens), targets)
            if voter is not None:
                configs = [[self.settings[n, KNN]] for n in range(len(self.plan.subsets))]
                for number, (votes,) in voter.outputs(list(x_snd), self.plan.subsets, configs):
                    outputs[number, KNN].add(votes, targets)
        return {key: found.samples(y.cpu()) for key, found in outputs.items()}

    def _index(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).to(self.y.device)

    def _add(self, x_snd: Tensor, rows: Rows) -> None:
        index = self._index(rows)
        self._moments.add(x_snd, self._targets(index), self._weight[index])

    def _targets(self, index: Tensor) -> Tensor:
        """Return targets of rows, float64 (N, M); those of all rows together would be large."""
        if self.task == CLASSIFICATION:
            return one_hot(self.y[index], self.classes)
        return self.y[index].double()

    def _solver(self, subset: Subset, rows: Rows) -> Solver:
        """Return what fits the linear heads of a subset to rows: those that were read so far."""
        classifies = self.task != REGRESSION
        if not self.plan.in_samples(subset):
            val = [self._val.normalized(s) for s in subset.tokens]
            moments = self._moments.of(subset.tokens)
            return FeatureSolver(moments, val=val, classifies=classifies, absent=self._absent)
        index, used = self._index(rows), self.rows.used
        return SampleSolver(
            self._gram_matrices[subset.tokens],
            self._targets(index),
            self._weight[index],
            train=self._index(np.searchsorted(used, rows)),
            val=self._index(np.searchsorted(used, self.rows.val)),
            classifies=classifies,
            absent=self._absent,
        )

    def _search_linear(self, number: int, head: str, solver: Solver, *, start: int) -> int:
        """Search the setting of one head; return its position in the grid."""
        y = self.y[self._index(self.rows.val)]

        def rate(position: int) -> float:
            coefficients = solver.fit(head, GRIDS[head][position])
            if coefficients is None:
                return float("nan")
            return score(solver.val_outputs(coefficients), y, task=self.task)

        best, value = climb(rate, size=len(GRIDS[head]), start=start)
        self.settings[number, head] = {NAMES[head]: GRIDS[head][best]}
        self.val_scores[number, head] = value
        return best

    def _search_votes(self) -> None:
        queries = self.rows.queries
        y = self.y[self._index(self.rows.val[queries])]
        tokens = [self._val.normalized(s)[self._index(queries)] for s in range(self.dataset.tokens)]
        subsets = self.plan.subsets
        voter = self._voter(with_val=False)
        for number, outputs in voter.outputs(tokens, subsets, [GRID] * len(subsets)):
            scores = [score(votes, y, task=self.task) for votes in outputs]
            best = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
            self.settings[number, KNN] = GRID[best]
            self.val_scores[number, KNN] = scores[best]

    def _voter(self, *, with_val: bool) -> Voter:
        references = self.rows.references
        chosen = np.arange(len(references))
        if not with_val:
            chosen = np.flatnonzero(~np.isin(references, self.rows.val))
        return Voter(
            self._references,
            self.y[self._index(references)],
            chosen=self._index(chosen),
            classes=self.classes,
            task=self.task,
        )
