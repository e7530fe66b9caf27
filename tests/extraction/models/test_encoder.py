"""Encoders of a user's own: what is refused, and what stays as it was.

The conformance suite compares their tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layercache
from layercache.errors import BackboneError, LayercacheError, OptionError, UnknownNameError
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.sources import describe_model
from tests.extraction.models.own_modules import (
    PREPROCESSING,
    PlainViT,
    encoder,
    plain,
    torch_encoder,
    torchvision_vit,
)

IMAGES = torch.randint(
    0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (plain, {"blocks": "layer"}, "mine: blocks='layer': there is no such module; parts of its "
         "PlainViT: embed, layers, ln_post"),
        (plain, {"blocks": "embed"}, "PlainViT: expected blocks 'embed' to be an nn.ModuleList"),
        (plain, {"norm2": "norm2"}, r"mine: norm2='norm2': there is no such module in layers\[0\]; "
         "parts of its PlainBlock: ln_1, attn, ln_2, c_fc, gelu, c_proj"),
        (plain, {"final_norm": "norm"}, "mine: final_norm='norm': there is no such module; parts"),
        (plain, {"attn": "attn"}, r"mine: attn of layers\[0\] returns a tuple of 2, expected the "
         r"hidden state alone: name its index, as in attn='PATH\[0\]'"),
        (plain, {"attn": "attn[2]"}, r"returns a tuple of 2, which has no item 2"),
        (plain, {"attn": "attn[1]"}, r"attn of layers\[0\]: expected a hidden state .* a NoneType"),
        (plain, {"mlp": "ln_1[0]"}, r"mlp of layers\[0\] returns a Tensor, which has no item 0"),
        (plain, {"norm2": "ln_1"}, r"mine: norm2 of layers\[0\] is not what its fc1 reads: leave "
         "norm2 out"),
        (plain, {"returns_tuple": True, "block_output": None}, r"mine: layers\[0\] returns a tuple "
         "of 2, expected the hidden state alone: name its index, as in block_output=0"),
        (plain, {"prefix_tokens": 1, "registers": 0}, "mine: its blocks have 19 tokens of an image "
         r"of 32 x 32, which are no grid of square patches after 1 prefix tokens: expected "
         r"prefix_tokens 3 \(4 x 4 patches\)"),
        (plain, {"forward": "encode"}, "mine: PlainViT has no method 'encode': name another"),
        (plain, {"attn": "out_proj"}, "there is no such module"),
        (torch_encoder, {"batch_first": True, "norm_first": False}, r"norm1 of body.layers\[0\] is "
         "not what its attn reads"),
        (torchvision_vit, {"batch_first": False}, r"got \(17, 2, 24\): is it tokens first\? "
         "batch_first=True"),
    ],
)  # fmt: skip
def test_load_backbone_of_a_wrong_description_says_what_is_wrong(
    make: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load_encoder(make(**options))


def test_load_backbone_of_tokens_first_layout_suggests_the_option() -> None:
    described = torch_encoder(batch_first=False)
    other = {f: getattr(described, f) for f in ("blocks", "norm2", "prefix_tokens", "class_token")}
    with pytest.raises(BackboneError, match=r"is it tokens first\? batch_first=False"):
        load_encoder(encoder(described.module, **other))
    assert load_encoder(described, tokens="ap").width == 24


class Masking(PlainViT):
    """Shuffles its patches in every forward."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :, torch.randperm(32)])


class Pooling(PlainViT):
    """Drops half of the patches after the first block."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = self.layers[0](x)
        hidden: Tensor = self.layers[2](self.layers[1](x[:, :8]))
        return hidden


class Skipping(PlainViT):
    """Does not run its last block."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 2


