"""An ensemble as a stored probe: its specification, its row of the results table, its files.

It is kept in the folder of its first member's probes, without a head: `probe.json` names the
members and their coefficients, and `predictions.npz` has the pooled test outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layercache._units import join_words
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheCorruptError
from layercache.probing.ensemble.members import HEAD, EnsembleMember
from layercache.probing.ensemble.pool_or_member import Choice
from layercache.probing.head_evaluation import evaluate_predictions, stored_metrics
from layercache.probing.metrics import PRIMARY, Metric
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.locations import probe_folders
from layercache.probing.results.lookup import read_stored
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import Probe, read_probe
from layercache.probing.spec import SCHEMA, probe_id

Row = dict[str, Any]
Spec = dict[str, Any]

SHARED = ("shots", "train_fraction", "splits", "target", "annotations", "validation")
"""Fields of a spec that all members have in common."""


def make_spec(members: Sequence[EnsembleMember], *, metric: Metric) -> Spec:
    """Return the specification of an ensemble, whose digest is its id."""
    first = members[0].probe.spec
    sources: dict[str, Any] = {}
    for member in members:
        for source in member.probe.spec["sources"]:
            known = sources.setdefault(source["fingerprint"], {**source, "pairs": []})
            known["pairs"] += [pair for pair in source["pairs"] if pair not in known["pairs"]]
    task = members[0].spec.head_spec.task
    values: Spec = {
        "schema": SCHEMA,
        "sources": list(sources.values()),
        "head": HEAD,
        # as a baseline, an ensemble has the shape of a linear head on the tokens of all members
        "head_spec": {
            **{name: first["head_spec"][name] for name in ("width", "classes", "multi_label")},
            **({"regression": True} if first["head_spec"].get("regression") else {}),
            "kind": "linear",
            "tokens": sum(len(source["pairs"]) for source in sources.values()),
            "num_heads": 0,
            "embedding_ids": None,
        },
        "grid": [{}],
        "seed": first["seed"],
        "train_config": None,
        "precision": None,
        **{name: first[name] for name in SHARED if name in first},
        "ensemble": {
            "members": [
                {
                    "probe": member.probe.id,
                    "fingerprint": member.probe.spec["sources"][0]["fingerprint"],
                    "experiment": member.experiment,
                    "seed_offset": member.probe.spec["seed"] - first["seed"],
                }
                for member in members
            ],
        },
    }
    if metric.name != PRIMARY[task]:
        values["select"] = metric.name
    if tests := _common_tests(members):
        values["tests"] = tests
    return values


def find_ensemble(
    first: EnsembleMember, spec: Spec, *, probes_root: str | CachePath | None = None
) -> Probe | None:
    """Return the stored ensemble of a specification, or None; a damaged one is fitted again."""
    try:
        return read_stored(first.spec.tokens.cache, probe_id(spec), probes_root)
    except CacheCorruptError:
        return None


def write_ensemble(
    members: Sequence[EnsembleMember],
    spec: Spec,
    choice: Choice,
    *,
    metric: Metric,
    probes_root: str | CachePath | None,
    n_val_rows: int,
    seconds: float,
) -> Probe:
    """Pool the stored test outputs of the members, evaluate them and write the ensemble.

    Args:
        members: The members.
        spec: The ensemble's specification.
        choice: The fitted pool and its scores.
        metric: Metric that judged it.
        probes_root: Root of probes outside their caches.
        n_val_rows: Number of held-out samples.
        seconds: Duration of the fit.
    """
    first = members[0]
    judged = replace(first.spec, select=spec.get("select"))
    names = [spec["splits"][1], *(test["name"] for test in spec.get("tests", ()))]
    predictions = [_pool_predictions(members, name, choice) for name in names]
    row = _identity(members, spec, choice)
    for name, pooled in zip(names, predictions, strict=True):
        end = "" if name == names[0] else f"@{name}"
        values = evaluate_predictions(judged, pooled)
        for column in ("test_rows", "test_rows_in_train", "test_groups_in_train"):
            values[column] = first.probe.row.get(f"{column}{end}")
        row |= {f"{column}{end}": value for column, value in values.items()}
    row |= {f"val_{name}": None for name in stored_metrics(judged)}
    row |= {
        f"val_{metric.name}": choice.val_score,
        "val_rows": n_val_rows,
        "train_seconds": round(seconds, 2),
    }
    coefficients = zip(members, choice.pool.coefficients, strict=True)
    score = ConfigScore(
        hparams={member.probe.id: float(value) for member, value in coefficients},
        fold=None,
        val_metrics={metric.name: choice.val_score},
    )
    folder = ProbeFolder(probe_folders(first.spec.tokens.cache, probes_root)[0] / str(row["probe"]))
    with folder.locked():
        folder.write(spec=spec, row=row, configs=[score], head=None, predictions=predictions)
    probe = read_probe(folder.path)
    assert probe is not None
    return probe


def _pool_predictions(members: Sequence[EnsembleMember], test: str, choice: Choice) -> Predictions:
    stored = [member.probe.predictions(test) for member in members]
    outputs_mnc = np.stack([part.logits for part in stored])
    return replace(
        stored[0],
        logits=choice.pool.combine(outputs_mnc),
        attention_mean=None,
        attention_std=None,
    )


def _common_tests(members: Sequence[EnsembleMember]) -> list[Any]:
    """Return the further test sets that all members were tested on, with the same images."""

    def images(member: EnsembleMember, name: str) -> str:
        return member.probe.predictions(name).ids

    return [
        test
        for test in members[0].probe.spec.get("tests", ())
        if all(
            test["name"] in member.probe.tests
            and images(member, test["name"]) == images(members[0], test["name"])
            for member in members[1:]
        )
    ]


def _identity(members: Sequence[EnsembleMember], spec: Spec, choice: Choice) -> Row:
    """Return the columns that say which ensemble a row is, and the size of its members."""
    rows = [member.probe.row for member in members]
    pool = choice.pool
    words = [
        f"{weight:.2f} {member.probe.id[:6]}"
        for member, weight in zip(members, pool.weights, strict=True)
        if weight
    ]
    config = f"{join_words(words)}, temperature {pool.temperature:.3g}"
    if choice.fallback is not None:
        config = f"{members[choice.fallback].probe.id[:6]} alone"
    return {
        **{name: rows[0].get(name) for name in ("dataset", "dataset_digest", "fingerprint", "tap")},
        **{name: rows[0].get(name) for name in ("weights_digest", "shots", "train_fraction")},
        "probe": probe_id(spec),
        "model": "+".join(dict.fromkeys(str(row["model"]) for row in rows)),
        "head": HEAD,
        **{
            name: " & ".join(dict.fromkeys(str(row[name]) for row in rows if row[name]))
            for name in ("layers", "tokens", "spatial")
        },
        "n_tokens": spec["head_spec"]["tokens"],
        "num_heads": 0,
        "embedding": False,
        "seed": spec["seed"],
        "precision": None,
        "train_config_digest": sha256_json(None)[:12],
        "grid_digest": sha256_json(spec["ensemble"])[:12],
        **dict.fromkeys(("lr", "weight_decay", "dropout", "epochs", "batch_size", "steps")),
        "config": config,
        "n_params": sum(int(row["n_params"]) for row in rows) + len(members),
        "n_configs": 1,
        "configs_per_pass": None,
        "n_diverged": 0,
        "converged": None,
        "n_folds": rows[0].get("n_folds"),
        "train_rows": rows[0].get("train_rows"),
        "empty_classes": rows[0].get("empty_classes", ""),
        "device": rows[0].get("device"),
        "features": rows[0].get("features"),
    }
