from __future__ import annotations

import pytest
import torch

from layercache.deploy.inference_heads import AttentiveInference, inference_head
from layercache.probing.heads import HeadSpec, build
from layercache.probing.results.checkpoint import Checkpoint, Provenance

D, S, C = 20, 6, 5
SPECS = {
    "linear": HeadSpec(kind="linear", tokens=S, width=D, classes=C),
    "attentive": HeadSpec(kind="attentive", tokens=S, width=D, classes=C),
    "attentive, 3 heads": HeadSpec(kind="attentive", tokens=S, width=D, classes=C, num_heads=3),
    "attentive-tokens": HeadSpec(kind="attentive-tokens", tokens=S, width=D, classes=C),
    "hybrid": HeadSpec(kind="hybrid", tokens=S, width=D, classes=C),
    "hybrid, embeddings": HeadSpec(
        kind="hybrid", tokens=S, width=D, classes=C, embedding_ids=(0, 0, 1, 1, 2, 2)
    ),
}


def make_head(spec: HeadSpec) -> Checkpoint:
    """A head with every parameter far from its initial value: norms and running statistics too."""
    generator = torch.Generator().manual_seed(3)
    parameters = build(spec).init_parameters(generator)
    for name, value in parameters.items():
        noise = torch.randn(value.shape, generator=generator)
        parameters[name] = (
            0.5 + noise.abs() if name.endswith("running_var") else value + 0.5 * noise
        )
    provenance = Provenance(
        model="m",
        architecture="a",
        weights="w",
        depth=3,
        tap="norm2",
        projected=False,
        preprocessing={},
        dataset="d",
        classes=tuple("abcde"),
        pairs=tuple((1, f"patch/{i}") for i in range(S)),
        fingerprints=("f",),
    )
    return Checkpoint(
        name=spec.kind, spec=spec, state_dict=parameters, provenance=provenance, hparams={}, seed=0
    )


def tokens(n: int) -> torch.Tensor:
    x = torch.randn(n, S, D, generator=torch.Generator().manual_seed(4))
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("name", SPECS)
def test_inference_head_gives_the_logits_of_the_training_head(name: str) -> None:
    head = make_head(SPECS[name])
    x = tokens(7)
    expected = head.predict(x)
    got = inference_head(head.spec, head.state_dict)(x)
    assert expected.std() > 0.1  # constant logits would agree trivially
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "query",
        "norm_query.weight",
        "norm_query.bias",
        "norm_key.weight",
        "norm_value.weight",
        "norm_value.bias",
        "to_query.weight",
        "to_key.weight",
        "to_value.weight",
        "output.weight",
        "output.bias",
        "batch_norm.weight",
        "batch_norm.bias",
        "batch_norm.running_mean",
        "batch_norm.running_var",
        "classifier.weight",
        "classifier.bias",
        "embedding",
    ],
)
def test_inference_head_with_any_parameter_changed_gives_other_logits(name: str) -> None:
    """Negative control."""
    head = make_head(SPECS["hybrid, embeddings"])
    x = tokens(7)
    before = inference_head(head.spec, head.state_dict)(x)
    value = head.state_dict[name]
    changed = dict(head.state_dict) | {
        name: value + torch.rand(value.shape, generator=torch.Generator().manual_seed(6))
    }
    assert (inference_head(head.spec, changed)(x) - before).abs().max() > 1e-3


def test_inference_head_ignores_the_bias_of_the_key_norm() -> None:
    """It adds the same to the score of every token."""
    head = make_head(SPECS["attentive"])
    changed = dict(head.state_dict) | {"norm_key.bias": head.state_dict["norm_key.bias"] + 3}
    one, two = (inference_head(head.spec, p) for p in (head.state_dict, changed))
    assert isinstance(one, AttentiveInference)
    assert torch.equal(one(tokens(3)), two(tokens(3)))


def test_inference_head_is_frozen_float32() -> None:
    head = make_head(SPECS["hybrid, embeddings"])
    made = inference_head(head.spec, head.state_dict)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in made.parameters())
    assert not made.training
