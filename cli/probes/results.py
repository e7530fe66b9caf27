"""`layercache results`: the table of all probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import ProbesRoot, Root, TableFile

if TYPE_CHECKING:
    from layercache.probing.results.table.table import Results

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Only this backbone.", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Only this dataset: its name, or its source, as in folder:PATH.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Only probes of this annotation column; label: the dataset's own.",
        show_default=False,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        help="Only this head: linear, attentive ..., or the id of a probe or the beginning of it.",
        show_default=False,
    ),
]
Layers = Annotated[
    str | None, typer.Option(help="Only these layers: last, all, 1,5,9 ...", show_default=False)
]
Tokens = Annotated[
    str | None, typer.Option(help="Only these tokens: cls, cls+ap ...", show_default=False)
]
OverSeeds = Annotated[
    bool, typer.Option("--over-seeds", help="One row for all seeds: mean and standard deviation.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Test metrics to show, as in roc_auc,f1_macro,log_loss (docs/metrics.md); they are "
        "computed from the stored predictions.",
        show_default="the one that selected, and top-1 accuracy",
    ),
]
Intervals = Annotated[
    bool,
    typer.Option("--intervals", help="With --metrics: their 95 % bootstrap intervals, too."),
]
Superseded = Annotated[
    bool,
    typer.Option(
        "--superseded", help="Only probes of labels or other columns that were replaced since."
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Also show the test scores for each value of an annotation, and the worst.",
        show_default=False,
    ),
]
Paths = Annotated[bool, typer.Option("--paths", help="Show the folder of each probe.")]


def results(
    *,
    model: Model = None,
    dataset: Data = None,
    target: Target = None,
    head: Head = None,
    layers: Layers = None,
    tokens: Tokens = None,
    over_seeds: OverSeeds = False,
    metrics: Metrics = None,
    intervals: Intervals = False,
    superseded: Superseded = False,
    by: By = None,
    paths: Paths = False,
    export: TableFile = None,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Print or export the table of all probes.

    The gain is the test score, by the metric that selected, minus that of a linear head on the last
    class token of the same weights, dataset, splits, seed and training subset, trained in the same
    way. If only other baselines exist, the difference is named below the table.
    """
    from layercache.cache.find import find_caches
    from layercache.cache.storage.paths import cache_root
    from layercache.errors import OptionError
    from layercache.probing.results.reading import read_results

    if intervals and (metrics is None or over_seeds):
        reason = "has none over seeds" if over_seeds else "needs --metrics, as in --metrics roc_auc"
        raise OptionError(f"--intervals {reason}")
    all_results = read_results(cache, dataset=dataset, probes_root=probes, superseded=superseded)
    chosen = _select(
        all_results,
        model=model,
        target=target,
        head=head,
        layers=layers,
        tokens=tokens,
    )
    view: dict[str, Any] = {
        "gain": True,
        "among": all_results,
        "over_seeds": over_seeds,
        "metrics": metrics,
        "intervals": intervals,
    }
    echo_lines(chosen.to_text(**view, paths=paths))
    if by is not None:
        echo()
        echo_lines(chosen.text_by(by, caches=find_caches(cache_root(cache))))
    if export is not None:
        echo()
        echo(f"written to {chosen.export(export, **view)}")


def _select(results: Results, **values: str | None) -> Results:
    """Return the probes with these values; `head` may also be the beginning of an id.

    Raises:
        ProbeNotFoundError: No probe has a value, together with those before it.
    """
    from layercache.errors import ProbeNotFoundError
    from layercache.probing.results.table.table import Results

    given: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        selected = results.filter(**{name: value})
        if not selected and name == "head":
            selected = Results([probe for probe in results if probe.id.startswith(value)])
        if not selected:
            existing = sorted({str(value) for value in results.table[name]})
            raise ProbeNotFoundError(
                f"no probe has {', '.join([*given, f'{name} {value!r}'])}; "
                f"expected {name} {' or '.join(existing)}"
            )
        results = selected
        given.append(f"{name} {value!r}")
    return results
