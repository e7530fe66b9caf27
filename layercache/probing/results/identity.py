"""Identity of an experiment, read from the spec of a probe alone.

A spec (`ProbeSpec.to_json`, stored in probe.json) holds everything that determines a probe.
Whatever averages, pairs, groups or counts probes does it by the functions here, never by names:
datasets or models of different content can share a name, and one choice of layers has several.

    experiment_key   probes that may be averaged: they differ in their seed only
    data_key         probes that may be compared: same backbone, images, splits, subset and seed
    variant_key      probes that were trained in the same way, whatever their head and tokens
    differences      in which of these ways two probes differ, in words
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from layercache.cache.format.cache_spec import sha256_json
from layercache.probing.metrics import task_of

Spec = Mapping[str, Any]
Words = dict[str, str]

LABEL = "label"
"""Name of the dataset's own label as a target."""
DEFAULT_VALIDATION = "20 % of train"
"""Default way of scoring the configurations, in words."""
DATA_OF_EXTRACTION = ("weights", "dataset")
"""Fields of an extraction that identify the backbone and the images, not the options."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A spec as named values in words, which differ wherever two specs do, and its keys."""

    schema: int
    """Schema of the spec."""
    data: Words
    """Backbone, dataset and annotations (digests), target, splits, training subset and seed."""
    extraction: Words
    """Making of the tokens: tap, preprocessing, precision ..."""
    training: Words
    """Training configuration and grid; empty for the baselines, which have their own."""
    head: Words
    """Input and kind of a head, with its whole grid."""
    tests: Words = field(default_factory=dict)
    """Further test sets, which are no reason not to compare two probes on the first."""

    @cached_property
    def experiment_key(self) -> str:
        """See `experiment_key`."""
        data = {name: value for name, value in self.data.items() if name != "seed"}
        parts = [self.schema, data, self.extraction, self.training, self.head]
        return _digest([*parts, self.tests] if self.tests else parts)

    @cached_property
    def data_key(self) -> str:
        """See `data_key`."""
        return _digest(self.data)

    @cached_property
    def variant_key(self) -> str:
        """See `variant_key`."""
        return _digest([self.extraction, self.training])


def experiment_key(spec: Spec | Settings) -> str:
    """Return a digest of all settings but the seed, 12 hex digits.

    Probes that share this key are one experiment with several seeds; those that share the seed as
    well are one probe that is stored twice.
    """
    return read_settings(spec).experiment_key


def data_key(spec: Spec | Settings) -> str:
    """Return a digest of backbone, dataset, splits, training subset and seed, 12 hex digits."""
    return read_settings(spec).data_key


def variant_key(spec: Spec | Settings) -> str:
    """Return a digest of how a probe's tokens were made and its head trained, 12 hex digits.

    Dropout is no part of it, as linear heads have none. The baselines (knn, logreg, ridge,
    lda) are trained in one way only, so their key depends on the tokens alone.
    """
    return read_settings(spec).variant_key


def search_key(spec: Spec) -> str:
    """Return a digest of all that determines a search, but not what its head is tested on."""
    values = {name: value for name, value in spec.items() if name not in ("splits", "tests")}
    return _digest([values, spec["splits"][0]])


def differences(spec: Spec | Settings, other: Spec | Settings) -> dict[str, tuple[str, str]]:
    """Return the settings in which the variants of two probes differ: (value, other's value).

    Training is not compared with that of a baseline. No difference means the same variant.
    """
    one, two = read_settings(spec), read_settings(other)
    pairs = [(one.extraction, two.extraction)]
    if one.training and two.training:
        pairs.append((one.training, two.training))
    return {
        name: (a.get(name, "default"), b.get(name, "default"))
        for a, b in pairs
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    }