class Repeating(PlainViT):
    """Runs one block three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.layers[0]] * 3)


class Failing(PlainViT):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no positions for 32 x 32")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Masking, r"mine: layers\[0\] gives other tokens in another forward of the same images"),
        (Pooling, r"mine: the blocks 'layers' give \(tokens, width\) \(16, 24\), \(8, 24\)"),
        (Skipping, r"mine: layers\[2\] runs 0 times in a forward, expected once"),
        (Repeating, r"mine: layers\[0\] runs 3 times in a forward, expected once"),
        (Failing, r"mine: its forward fails for images \(2, 3, 32, 32\): RuntimeError: no "
         "positions for 32 x 32"),
    ],
)  # fmt: skip
def test_load_backbone_of_a_forward_that_does_not_fit_says_why(
    module: type[nn.Module], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load_encoder(encoder(module(), blocks="layers", prefix_tokens=3), tap="block")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tap": "attn"}, r"tap attn needs Encoder\(attn=...\), which is not given: use tap"),
        ({"tap": "block-norm"}, "needs a final norm for layer 1, and this architecture has none"),
        ({"tap": "block", "tokens": "attn"}, "tokens 'attn' expect blocks with one softmax"),
        ({"tap": "block", "tokens": "reg"}, "tokens 'reg': this model has no registers"),
        ({"tap": "block", "weights": "x.pt"}, "weights: mine has its own: load them into the"),
        ({"tap": "block", "projected": True}, "projected: mine has no known projection"),
        ({"tap": "block", "preprocessing": PreprocessingOptions(input_size=40)},
         r"mine: its forward fails for images \(2, 3, 40, 40\)"),
    ],
)  # fmt: skip
def test_load_backbone_of_an_encoder_without_what_is_requested_raises(
    options: dict[str, Any], message: str
) -> None:
    bare = encoder(PlainViT(), blocks="layers", prefix_tokens=3)
    with pytest.raises(LayercacheError, match=message):
        load_encoder(bare, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a:b"}, "name: expected a text without ':'"),
        ({"name": "vit_nano"}, "no short name of `layercache models`, got 'vit_nano'"),
        ({"class_token": 3}, "class_token: expected an index .* 0 to 0, or None, got 3"),
        ({"prefix_tokens": 0}, "class_token: expected None, as there are 0 prefix tokens"),
        ({"registers": 2}, "registers: 2 of 1 prefix tokens"),
        ({"prefix_tokens": -1}, "prefix_tokens: expected at least 0, got -1"),
        ({"norm2": "a b"}, "norm2: expected a dotted path in a block"),
        ({"preprocessing": PreprocessingOptions(input_size=32)}, "expected also mean, std"),
        ({"preprocessing": {"input_size": 32}}, "expected layercache.PreprocessingOptions, got d"),
    ],
)
def test_encoder_with_an_impossible_option_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        encoder(PlainViT(), blocks="layers", **options)


def test_load_backbone_leaves_the_encoders_module_alone() -> None:
    own = plain().module.train().requires_grad_()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    described = encoder(own, blocks="layers", prefix_tokens=3)
    load_encoder(described, tap="block", layers="1", precision="bf16")(IMAGES)
    assert own.training
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    assert not any(part._forward_hooks for part in own.modules())


@pytest.mark.parametrize("make", [plain, torch_encoder, torchvision_vit])
def test_backbone_of_some_layers_does_not_run_later_blocks(make: Any) -> None:
    ran: list[str] = []

    def count(name: str, block: nn.Module) -> None:
        block.register_forward_pre_hook(lambda m, args: ran.append(name))

    backbone = load_encoder(make(), tap="block", layers=(1, 2), tokens="ap")
    for name, block in backbone.module.get_submodule(make().blocks).named_children():
        count(name, block.ln_1 if hasattr(block, "ln_1") else getattr(block, "norm1", block))
    everything = load_encoder(make(), tap="block", tokens="ap")
    assert torch.equal(backbone(IMAGES), everything(IMAGES)[:2])
    assert [name for name in ran if "2" not in name] == ran[:2]


def test_architecture_names_the_place_that_is_read_alone() -> None:
    """A further place must not change the identity of a cache; another one at its tap must."""
    more, less = plain(), plain(attn=None, fc1=None, act=None, mlp=None, norm1=None)
    other = plain(norm2="ln_1", fc1=None, mlp=None)
    names = {tap: [load_encoder(e, tap=tap).architecture for e in (more, less, other)]  # type: ignore[arg-type]
             for tap in ("norm2", "block")}  # fmt: skip
    assert names["norm2"][0] == names["norm2"][1] != names["norm2"][2]
    assert len(set(names["block"])) == 1


def test_encoder_is_public_and_described() -> None:
    assert layercache.Encoder is Encoder
    info = describe_model(plain())
    assert (info.name, info.width, info.depth, info.input_size, info.patch_size) == (
        *("mine", 24, 3, 32, 8),
    )
    assert info.tokens == ("cls", "ap", "reg", "std", "max", "grid:K", "all")
    assert info.params_m == sum(p.numel() for p in plain().module.parameters()) / 1e6


FILE = """
from own_options import PREPROCESSING
from layercache import Encoder
from tests.extraction.models.own_modules import plain

