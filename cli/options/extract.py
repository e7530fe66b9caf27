"""Options of `layercache extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from layercache_cli.options import panels

Model = Annotated[
    list[str],
    panels.model(
        "--model",
        "-m",
        help="Backbone: see `layercache models`, any timm ViT, hf-hub:ORG/NAME or local-dir:PATH, "
        "one of transformers, hf:ORG/NAME or hf:PATH, or of OpenCLIP, open_clip:NAME/TAG, or "
        "FILE.py:FUNCTION of an encoder of your own. Repeatable: they share decodes.",
    ),
]
Data = Annotated[
    str,
    panels.images(
        "--dataset",
        "-d",
        help="Dataset: see `layercache datasets`, or folder:PATH, wds:PATH, hf:NAME, csv:FILE.",
    ),
]
Name = Annotated[
    str | None,
    panels.images(
        "--name",
        help="Name of the dataset in caches and tables.",
        show_default="its own; of a path the last part",
    ),
]
Weights = Annotated[
    list[str] | None,
    panels.model(
        metavar="[MODEL=]FILE",
        help="Local checkpoint (safetensors or torch); with several models, MODEL=FILE.",
        show_default=False,
    ),
]
DataRoot = Annotated[
    Path | None,
    panels.images(
        help="Folder of the dataset's files; default $LAYERCACHE_DATA.", show_default=False
    ),
]
Download = Annotated[
    bool, panels.images("--download", hidden=True, help="No effect: missing files are downloaded.")
]
Offline = Annotated[
    bool,
    panels.images(
        "--offline", help="Download neither dataset nor weights; also $LAYERCACHE_OFFLINE."
    ),
]
Split = Annotated[
    list[str] | None,
    panels.images("--split", help="Only this split; repeatable.", show_default="all"),
]
Limit = Annotated[
    int | None,
    panels.images(
        help="Largest number of samples of each split, stratified by class.", show_default=False
    ),
]
Seed = Annotated[int, panels.images(help="Seed of the sampling by --limit.")]
Tap = Annotated[
    str,
    panels.tokens(
        help="Where layer l of 1..B is read. norm2: in block l + 1, for l = B the final norm | "
        "block: the residual stream after block l | block-norm: that through the final norm | "
        "norm1, attn, fc1, act (the MLP's inner activation), mlp: inside block l, B alike.",
        metavar="TAP",
    ),
]
Layers = Annotated[
    str, panels.tokens(help="all | last | mid-last | quarter | numbers, as in 1,5,9.")
]
Tokens = Annotated[
    str,
    panels.tokens(
        help="cls, ap (mean of the patches), reg (of the registers), std, max (over the patches), "
        "attn (mean weighted by the class token's attention), grid:K, patch (every patch), all "
        "(cls+patch), joined by +."
    ),
]
Spatial = Annotated[
    str | None,
    panels.tokens(
        help="Spatial tokens that go to a second cache, from the same forward: patch (every "
        "patch) | all (and CLS) | grid:K.",
        metavar="KIND",
        show_default=False,
    ),
]
SpatialLayers = Annotated[str, panels.tokens(help="Layers of the spatial tokens, as for --layers.")]
Store = Annotated[
    str | None,
    panels.cache(
        help="How the spatial tokens are stored: int8 (a byte a channel) | pca:R (R principal "
        "components, a byte each) | pq:M (product quantization, M bytes a token).",
        metavar="int8|pca:R|pq:M",
        show_default="as --storage-dtype",
    ),
]
BatchSize = Annotated[
    int | None, panels.run(help="Images per forward.", show_default="256 on a GPU, 64 on a CPU")
]
Workers = Annotated[
    int | None, panels.run(help="Decoding processes; 0: a thread.", show_default="measured")
]
Device = Annotated[str, panels.run(help="auto | cpu | cuda | mps.")]
Precision = Annotated[str, panels.tokens(help="Arithmetic of the forward: fp32 | bf16 | fp16.")]
StorageDtype = Annotated[
    str,
    panels.cache(
        "--storage-dtype", "--store-dtype", help="dtype of the stored tokens: float16 | float32."
    ),
]
Compressor = Annotated[
    str | None,
    panels.cache(
        "--compressor",
        "--codec",
        help="Compression of the stored tokens: zstd | blosc, with :LEVEL.",
        show_default="none",
    ),
]
Projected = Annotated[
    bool, panels.tokens("--projected", help="Store CLIP's last layer after its projection.")
]
PaperCompat = Annotated[
    bool,
    panels.preprocessing("--paper-compat", help="Preprocess for DINOv2 and MAE as the paper does."),
]
Background = Annotated[
    str,
    panels.preprocessing(
        help="Transparent pixels: drop the alpha channel, so that the colours it hid appear | put "
        "them on white | black.",
        metavar="drop|white|black",
    ),
]
InputSize = Annotated[
    str | None,
    panels.preprocessing(
        help="Pixels of the model's input, a multiple of its patches.",
        metavar="H[xW]",
        show_default="the model's own",
    ),
]
CropPct = Annotated[
    float | None,
    panels.preprocessing(
        help="Side of the crop over that of the resized image, up to 1.",
        show_default="the model's own",
    ),
]
CropMode = Annotated[
    str | None,
    panels.preprocessing(
        help="How the image is scaled: fill and crop | stretch | fit inside and pad.",
        metavar="center|squash|border",
        show_default="the model's own",
    ),
]
Interpolation = Annotated[
    str | None,
    panels.preprocessing(
        help="Filter of the resize: bicubic | bilinear | lanczos | box | hamming | nearest.",
        metavar="FILTER",
        show_default="the model's own",
    ),
]
Mean = Annotated[
    str | None,
    panels.preprocessing(
        help="Mean per channel, of values in 0..1.", metavar="R,G,B", show_default="the model's own"
    ),
]
Std = Annotated[
    str | None,
    panels.preprocessing(
        help="Standard deviation per channel, of values in 0..1.",
        metavar="R,G,B",
        show_default="the model's own",
    ),
]
OnError = Annotated[
    str,
    panels.images(
        help="An image that cannot be decoded: raise an error | skip it and list it in the cache.",
        metavar="raise|skip",
    ),
]
Compile = Annotated[bool, panels.run("--compile", help="torch.compile the forward.")]
Deterministic = Annotated[
    bool,
    panels.run(
        "--deterministic",
        help="Only deterministic algorithms on a GPU (a CPU is deterministic anyhow).",
    ),
]
Yes = Annotated[bool, panels.cache("--yes", "-y", help="Write a large cache without asking.")]
Wait = Annotated[
    bool, panels.cache("--wait", help="Wait for another process that is writing the same split.")
]
Engine = Annotated[
    str, panels.run(help="Where the forwards run: local | ray (a Ray cluster; the same bytes).")
]
Address = Annotated[
    str | None,
    panels.run(
        help="Ray cluster to join: auto | HOST:PORT.",
        show_default="with --engine ray, one of this machine alone",
    ),
]