def read_settings(spec: Spec | Settings) -> Settings:
    """Return the settings in a spec; those of a stored probe are read once, as `Probe.settings`."""
    if isinstance(spec, Settings):
        return spec
    sources = spec["sources"]
    first = sources[0]["extraction"]
    train_split, test_split = spec["splits"]
    data = {
        **{f"{name} digest": str(first[name]) for name in DATA_OF_EXTRACTION},
        **_target(spec),
        "train split": train_split,
        "test split": test_split,
        **_validation(spec.get("validation", {})),
        "shots": _text(spec["shots"], none="all"),
        "train fraction": _text(spec["train_fraction"], none="all"),
        "seed": _text(spec["seed"]),
    }
    extraction = {
        {"precision": "extraction precision"}.get(name, name.replace("_", " ")): _text(value)
        for name, value in first.items()
        if name not in DATA_OF_EXTRACTION
    }
    head = {
        "head": spec["head"],
        # the cache that holds a token does not matter, only how it was extracted
        "inputs": " ".join(
            f"{layer}:{token}" for source in sources for layer, token in source["pairs"]
        ),
        **{
            {"num_heads": "attention heads"}.get(name, f"head {name}".replace("_", " ")): _text(v)
            for name, v in spec["head_spec"].items()
        },
    }
    if spec["head_spec"]["kind"] == "fusion":
        head["fusion version"] = _text(spec.get("fusion_version"), none="not recorded")
    others = [_digest(source["extraction"]) for source in sources[1:]]
    if any(digest != _digest(first) for digest in others):
        head["other extractions"] = " ".join(others)
    if "ensemble" in spec:
        head["members"] = " ".join(_member(member) for member in spec["ensemble"]["members"])
    training: Words = {}
    if spec["train_config"] is None:
        head["baseline grid"] = _text([list(hparams.values()) for hparams in spec["grid"]])
    else:
        training = _training(spec)
        head |= _grid(spec, ("lr", "weight_decay", "dropout"))
    if spec.get("paper_compat"):
        (training or head)["ties"] = "first of the grid"
    if "select" in spec:
        (training or head)["selection metric"] = _text(spec["select"])
    return Settings(
        schema=spec["schema"],
        data=data,
        extraction=extraction,
        training=training,
        head=head,
        tests=_tests(spec.get("tests", ())),
    )


def _member(member: Mapping[str, Any]) -> str:
    """Return the experiment of a member, and how far its seed is from the first member's."""
    offset = int(member["seed_offset"])
    return str(member["experiment"])[:8] + (f"{offset:+d}" if offset else "")


def _target(spec: Spec) -> Words:
    """Return what a probe predicts, and the versions of its columns if they are recorded."""
    words = {"target": target_name(spec), "task": task_of(spec["head_spec"])}
    if digests := spec.get("annotations"):
        words["annotations digest"] = _text(digests)
    return words


def target_name(spec: Spec) -> str:
    """Return the columns that a probe predicts, "label" for the dataset's own label."""
    target = spec.get("target")
    return ",".join(target["columns"]) if target else LABEL


def _validation(values: Mapping[str, Any]) -> Words:
    words = {"validation": describe_validation(values)}
    if "refit" in values:
        words["final fit on"] = str(values["refit"])
    return words


def _tests(tests: Sequence[Mapping[str, Any]]) -> Words:
    """Return the further test sets by name, with the digest of another dataset."""
    words = {}
    for test in tests:
        extraction = test.get("extraction") or {}
        dataset = extraction.get("dataset", test.get("fingerprint"))
        digests = _text(test.get("annotations") or {})
        words[f"test {test['name']}"] = _text([test["split"], dataset, digests])
    return words


def describe_validation(values: Mapping[str, Any]) -> str:
    """Return the text for what `Validation.to_json` returned."""
    if "split" in values:
        text = f"split {values['split']}"
    elif "scheme" in values:
        text = "leave-one-out"
    elif "fold_column" in values:
        text = f"folds of column {values['fold_column']}"
    elif "folds" in values:
        text = f"{values['folds']} folds"
    else:
        text = DEFAULT_VALIDATION
    if values.get("repeats", 1) > 1:
        text += f" x {values['repeats']}"
    if "group" in values:
        text += f" by {values['group']}"
    return text


def _training(spec: Spec) -> Words:
    config = {
        name.replace("_", " "): _text(value, none="off")
        for name, value in spec["train_config"].items()
    }
    search = {"search": str(spec.get("search", "full"))}
    if search["search"] == "coordinate":
        earlier = 2 if spec.get("search_pairs") == 1 else 1
        search["search version"] = str(spec.get("search_version", earlier))
    precision = {"precision": spec["precision"]}
    return {**config, **precision, **search, **_grid(spec, ("lr", "weight_decay"))}


def _grid(spec: Spec, names: Sequence[str]) -> Words:
    """Return the values of hyperparameters in the grid, and all points if it is no product."""
    points = sorted({tuple(hparams[name] for name in names) for hparams in spec["grid"]})
    values = [sorted(set(column)) for column in zip(*points, strict=True)]
    words = {
        f"{name} grid".replace("_", " "): _text(column)
        for name, column in zip(names, values, strict=True)
    }
    if len(points) < prod(map(len, values)):
        words["grid"] = _text(points)
    return words


def _text(value: Any, *, none: str = "none") -> str:
    """Return a JSON value as text that differs if the value does."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(v)}" for name, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(
            f"({_text(v)})" if isinstance(v, list | tuple) else _text(v) for v in value
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return none if value is None else str(value)


def _digest(value: Any) -> str:
    return sha256_json(value)[:12]
