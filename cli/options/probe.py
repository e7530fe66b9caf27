"""Options of `layercache probe`; those on splits are in `splits`."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli.options import panels

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        rich_help_panel=panels.CACHE,
        help="Backbone whose cache to use.",
        show_default="the only one",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        rich_help_panel=panels.CACHE,
        help="Dataset whose cache to use: its name, or its source, as in folder:PATH.",
        show_default="the only one",
    ),
]
Fingerprint = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.CACHE,
        help="First digits of the cache's fingerprint, if several match.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.TARGET,
        help="Annotation column to predict, or several, as in a,b,c; see layercache annotate.",
        show_default="the dataset's label",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.TARGET,
        help="classification | multi-label | regression.",
        show_default="by the values: floats are a regression, integers are classes",
    ),
]
Head = Annotated[
    list[str],
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="linear | scalar-mix | attentive | attentive-tokens | hybrid | efficient | "
        "fusion | knn | logreg | ridge | lda (docs/heads.md). Repeatable.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="last | mid-last | quarter | all | numbers, as in 1,5,9. Repeatable.",
        show_default="all",
    ),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="cls, ap, reg, std, max, attn, grid:K, patch, joined by +; or all. Repeatable.",
        show_default="cls+ap",
    ),
]
Spatial = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="Spatial tokens of the hybrid and fusion heads: grid:K | patch.",
        show_default=False,
    ),
]
SpatialLayers = Annotated[
    str, typer.Option(rich_help_panel=panels.HEAD, help="Layers of the spatial tokens.")
]
SpatialCache = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="Folder of the cache of the spatial tokens, if it is another one.",
        show_default=False,
    ),
]
Embedding = Annotated[
    bool,
    typer.Option(
        "--embedding",
        rich_help_panel=panels.HEAD,
        help="Hybrid and fusion heads: learn an embedding for each layer and kind of token; "
        "fusion for the spatial ones.",
    ),
]
PositionEmbedding = Annotated[
    bool,
    typer.Option(
        "--position-embedding",
        rich_help_panel=panels.HEAD,
        help="The same for each position, too: an embedding for each of these tokens.",
    ),
]
Gate = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.HEAD,
        help="Gate of the fusion head: one weight for both branches (scalar), for each class "
        "(class) or for each image (sample).",
    ),
]
Join = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        metavar="MODEL",
        help="Join the tokens of another encoder: a model with a cache of the same images, or the "
        "folder of a cache. Repeatable.",
        show_default=False,
    ),
]
JoinWidth = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.HEAD,
        metavar="pad|N",
        help="Width to which an attentive head maps the tokens of joined encoders; pad: zeros up "
        "to the largest width.",
        show_default="maps to the largest width",
    ),
]
NumHeads = Annotated[
    int | None,
    typer.Option(
        "--heads",
        rich_help_panel=panels.HEAD,
        help="Attention heads; queries of the efficient head.",
        show_default="one per token; attentive-tokens: 8; efficient: 32",
    ),
]
Lr = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="Learning rates, as in 0.1,0.01.",
        show_default="0.1,0.01,0.001",
    ),
]
WeightDecay = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="Weight decays.",
        show_default="1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1",
    ),
]
Dropout = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SEARCH, help="Attention dropout rates.", show_default="0,0.1,0.3"
    ),
]
Search = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="full | halving (drops the worse configurations early) | coordinate (weight decay "
        "for the best rates only) | auto.",
    ),
]
Seeds = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.SEARCH, help="How many seeds (3: seeds 0, 1, 2), or which: 4,7."
    ),
]
Shots = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="Training samples per class, as in 1,5,10.",
        show_default="all",
    ),
]
TrainFraction = Annotated[
    str | None,
    typer.Option(
        "--fraction",
        rich_help_panel=panels.SEARCH,
        help="Fraction of the training samples, as in 0.01,0.1.",
        show_default="all",
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="Passes over the training samples, more if --min-steps needs them.",
    ),
]
MinSteps = Annotated[
    int, typer.Option(rich_help_panel=panels.SEARCH, help="Minimum number of optimizer steps.")
]
BatchSize = Annotated[int, typer.Option(rich_help_panel=panels.SEARCH, help="Largest batch size.")]
Patience = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=panels.SEARCH,
        help="Stop a configuration after this many epochs without a better validation score.",
        show_default="off",
    ),
]
NoiseStd = Annotated[
    float,
    typer.Option(
        "--noise",
        rich_help_panel=panels.REGULARIZATION,
        help="Standard deviation of the noise that is added to normalized tokens in training.",
    ),
]
NoiseProbability = Annotated[
    float,
    typer.Option(
        rich_help_panel=panels.REGULARIZATION, help="Probability that an image gets such noise."
    ),
]
LayerDropout = Annotated[
    float,
    typer.Option(
        rich_help_panel=panels.REGULARIZATION,
        help="Probability that training leaves out a layer of an image.",
    ),
]
KindDropout = Annotated[
    float,
    typer.Option(
        rich_help_panel=panels.REGULARIZATION,
        help="Probability that training leaves out a kind of token of an image, such as all CLS.",
    ),
]
LastLayerPenalty = Annotated[
    float,
    typer.Option(
        rich_help_panel=panels.REGULARIZATION,
        help="Weight in the loss of the attention to tokens below the last layer.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.SELECTION,
        help="Metric that selects a configuration, such as roc_auc, f1_macro or log_loss.",
        show_default="balanced_accuracy; multi-label: mean_average_precision; regression: r2",
    ),
]
Device = Annotated[str, typer.Option(rich_help_panel=panels.RUN, help="auto | cpu | cuda | mps.")]
Precision = Annotated[
    str, typer.Option(rich_help_panel=panels.RUN, help="fp32 | bf16 for the products over tokens.")
]
Features = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.RUN,
        help="auto | resident (on the device) | stream (read again every epoch).",
    ),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory",
        rich_help_panel=panels.RUN,
        help="Memory for tokens, as in 8GB.",
        show_default="half of the free memory",
    ),
]
DiskCache = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.RUN,
        help="Disk space for tokens streamed from object storage, as in 20GB; 0: none.",
        show_default="half of the free space",
    ),
]
ConfigsPerPass = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        rich_help_panel=panels.RUN,
        help="Largest number of configurations trained together.",
        show_default="as many as fit; on a CPU, up to 512 MiB",
    ),
]
Refresh = Annotated[
    bool,
    typer.Option(
        "--refresh", rich_help_panel=panels.RUN, help="Train probes again that already exist."
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        rich_help_panel=panels.RUN,
        help="Where to train: local | ray (a Ray cluster; the same results).",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        rich_help_panel=panels.RUN,
        help="Ray cluster to join: auto | HOST:PORT.",
        show_default="with --engine ray, a new one on this machine",
    ),
]
