"""The prefix under which a checkpoint holds a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.weights.key_prefix import count_parts, find_state, flatten

ONE = torch.ones(2)
WANTED = ("norm.bias", "blocks.0.norm.bias")


def model(prefix: str, value: float = 1.0) -> dict[str, Tensor]:
    return {f"{prefix}{key}": ONE * value for key in WANTED}


def test_flatten_joins_names_and_leaves_out_what_is_no_tensor() -> None:
    cyclic: dict[str, Any] = {"a": ONE}
    cyclic["itself"] = cyclic
    assert list(flatten({"net": {"x.y": ONE}, "state": {0: ONE}, "epoch": 3})) == [
        "net.x.y",
        "state.0",
    ]
    assert flatten([ONE]) == {}
    assert len(flatten(cyclic)) == 8


def test_find_state_prefers_whole_names_to_a_longer_suffix() -> None:
    """`blocks.0.norm.bias` ends with the wanted `norm.bias`, under another prefix."""
    match = find_state(model(""), WANTED, source="it")
    assert (match.prefix, match.n_found, match.others) == ("", 2, ())
    assert set(match.state) == set(WANTED)


@pytest.mark.parametrize(
    "prefixes", [("ema.", "teacher.", "", "student."), ("schema.", "student.")]
)
def test_find_state_takes_the_first_rank(prefixes: tuple[str, ...]) -> None:
    tensors: dict[str, Tensor] = {}
    for i, prefix in enumerate(reversed(prefixes)):
        tensors |= model(prefix, i)
    match = find_state(tensors, WANTED, source="it")
    assert match.prefix == prefixes[0]
    assert match.others == tuple(sorted(prefixes[1:]))


def test_find_state_with_equal_ranks_compares_the_weights() -> None:
    assert find_state(model("a.") | model("bb."), WANTED, source="it").prefix == "a."
    with pytest.raises(BackboneError, match=r"it: holds the model under 'a\.' and, with other"):
        find_state(model("a.") | model("bb.", 2), WANTED, source="it")


def test_find_state_converts_original_names_under_a_prefix() -> None:
    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.replace("layers", "blocks"): state[key] for key in ("norm.bias", *state)}

    original = {f"net.{k.replace('blocks', 'layers')}": v for k, v in model("").items()}
    match = find_state(original, WANTED, convert=convert, source="it")
    assert (match.prefix, match.n_found) == ("net.", 2)
    assert set(match.state) == {"norm.bias", "layers.0.norm.bias"}
    assert find_state(original, WANTED, source="it").n_found == 1  # negative control


def test_count_parts_names_a_part_up_to_where_it_leaves_the_prefix() -> None:
    keys = ["net.encoder.mask", "net.decoder.0.w", "net.decoder.0.b", "optimizer.state.0", "step"]
    assert count_parts(keys, prefix="net.encoder.") == {
        "net.encoder.mask": 1,
        "net.decoder": 2,
        "optimizer": 1,
        "step": 1,
    }
    assert count_parts(keys) == {"net": 3, "optimizer": 1, "step": 1}
