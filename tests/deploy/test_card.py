from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from layercache.deploy.card import other_seeds, weights_licence, write_card
from layercache.probing.api import probe as train_probe
from layercache.probing.results.head_checkpoint import load_head
from layercache.probing.results.probe_store import read_probe
from layercache.probing.training.config import TrainConfig
from tests.deploy.trained import Trained
from tests.probing.sealed import edit_sealed


def test_card_states_the_results_of_the_probe_record(trained: Trained) -> None:
    probe = trained.probes["attentive"]
    head = load_head(probe.path)
    card = write_card(head, probe.path)
    row = probe.row
    accuracy = 100 * row["test_balanced_accuracy"]
    for words in (
        "# attentive head on tiny_vit for waves",
        "22 training and 6 test images",
        "Classes: across, down.",
        f"| SHA-256 of the weights | `{head.provenance.weights}` |",
        "Selected from 2 configurations by balanced accuracy",
        f"lr 0.01, weight_decay 0.0001, dropout {row['dropout']:g}",
        f"| test balanced accuracy | {accuracy:.2f} % |",
        f"| 95 % interval | {100 * row['test_ci95_low']:.2f} % to "
        f"{100 * row['test_ci95_high']:.2f} % | bootstrap over test images",
        f"| test top-1 accuracy | {100 * row['test_top1_accuracy']:.2f} % |",
        "licence of the weights | not known",
        f"| weights | `{trained.weights}` |",
        f"layercache predict {probe.path} --weights {trained.weights} IMAGE...",
    ):
        assert words in card


def test_card_with_several_seeds_states_mean_and_deviation(trained: Trained) -> None:
    probe = trained.probes["attentive"]
    both = other_seeds(probe)
    assert {p.row["seed"] for p in both} == {0, 1}
    assert {p.row["head"] for p in both} == {"attentive"}
    scores = [100 * p.row["test_balanced_accuracy"] for p in both]
    assert f"| over 2 seeds | {mean(scores):.2f} % ± {stdev(scores):.2f} % |" in write_card(
        load_head(probe.path), probe.path
    )


def test_card_of_a_probe_on_another_split_names_it_and_counts_its_own_seeds(
    trained: Trained,
) -> None:
    options = {"layers": "last", "tokens": "cls", "lr": 0.01, "weight_decay": 1e-4}
    config = TrainConfig(epochs=1, min_steps=0)
    (probe, *others) = [
        *train_probe(
            trained.cache, head="linear", test_split="train", train_config=config, **options
        ),
        *train_probe(trained.cache, head="linear", seeds=[1], train_config=config, **options),
    ]
    try:
        assert [p.id for p in other_seeds(probe)] == [probe.id]
        assert "on 22 test images (split train)" in write_card(load_head(probe.path), probe.path)
    finally:
        for made in (probe, *others):
            shutil.rmtree(made.path)


def test_card_of_a_head_file_alone_says_that_results_are_not_known(
    trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.probes["linear"].path / "head.safetensors", tmp_path)
    file = tmp_path / "head.safetensors"
    card = write_card(load_head(file), file)
    assert "Not known: the probe's record" in card
    assert "balanced accuracy |" not in card


def test_card_of_a_multi_label_head_names_its_metric(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.probes["linear"].path, tmp_path / "probe")
    scores = {
        "test_mean_average_precision": 0.75,
        "val_mean_average_precision": 0.5,
        "test_balanced_accuracy": None,
        "test_top1_accuracy": None,
        "test_top5_accuracy": None,
    }

    def as_multi_label(record: dict[str, Any]) -> None:
        record["row"].update(scores)
        record["spec"]["head_spec"]["multi_label"] = True

    edit_sealed(tmp_path / "probe" / "probe.json", as_multi_label)
    assert read_probe(tmp_path / "probe") is not None
    head = load_head(tmp_path / "probe")
    card = write_card(replace(head, spec=replace(head.spec, multi_label=True)), tmp_path / "probe")
    assert "| test mean average precision | 75.00 % |" in card
    assert "An image may have several classes." in card
    assert "top-1" not in card


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("vit_nano", "apache-2.0"),
        ("vit_b16", "apache-2.0"),
        ("mae_b16", "cc-by-nc-4.0"),
        ("tiny_vit", None),
        ("nobody", None),
    ],
)
def test_weights_licence_is_that_recorded_by_timm(model: str, licence: str | None) -> None:
    assert weights_licence(model) == licence


def test_card_of_a_probe_outside_its_cache_names_the_checkpoint(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.probes["linear"].path, tmp_path / "probe")
    head = load_head(tmp_path / "probe")
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path))
    assert "--weights" not in write_card(head, tmp_path / "probe")
    monkeypatch.setenv("LAYERCACHE_HOME", str(trained.cache.parents[2]))
    assert f"--weights {trained.weights} IMAGE" in write_card(head, tmp_path / "probe")
