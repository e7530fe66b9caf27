from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from layercache.probing.scan import gram
from layercache.probing.scan.gram import gram_matrices
from layercache.probing.scan.solvers import FeatureSolver, SampleSolver
from tests.probing.closed_form.made import separable

ABSENT = torch.tensor([False, False, False, True])


@pytest.mark.parametrize(("head", "setting"), [("ridge", 0.01), ("ridge", 1.0), ("lda", 0.1)])
@pytest.mark.parametrize("samples", [14, 50])
def test_head_of_gram_matrix_is_that_of_the_features(
    head: str, setting: float, samples: int
) -> None:
    x, y = separable(samples, 20, 3)
    x = torch.nn.functional.normalize(x + 1, dim=1).float()
    tokens, targets, weight = [x[:, :10], x[:, 10:]], one_hot(y, 4), balanced_weights(y, 4)
    moments = Moments(20, 4)
    moments.add(x.double(), targets, weight)
    everything = torch.arange(samples)
    by_number = {s: x.clone() for s, x in enumerate(tokens)}
    of_samples = SampleSolver(
        gram_matrices(by_number, [(0,), (0, 1)])[0, 1],
        targets,
        weight,
        train=everything,
        val=everything,
        classifies=True,
        absent=ABSENT,
    )
    of_features = FeatureSolver(moments, val=tokens, classifies=True, absent=ABSENT)
    outputs = []
    for solver in (of_features, of_samples):
        coefficients = solver.fit(head, setting)
        assert coefficients is not None
        found = solver.linear(coefficients).outputs(tokens)
        torch.testing.assert_close(solver.val_outputs(coefficients), found, atol=1e-3, rtol=1e-3)
        assert (found[:, 3] < -9000).all()
        outputs.append(found.softmax(1))
    torch.testing.assert_close(*outputs, atol=2e-3, rtol=0)


def test_part_of_the_samples_is_fitted_as_if_there_were_no_others() -> None:
    x, y = separable(40, 30, 3)
    x = torch.nn.functional.normalize(x + 1, dim=1).float()
    targets, weight, index = one_hot(y, 3), balanced_weights(y, 3), torch.arange(5, 23)
    every = gram_matrices({4: x.clone()}, [(4,)])[(4,)]
    alone = gram_matrices({4: x[index].clone()}, [(4,)])[(4,)]
    for head, setting in (("ridge", 0.1), ("lda", 0.1)):
        outputs = []
        for samples, train in ((every, index), (alone, torch.arange(len(index)))):
            solver = SampleSolver(
                samples,
                targets[index],
                weight[index],
                train=train,
                val=train,
                classifies=True,
                absent=ABSENT[:3],
            )
            coefficients = solver.fit(head, setting)
            assert coefficients is not None
            outputs.append(solver.linear(coefficients).outputs([x]))
        torch.testing.assert_close(*outputs, atol=2e-3, rtol=0)


def test_gram_matrices_are_those_of_the_concatenated_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gram, "TILE", 7)
    monkeypatch.setattr(gram, "FEATURES", 10)
    generator = torch.Generator().manual_seed(0)
    tokens = {s: torch.randn(24, 5, generator=generator) for s in range(5)}
    subsets = [(1,), (0, 1, 3), (0, 1, 2, 3, 4)]
    found = gram_matrices({s: x.clone() for s, x in tokens.items()}, subsets)
    for subset in subsets:
        x = torch.cat([tokens[s] - tokens[s].mean(0) for s in subset], dim=1).double()
        torch.testing.assert_close(found[subset].matrix, x @ x.t(), rtol=0, atol=1e-4)