def mine():
    return plain()

def fails():
    weights = {}
    return weights["vit.pt"]

def number():
    return 3

def needs(path, *, size=3):
    return path
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own_options.py").write_text("PREPROCESSING = 1\n")
    path = tmp_path / "encoders.py"
    path.write_text(FILE)
    return path


def test_load_backbone_of_a_files_function_equals_the_object(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    backbone = load_encoder("encoders.py:mine")
    expected = load_encoder(plain())
    assert backbone.name == describe_model("encoders.py:mine").name == f"{file}:mine"
    assert backbone.weights_digest == expected.weights_digest
    assert torch.equal(backbone(IMAGES), expected(IMAGES))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r":fails: fails\(\) failed at line 11: KeyError: 'vit.pt'"),
        ("number", r":number: expected number\(\) to return a layercache.Encoder, got int"),
        ("needs", ":needs: expected a function without arguments, got one with path"),
        ("mein", "unknown function of .*encoders.py 'mein': did you mean mine"),
    ],
)
def test_load_backbone_of_a_function_that_fails_says_where(
    file: Path, function: str, message: str
) -> None:
    with pytest.raises((BackboneError, UnknownNameError), match=message):
        load_encoder(f"{file}:{function}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "its import failed at line 1: SyntaxError: "),
        (
            "\nimport no_such_package",
            "failed at line 2: ModuleNotFoundError: No module named 'no_s",
        ),
    ],
)
def test_load_backbone_of_a_file_that_cannot_be_imported_says_where(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "encoders.py").write_text(source)
    with pytest.raises(BackboneError, match=message):
        load_encoder(f"{tmp_path}/encoders.py:mine")


def test_load_backbone_of_a_missing_file_raises() -> None:
    with pytest.raises(BackboneError, match=r"there is no file /nowhere/x.py: name it where"):
        load_encoder("/nowhere/x.py:mine")


def test_preprocessing_of_an_encoder_takes_options() -> None:
    options = PreprocessingOptions(crop_pct=1.0, interpolation="bilinear")
    own = load_encoder(plain()).preprocessing
    changed = load_encoder(plain(), preprocessing=options).preprocessing
    assert (own.input_size, own.resize, own.interpolation) == ((32, 32), (40, 40), "bicubic")
    assert (changed.resize, changed.interpolation) == ((32, 32), "bilinear")
    assert own.mean == changed.mean == PREPROCESSING.mean


def test_extract_with_weights_for_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="weights: mine has its own: load them into the module"):
        layercache.extract(
            models=plain(), weights="x.pt", dataset="digits", limit=20, cache=tmp_path
        )


def test_extract_with_a_bare_module_or_an_encoder_twice_raises() -> None:
    with pytest.raises(OptionError, match=r"expected names or layercache.Encoder objects, got Pl"):
        layercache.extract(models=[plain().module], dataset="digits")
    with pytest.raises(OptionError, match="models: expected each once, got mine, mine"):
        layercache.extract(models=[plain(), plain()], dataset="digits")
