"""`layercache probe`: train heads on cached tokens."""

from __future__ import annotations

import sys
from typing import Any

import typer

from layercache_cli._terminal import confirm, echo, echo_lines
from layercache_cli.options import probe as options
from layercache_cli.options import splits
from layercache_cli.options.shared import ProbeId, ProbesRoot, Root, Yes

probe = typer.Typer(invoke_without_command=True)


@probe.callback()
def train(
    context: typer.Context,
    *,
    model: options.Model = None,
    dataset: options.Data = None,
    target: options.Target = None,
    task: options.Task = None,
    head: options.Head = ["attentive"],  # noqa: B006 - typer copies it
    layers: options.Layers = None,
    tokens: options.Tokens = None,
    spatial: options.Spatial = None,
    spatial_layers: options.SpatialLayers = "last",
    spatial_cache: options.SpatialCache = None,
    embedding: options.Embedding = False,
    position_embedding: options.PositionEmbedding = False,
    gate: options.Gate = "scalar",
    join: options.Join = None,
    join_width: options.JoinWidth = None,
    num_heads: options.NumHeads = None,
    lr: options.Lr = None,
    weight_decay: options.WeightDecay = None,
    dropout: options.Dropout = None,
    search: options.Search = "full",
    seeds: options.Seeds = "1",
    shots: options.Shots = None,
    train_fraction: options.TrainFraction = None,
    epochs: options.Epochs = 40,
    min_steps: options.MinSteps = 1000,
    batch_size: options.BatchSize = 2048,
    patience: options.Patience = None,
    noise: options.NoiseStd = 0.05,
    noise_probability: options.NoiseProbability = 0.5,
    layer_dropout: options.LayerDropout = 0.0,
    kind_dropout: options.KindDropout = 0.0,
    last_layer_penalty: options.LastLayerPenalty = 0.0,
    test_split: splits.TestSplit = ["test"],  # noqa: B006
    test_cache: splits.TestCache = None,
    val_split: splits.ValSplit = "auto",
    folds: splits.Folds = None,
    repeats: splits.Repeats = 1,
    group: splits.Group = None,
    fold_column: splits.FoldColumn = None,
    refit: splits.Refit = "train",
    paper_compat: splits.PaperCompat = False,
    by: splits.By = None,
    select: options.Select = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    features: options.Features = "auto",
    memory_budget: options.MemoryBudget = None,
    disk_cache: options.DiskCache = None,
    configs_per_pass: options.ConfigsPerPass = None,
    refresh: options.Refresh = False,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = None,
    cache: Root = None,
    probes: ProbesRoot = None,
    fingerprint: options.Fingerprint = None,
) -> None:
    """Train heads on cached tokens: select, refit, test.

    Configurations are selected on the validation split, or without one on a stratified 20 % of the
    training samples; the test split is read once per selected head. A killed search resumes.
    """
    from layercache.errors import OptionError
    from layercache.probing.api import probe as run
    from layercache.probing.data.cache_lookup import find_cache_for_heads
    from layercache.probing.training.config import Noise, TrainConfig

    if context.invoked_subcommand is not None:
        sources = map(context.get_parameter_source, context.params)
        if any(source is not None and source.name != "DEFAULT" for source in sources):
            raise OptionError(
                "options before rm would train a probe: put those of rm after it, as in "
                "`layercache probe rm ID --cache DIR`"
            )
        return
    opened = find_cache_for_heads(
        root=cache,
        model=model,
        dataset=dataset,
        fingerprint=fingerprint,
        head=head,
        layers=layers,
        tokens=tokens,
    )
    source = f" ({opened.source})" if opened.source else ""
    echo(f"cache {opened.path}{source}")
    results = run(
        opened,
        target=target,
        task=task,
        head=head,
        layers=layers,
        tokens=tokens,
        spatial=spatial,
        spatial_layers=spatial_layers,
        spatial_cache=spatial_cache,
        embedding=embedding,
        position_embedding=position_embedding,
        gate=gate,  # type: ignore[arg-type]  # checked by `probe`
        join=join or (),
        join_width=join_width,
        num_heads=num_heads,
        lr=parse_numbers(lr, option="--lr"),
        weight_decay=parse_numbers(weight_decay, option="--weight-decay"),
        dropout=parse_numbers(dropout, option="--dropout"),
        search=search,
        seeds=parse_seeds(seeds),
        shots=parse_numbers(shots, option="--shots", integers=True),
        train_fraction=parse_numbers(train_fraction, option="--fraction"),
        train_config=TrainConfig(
            epochs=epochs,
            min_steps=min_steps,
            batch=batch_size,
            patience=patience,
            noise=Noise(std=noise, probability=noise_probability),
            layer_dropout=layer_dropout,
            kind_dropout=kind_dropout,
            last_layer_penalty=last_layer_penalty,
        ),
        test_split=test_split,
        test_cache=test_cache or (),
        val_split=None if val_split == "none" else val_split,
        folds=folds,
        repeats=repeats,
        group=group,
        fold_column=fold_column,
        refit=refit,
        paper_compat=paper_compat,
        by=by,
        select=select,
        device=device,
        precision=precision,
        features=features,
        memory_budget=_size(memory_budget, name="--memory"),
        disk_cache=_size(disk_cache, name="--disk-cache", minimum=0),
        configs_per_pass=configs_per_pass,
        probes_root=probes,
        refresh=refresh,
        engine=engine,
        ray_address=ray_address,
        progress=sys.stderr.isatty(),
    )
    echo()
    echo_lines(results.to_text())
    echo()
    echo_lines(results.summary())


