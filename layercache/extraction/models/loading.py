"""Loading a frozen ViT as a Backbone: by its name, or from an Encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layercache._devices import resolve_device
from layercache._offline import is_offline
from layercache.cache.format.cache_spec import Precision, StorageDtype, Tap
from layercache.cache.format.layers_and_tokens import parse_layers
from layercache.cache.format.origin import model_source
from layercache.errors import OptionError
from layercache.extraction.models.backbone import COMPUTE_DTYPES, STORAGE_DTYPES, Backbone
from layercache.extraction.models.class_attention import check_class_attention
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.pooling import TokenPooling, parse_kinds, parse_spatial_kinds
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Background, Preprocessing
from layercache.extraction.models.sources import load_model
from layercache.extraction.models.taps import INNER_TAPS, find_taps
from layercache.extraction.models.vit import LoadRequest, ViT


def load_encoder(
    model: str | Encoder,
    *,
    weights: str | Path | None = None,
    tap: Tap = "norm2",
    layers: str | Sequence[int] = "all",
    tokens: str | Sequence[str] = ("cls", "ap"),
    projected: bool = False,
    precision: Precision = "fp32",
    storage_dtype: StorageDtype = "float16",
    device: str = "auto",
    compile: bool = False,
    paper_compat: bool = False,
    preprocessing: Preprocessing | PreprocessingOptions | None = None,
    background: Background = "drop",
    offline: bool = False,
    spatial: str | None = None,
    spatial_layers: str | Sequence[int] = "last",
) -> Backbone:
    """Load a frozen ViT by its name, or from an Encoder: from images to the tokens of every layer.

        encoder = layercache.load_encoder("vit_nano", layers="last")
        tokens = encoder.encode(["cat.jpg", image])    # (layers, token kinds, images, width)

    Args:
        model: A short name of MODELS, timm's name of a ViT, its address ("hf-hub:ORG/NAME",
            "local-dir:PATH", "FILE.py:FUNCTION"), or an Encoder.
        weights: A safetensors or torch file; by default the bundled one, or what timm downloads.
        tap: Point in a block where a layer is read: see `layercache.extraction.models.taps`.
        layers: "all", "last", "mid-last", "quarter", "1,5,9" or numbers out of 1..B.
        tokens: Kinds out of "cls", "ap", "reg", "std", "max", "attn", "grid:K", "patch" and
            "all", joined by "+" or ",".
        projected: Map the last layer's tokens into CLIP's joint space, padded with zeros to D.
        precision: Arithmetic of the forward: "fp32", "bf16" or "fp16".
        storage_dtype: dtype of the returned tokens: "float16" or "float32".
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for a GPU if there is one.
        compile: Compile the forward with torch.compile.
        paper_compat: Preprocess DINOv2 and MAE as the paper did: bilinear to 256, crop of 224.
        preprocessing: Options that replace parts of the weights' own preprocessing, or a
            preprocessing to use instead, as it is in a cache's spec.
        background: What transparent pixels become: "drop" the alpha channel, or composite on
            "white" or "black".
        offline: Forbid downloads, as $LAYERCACHE_OFFLINE does.
        spatial: Kind of spatial tokens, "grid:K", "patch" or "all", which the attribute `spatial`
            of the result returns: a backbone of the same module.
        spatial_layers: Layers of the spatial tokens, as `layers`.

    Raises:
        UnknownNameError: A name is unknown.
        OptionError: An option is out of range.
        BackboneError: The model or its weights cannot be used so.
    """
    for option, value, known in (
        ("precision", precision, COMPUTE_DTYPES),
        ("storage_dtype", storage_dtype, STORAGE_DTYPES),
    ):
        if value not in known:
            raise OptionError(f"{option}: expected {' or '.join(known)}, got {value!r}")
    if projected and tap in INNER_TAPS:
        raise OptionError(
            f"projected maps the last layer's hidden state, which tap {tap!r} does not read: "
            "leave projected out, or use tap 'norm2'"
        )
    source = model_source(model) if isinstance(model, str) else model
    kinds = parse_kinds(tokens)
    if projected and (nonlinear := [kind for kind in kinds if kind in ("std", "max")]):
        raise OptionError(
            f"projected maps tokens and their means, not tokens {'+'.join(nonlinear)!r}: leave out "
            "the one or the other"
        )
    requested = [(kinds, layers)]
    if spatial is not None:
        requested.append((parse_spatial_kinds(spatial), spatial_layers))

    def layers_of(vit: ViT, layers: str | Sequence[int]) -> tuple[int, ...]:
        words = layers if isinstance(layers, str) else ",".join(map(str, layers))
        return parse_layers(words, len(vit.blocks))

    def pooling_of(vit: ViT, kinds: tuple[str, ...]) -> TokenPooling:
        return TokenPooling(
            kinds=kinds,
            class_token=vit.class_token,
            num_prefix_tokens=vit.num_prefix_tokens,
            grid_size=vit.grid_size,
            num_registers=vit.num_registers,
        )

    def check(vit: ViT) -> None:
        for kinds, layers in requested:
            pooling_of(vit, kinds)
            points = find_taps(vit, tap=tap, layers=layers_of(vit, layers))
            if "attn" in kinds:
                for point in points:
                    check_class_attention(point.block, architecture=vit.kind)

    request = LoadRequest(
        weights=weights,
        projected=projected,
        paper_compat=paper_compat,
        preprocessing=preprocessing,
        tap=tap,
        offline=is_offline(offline),
    )
    loaded = load_model(source, request, check=check)
    loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, background=background))
    run_layers = [n for _, layers in requested for n in layers_of(loaded.vit, layers)]
    backbones = [
        Backbone(
            model=loaded,
            name=source if isinstance(source, str) else source.name,
            tap=tap,
            layers=layers_of(loaded.vit, layers),
            pooling=pooling_of(loaded.vit, kinds),
            precision=precision,
            storage_dtype=storage_dtype,
            device=str(resolve_device(device)[0]),
            compile=compile,
            run_layers=run_layers,
        )
        for kinds, layers in requested
    ]
    backbones[0].spatial = backbones[1] if spatial is not None else None
    return backbones[0]
