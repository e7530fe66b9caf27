from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.errors import HeadMismatchError, OptionError
from layercache.heads import AttentiveHead, MultiEncoderHead
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.multi_encoder import initial_map
from tests.probing.textbook import assert_head_equals_modules, randomize, stack_states


class TextbookMultiEncoder(MultiEncoderHead):
    """The public module, of tokens that are normalized already."""

    def __init__(self, **shape: object) -> None:
        super().__init__(**shape, normalize=False)  # type: ignore[arg-type]


def make_spec(tokens: tuple[int, ...], widths: tuple[int, ...], **fields: int) -> HeadSpec:
    return HeadSpec(
        kind="attentive",
        tokens=sum(tokens),
        classes=3,
        encoder_tokens=tokens,
        encoder_widths=widths,
        **{"width": max(widths), **fields},  # type: ignore[arg-type]
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(2, 5),
    encoders=st.lists(st.tuples(st.integers(1, 3), st.integers(2, 9)), min_size=1, max_size=3),
    width=st.integers(4, 12),
    h=st.integers(1, 4),
    dropped=st.booleans(),
    train=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_joined_head_equals_the_module_that_maps_every_token_with_all_gradients(
    n: int,
    b: int,
    encoders: list[tuple[int, int]],
    width: int,
    h: int,
    dropped: bool,
    train: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    tokens, widths = (tuple(part) for part in zip(*encoders, strict=True))
    spec = make_spec(tokens, widths, width=width, num_heads=h)
    head = build(spec)
    shape = {"encoder_tokens": tokens, "encoder_widths": widths, "width": width}
    modules = [
        randomize(TextbookMultiEncoder(**shape, classes=3, num_heads=h)).train(train)
        for _ in range(n)
    ]
    assert_head_equals_modules(
        head,
        modules,
        rows=b,
        train=train,
        dropped=dropped,
        without_gradient=("output.bias",),  # BatchNorm subtracts it again
    )


def test_attention_sums_to_one_over_all_encoders_and_equals_the_module() -> None:
    module = randomize(
        TextbookMultiEncoder(encoder_tokens=(2, 3), encoder_widths=(6, 9), classes=3, num_heads=2)
    )
    head = build(make_spec((2, 3), (6, 9), num_heads=2))
    x = torch.randn(4, 5, 9, dtype=torch.float64)
    p = stack_states([module], set(head.init_parameters(torch.Generator())))
    weights = head.attention(p, head.preprocess(x))
    torch.testing.assert_close(weights[:, :, 0].transpose(1, 2), module.attention(x))
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 1, 2, dtype=torch.float64))


def test_elements_beyond_the_width_of_an_encoder_have_no_effect() -> None:
    head = build(make_spec((1, 1), (4, 8)))
    x = torch.randn(3, 2, 8)
    noisy = x.clone()
    noisy[:, 0, 4:] += 5.0
    assert torch.equal(head.preprocess(x), head.preprocess(noisy))
    noisy[:, 0, 3] += 5.0  # negative control: an element within it
    assert not torch.equal(head.preprocess(x), head.preprocess(noisy))


def test_encoders_of_one_width_start_as_the_attentive_head_of_all_tokens() -> None:
    """Maps start as the identity, so that the parameters of the attentive head give its logits."""
    torch.manual_seed(0)
    plain = AttentiveHead(tokens=5, width=6, classes=3, normalize=False).eval()
    joined = TextbookMultiEncoder(encoder_tokens=(2, 3), encoder_widths=(6, 6), classes=3).eval()
    joined.load_state_dict(
        {n: v for n, v in plain.state_dict().items() if "norm_key" not in n and "_value." not in n},
        strict=False,
    )
    joined.to_value.load_state_dict(plain.to_value.state_dict())
    x = torch.randn(4, 5, 6)
    torch.testing.assert_close(joined(x), plain(x))


def test_map_to_a_smaller_width_keeps_the_variance() -> None:
    weight = initial_map(64, 512, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2000, 512)
    assert (z @ weight.t()).std() == pytest.approx(1, abs=0.02)
    assert torch.equal(
        initial_map(3, 2, generator=torch.Generator()), torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    )


def test_spec_of_encoders_that_do_not_add_up_is_refused() -> None:
    for fields in ({"encoder_tokens": (2, 2)}, {"encoder_widths": (4,)}, {"kind": "linear"}):
        values = {
            "kind": "attentive",
            "encoder_tokens": (2, 1),
            "encoder_widths": (4, 8),
            **fields,
        }
        with pytest.raises(OptionError, match="of an attentive head, whose tokens sum to 3"):
            HeadSpec(tokens=3, width=8, classes=3, **values)  # type: ignore[arg-type]


def test_module_refuses_tokens_of_another_width() -> None:
    module = MultiEncoderHead(encoder_tokens=(1, 1), encoder_widths=(4, 8), classes=3)
    with pytest.raises(HeadMismatchError, match=r"\(images, 2, 8\), got \(3, 2, 4\): pad"):
        module(torch.randn(3, 2, 4))