@probe.command()
def rm(
    probe: ProbeId,
    *,
    cache: Root = None,
    probes: ProbesRoot = None,
    yes: Yes = False,
) -> None:
    """Delete one probe, finished or not. Asks first."""
    from layercache._units import format_bytes
    from layercache.probing.results.lookup import describe_probe, find_probe
    from layercache.probing.results.probe_folder import ProbeFolder

    folder = ProbeFolder(find_probe(probe, root=cache, probes_root=probes))
    size = format_bytes(folder.size())
    if not yes:
        words = f"{describe_probe(folder.path)}; {size}"
        confirm(f"Delete {folder.path} ({words})?", abort=True)
    folder.remove()
    echo(f"deleted {folder.path} ({size})")


def parse_numbers(text: str | None, *, option: str, integers: bool = False) -> Any:
    """Return the numbers of a comma-separated list, as floats or ints; None stays None.

    Raises:
        OptionError: The text is no such list.
    """
    from layercache.errors import OptionError

    if text is None:
        return None
    words = [word for word in text.split(",") if word.strip()]
    try:
        numbers = [int(word) if integers else float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers:
        kind, example = ("integers", "1,5,10") if integers else ("numbers", "0.1,0.01")
        raise OptionError(f"{option}: expected a list of {kind} such as {example}, got {text!r}")
    return numbers


def parse_seeds(text: str) -> Any:
    """Return a number of seeds (`3`: 0, 1, 2) or a list of seeds (`4,7`; `4,` is seed 4 alone).

    Raises:
        OptionError: The text is neither.
    """
    from layercache.errors import OptionError

    numbers = parse_numbers(text, option="--seeds", integers=True)
    if min(numbers) < 0 or (numbers == [0] and "," not in text):
        raise OptionError(
            "--seeds: expected a number of seeds, at least 1, or a list of seeds from 0 on such as "
            f"4,7 (one seed: 4,), got {text!r}"
        )
    return numbers if "," in text else numbers[0]


def _size(text: str | None, *, name: str, minimum: int = 1) -> int | None:
    """Return the bytes of an option's value."""
    from layercache._units import parse_bytes

    return None if text is None else parse_bytes(text, name=name, minimum=minimum)
