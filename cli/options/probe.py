"""Options of `layercache probe`; those on splits are in `splits`."""

from __future__ import annotations

from typing import Annotated

from layercache_cli.options import panels

Model = Annotated[
    str | None,
    panels.cache("--model", "-m", help="Backbone whose cache to use.", show_default="the only one"),
]
Data = Annotated[
    str | None,
    panels.cache(
        "--dataset",
        "-d",
        help="Dataset whose cache to use: its name, or its source, as in folder:PATH.",
        show_default="the only one",
    ),
]
Fingerprint = Annotated[
    str | None,
    panels.cache(
        help="First digits of the cache's fingerprint, if several match.", show_default=False
    ),
]
Target = Annotated[
    str | None,
    panels.target(
        help="Annotation column to predict, or several, as in a,b,c; see layercache annotate.",
        show_default="the dataset's label",
    ),
]
Task = Annotated[
    str | None,
    panels.target(
        help="classification | multi-label | regression.",
        show_default="by the values: floats are a regression, integers are classes",
    ),
]
Head = Annotated[
    list[str],
    panels.head(
        help="linear | scalar-mix | attentive | attentive-tokens | hybrid | efficient | "
        "fusion | knn | logreg | ridge | lda (docs/heads.md). Repeatable."
    ),
]
Layers = Annotated[
    list[str] | None,
    panels.head(
        help="last | mid-last | quarter | all | numbers, as in 1,5,9. Repeatable.",
        show_default="all",
    ),
]
Tokens = Annotated[
    list[str] | None,
    panels.head(
        help="cls, ap, reg, std, max, attn, grid:K, patch, joined by +; or all. Repeatable.",
        show_default="cls+ap",
    ),
]
Spatial = Annotated[
    str | None,
    panels.head(
        help="Spatial tokens of the hybrid and fusion heads: grid:K | patch | all (fusion: patches "
        "and CLS).",
        show_default=False,
    ),
]
SpatialLayers = Annotated[str, panels.head(help="Layers of the spatial tokens.")]
SpatialCache = Annotated[
    str | None,
    panels.head(
        help="Folder of the cache of the spatial tokens, if it is another one.", show_default=False
    ),
]
Embedding = Annotated[
    bool,
    panels.head(
        "--embedding",
        help="Hybrid and fusion heads: learn an embedding for each layer and kind of token; "
        "fusion for the spatial ones.",
    ),
]
PositionEmbedding = Annotated[
    bool,
    panels.head(
        "--position-embedding",
        help="The same for each position, too: an embedding for each of these tokens.",
    ),
]
Gate = Annotated[
    str,
    panels.head(
        help="Gate of the fusion head: one weight for both branches (scalar), for each class "
        "(class) or for each image (sample)."
    ),
]
Join = Annotated[
    list[str] | None,
    panels.head(
        metavar="MODEL",
        help="Join the tokens of another encoder: a model with a cache of the same images, or the "
        "folder of a cache. Repeatable.",
        show_default=False,
    ),
]
JoinWidth = Annotated[
    str | None,
    panels.head(
        metavar="pad|N",
        help="Width to which an attentive head maps the tokens of joined encoders; pad: zeros up "
        "to the largest width.",
        show_default="maps to the largest width",
    ),
]
NumHeads = Annotated[
    int | None,
    panels.head(
        "--heads",
        help="Attention heads; queries of the efficient head.",
        show_default="one per token; attentive-tokens: 8; efficient: 32",
    ),
]
Lr = Annotated[
    str | None, panels.search(help="Learning rates, as in 0.1,0.01.", show_default="0.1,0.01,0.001")
]
WeightDecay = Annotated[
    str | None, panels.search(help="Weight decays.", show_default="1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1")
]
Dropout = Annotated[
    str | None, panels.search(help="Attention dropout rates.", show_default="0,0.1,0.3")
]
Search = Annotated[
    str,
    panels.search(
        help="full | halving (drops the worse configurations early) | coordinate (weight decay "
        "for the best rates only) | auto."
    ),
]
Seeds = Annotated[str, panels.search(help="How many seeds (3: seeds 0, 1, 2), or which: 4,7.")]
Shots = Annotated[
    str | None, panels.search(help="Training samples per class, as in 1,5,10.", show_default="all")
]
TrainFraction = Annotated[
    str | None,
    panels.search(
        "--fraction", help="Fraction of the training samples, as in 0.01,0.1.", show_default="all"
    ),
]
Epochs = Annotated[
    int, panels.search(help="Passes over the training samples, more if --min-steps needs them.")
]
MinSteps = Annotated[int, panels.search(help="Minimum number of optimizer steps.")]
BatchSize = Annotated[int, panels.search(help="Largest batch size.")]
Patience = Annotated[
    int | None,
    panels.search(
        help="Stop a configuration after this many epochs without a better validation score.",
        show_default="off",
    ),
]
NoiseStd = Annotated[
    float,
    panels.regularization(
        "--noise",
        help="Standard deviation of the noise that is added to normalized tokens in training.",
    ),
]
NoiseProbability = Annotated[
    float, panels.regularization(help="Probability that an image gets such noise.")
]
LayerDropout = Annotated[
    float, panels.regularization(help="Probability that training leaves out a layer of an image.")
]
KindDropout = Annotated[
    float,
    panels.regularization(
        help="Probability that training leaves out a kind of token of an image, such as all CLS."
    ),
]
LastLayerPenalty = Annotated[
    float,
    panels.regularization(
        help="Weight in the loss of the attention to tokens below the last layer."
    ),
]
Select = Annotated[
    str | None,
    panels.selection(
        help="Metric that selects a configuration, such as roc_auc, f1_macro or log_loss.",
        show_default="balanced_accuracy; multi-label: mean_average_precision; regression: r2",
    ),
]
Device = Annotated[str, panels.run(help="auto | cpu | cuda | mps.")]
Precision = Annotated[str, panels.run(help="fp32 | bf16 for the products over tokens.")]
Features = Annotated[
    str, panels.run(help="auto | resident (on the device) | stream (read again every epoch).")
]
MemoryBudget = Annotated[
    str | None,
    panels.run(
        "--memory", help="Memory for tokens, as in 8GB.", show_default="half of the free memory"
    ),
]
DiskCache = Annotated[
    str | None,
    panels.run(
        help="Disk space for tokens streamed from object storage, as in 20GB; 0: none.",
        show_default="half of the free space",
    ),
]
ConfigsPerPass = Annotated[
    int | None,
    panels.run(
        "--group-size",
        help="Largest number of configurations trained together.",
        show_default="as many as fit; on a CPU, up to 512 MiB",
    ),
]
Refresh = Annotated[bool, panels.run("--refresh", help="Train probes again that already exist.")]
Engine = Annotated[
    str, panels.run(help="Where to train: local | ray (a Ray cluster; the same results).")
]
RayAddress = Annotated[
    str | None,
    panels.run(
        "--address",
        help="Ray cluster to join: auto | HOST:PORT.",
        show_default="with --engine ray, a new one on this machine",
    ),
]
