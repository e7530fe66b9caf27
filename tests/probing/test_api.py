from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from layercache.errors import (
    CacheIncompleteError,
    HeadMismatchError,
    OptionError,
    ProbeError,
    UnknownNameError,
)
from layercache.probing import api
from layercache.probing.api import probe
from layercache.probing.training import fit as fit_module
from layercache.probing.training import trainer
from layercache.probing.training.config import HParams, TrainConfig
from tests.logs import logged

QUICK = TrainConfig(epochs=15, min_steps=0, min_batches=3)
ONE: dict[str, Any] = {
    "lr": 0.03,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "train_config": QUICK,
    "device": "cpu",
}
CHANCE = 1 / 3


def scores(results: Any, name: str = "test_balanced_accuracy") -> list[float]:
    return results.table[name].tolist()


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_a_signal_in_an_inner_layer_is_found_by_all_layers_and_not_by_the_last(
    planted: Callable[..., Any], head: str
) -> None:
    results = probe(planted(layer=2), head=head, layers=["last", "all", "2"], **ONE)
    last, every, inner = scores(results)
    assert abs(last - CHANCE) < 0.15
    assert every > 0.8
    assert inner > 0.8
    assert results.table["layers"].tolist() == ["last", "all", "2"]
    assert results.table["n_tokens"].tolist() == [2, 8, 2]


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_shuffled_labels_give_chance(planted: Callable[..., Any], head: str) -> None:
    (score,) = scores(probe(planted(shuffled=True, tests=300), head=head, **ONE))
    assert abs(score - CHANCE) < 0.12


def test_the_wrong_token_kind_finds_nothing(planted: Callable[..., Any]) -> None:
    right, wrong = scores(probe(planted(kind=0), head="linear", tokens=["cls", "ap"], **ONE))
    assert right > 0.8
    assert abs(wrong - CHANCE) < 0.15


def test_the_reported_figures_are_those_of_the_kept_predictions(
    planted: Callable[..., Any],
) -> None:
    cache = planted(classes=7, rows=400, strength=1.0)
    results = probe(cache, head="linear", **ONE)
    (found,) = results
    kept = found.predictions()
    targets = cache.split("test").labels
    assert np.array_equal(kept.targets, targets)
    assert kept.logits.dtype == np.float32
    row = found.row
    assert row["test_balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(targets, kept.logits.argmax(1))
    )
    assert row["test_top1_accuracy"] == pytest.approx((targets == kept.logits.argmax(1)).mean())
    assert row["test_top5_accuracy"] == pytest.approx(
        top_k_accuracy_score(targets, kept.logits, k=5)
    )
    assert row["test_ci95_low"] < row["test_balanced_accuracy"] < row["test_ci95_high"]
    assert 0.2 < row["test_balanced_accuracy"] < 0.95, "a score at the ceiling would prove nothing"


def test_the_saved_head_says_what_was_tested(planted: Callable[..., Any]) -> None:
    cache = planted()
    for found in probe(cache, head=["linear", "attentive"], **ONE):
        head = found.head()
        x = cache.split("test").read(found.pairs).astype(np.float32).transpose(1, 0, 2)
        torch.testing.assert_close(
            head.predict(x), torch.from_numpy(found.predictions().logits), rtol=1e-4, atol=1e-4
        )
        assert head.provenance.fingerprints == (cache.spec.fingerprint,)
        assert head.hparams == {"lr": 0.03, "weight_decay": 1e-4, "dropout": 0.0}


def test_attention_is_kept_and_lies_on_the_token_with_the_signal(
    planted: Callable[..., Any],
) -> None:
    cache = planted(layer=3, kind=1, rows=400)
    (found,) = probe(
        cache,
        head="attentive",
        **{**ONE, "train_config": TrainConfig(epochs=40, min_steps=0, min_batches=5)},
    )
    summary = found.attention()
    assert summary.mean.shape == summary.std.shape == (8, 8)
    np.testing.assert_allclose(summary.mean.sum(1), 1, atol=1e-5)
    assert summary.pairs[int(summary.mean.mean(0).argmax())] == (3, "ap")
    x = cache.split("test").read(found.pairs).astype(np.float32).transpose(1, 0, 2)
    weights = found.head().attention(x).double()
    np.testing.assert_allclose(summary.mean, weights.mean(0), atol=1e-5)
    np.testing.assert_allclose(summary.std, weights.std(0, unbiased=False), atol=1e-4)
    with pytest.raises(ProbeError, match="linear head, which has no attention"):
        next(iter(probe(cache, head="linear", **ONE))).attention()


def test_the_best_setting_is_chosen_and_of_equal_ones_the_first(
    planted: Callable[..., Any],
) -> None:
    cache = planted(classes=5, rows=300, strength=0.8)
    results = probe(cache, head="linear", **{**ONE, "lr": [1e-6, 0.05]})
    (found,) = results
    low, high = (config.val_metrics["balanced_accuracy"] for config in found.configs)
    assert high > low
    assert found.row["lr"] == 0.05
    assert found.row["val_balanced_accuracy"] == high
    (tied,) = probe(
        planted(strength=9.0, model="easy"),
        head="linear",
        layers="2",
        tokens="cls",
        **{**ONE, "weight_decay": [1e-5, 1e-6, 1e-4]},
    )
    assert {config.val_metrics["balanced_accuracy"] for config in tied.configs} == {1.0}
    assert tied.row["weight_decay"] == 1e-5


def test_test_rows_are_read_only_after_the_choice(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.reading.split import Split

    events: list[str] = []
    read, fit = Split.read, trainer.fit
    monkeypatch.setattr(
        Split,
        "read",
        lambda self, *a, **k: events.append(f"read {self.name}") or read(self, *a, **k),
    )
    monkeypatch.setattr(
        trainer,
        "fit",
        lambda *a, **k: (
            events.append("search" if k["val"] is not None else "refit") or fit(*a, **k)
        ),
    )
    probe(planted(), head="linear", **ONE)
    assert list(dict.fromkeys(events)) == ["read train", "search", "refit", "read test"]
    assert events.count("read test") == 1


def test_the_final_head_sees_all_training_samples(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None]] = []
    fit = trainer.fit
    monkeypatch.setattr(
        trainer,
        "fit",
        lambda *a, **k: (
            seen.append((len(k["train"]), None if k["val"] is None else len(k["val"])))
            or fit(*a, **k)
        ),
    )
    probe(planted(rows=240), head="linear", **ONE)
    assert seen == [(192, 48), (240, None)]


def test_a_probe_is_found_again_and_refresh_trains_it_anew(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    (first,) = probe(cache, head="linear", **ONE)
    fit = trainer.fit
    calls: list[int] = []
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    with logged() as lines:
        (again,) = probe(cache, head="linear", **ONE)
    assert not calls
    assert again.row == first.row
    assert "already exists" in lines[0]
    (anew,) = probe(cache, head="linear", refresh=True, **ONE)
    assert len(calls) == 2
    assert {**anew.row, "train_seconds": 0} == {**first.row, "train_seconds": 0}, (
        "the same seed on the same device gives the same row"
    )
    (other,) = probe(cache, head="linear", **{**ONE, "lr": 0.02})
    assert other.id != first.id


def test_a_killed_sweep_continues_where_it_stopped(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    options = {**ONE, "lr": [0.03, 0.01, 0.003], "configs_per_pass": 1}
    (whole,) = probe(cache, head="linear", **options)
    train_group = fit_module._fit_group
    trained: list[float] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(kwargs["settings"][0].lr)
        return train_group(*args, **kwargs)

    monkeypatch.setattr(fit_module, "_fit_group", dying)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, head="linear", refresh=True, **options)
    assert trained == [0.03, 0.01]
    assert not (whole.path / "probe.json").exists()
    after: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        fit_module,
        "_fit_group",
        lambda *a, **k: (
            after.append((k["settings"][0].lr, k["val"] is None)) or train_group(*a, **k)
        ),
    )
    (continued,) = probe(cache, head="linear", **options)
    assert after == [(0.003, False), (whole.row["lr"], True)], (
        "only what was missing, then the final fit"
    )
    assert {**continued.row, "train_seconds": 0} == {**whole.row, "train_seconds": 0}
    assert sorted(p.name for p in continued.path.iterdir()) == [
        ".lock",
        "head.safetensors",
        "predictions.npz",
        "probe.json",
    ]


def test_a_sweep_killed_before_the_final_fit_does_not_search_again(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, events = planted(), []
    train, score = trainer.SGDTrainer.train, trainer.SGDTrainer.score

    def dying(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.SGDTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, head="linear", **ONE)
    monkeypatch.setattr(
        trainer.SGDTrainer, "train", lambda *a, **k: events.append("train") or train(*a, **k)
    )
    monkeypatch.setattr(
        trainer.SGDTrainer, "score", lambda *a, **k: events.append("score") or score(*a, **k)
    )
    probe(cache, head="linear", **ONE)
    assert events == ["train"]


def test_a_diverged_setting_is_reported_and_never_chosen(planted: Callable[..., Any]) -> None:
    (found,) = probe(planted(), head="linear", **{**ONE, "lr": [1e38, 0.03]})
    assert found.row["lr"] == 0.03
    assert found.row["n_diverged"] == 1
    assert [config.diverged for config in found.configs] == [True, False]
    (alone,) = probe(planted(), head="linear", **ONE)
    assert found.row["test_balanced_accuracy"] == alone.row["test_balanced_accuracy"], (
        "the other one is not harmed"
    )
    with pytest.raises(
        ProbeError,
        match=r"all 1 configurations of the linear head diverged .* smaller values of lr",
    ):
        probe(planted(model="other"), head="linear", **{**ONE, "lr": 1e38})


def test_a_final_fit_that_diverges_falls_to_the_next_best(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = trainer.SGDTrainer.train
    tried: list[float] = []

    def diverging(self: Any, features: Any, setting: Any, **options: Any) -> Any:
        tried.append(setting["lr"])
        found = train(self, features, setting, **options)
        return replace(found, diverged_at=0 if len(tried) == 1 else None)

    monkeypatch.setattr(trainer.SGDTrainer, "train", diverging)
    (found,) = probe(planted(), head="linear", **{**ONE, "lr": [0.03, 0.0001]})
    assert tried == [0.03, 0.0001]
    assert found.row["lr"] == 0.0001
    assert found.row["n_diverged"] == 1


def test_streamed_features_score_as_resident_ones_within_seed_noise(
    planted: Callable[..., Any],
) -> None:
    cache = planted(rows=600, tests=600, strength=0.9)
    resident = scores(probe(cache, head="linear", seeds=4, **ONE))
    streamed = probe(cache, head="linear", seeds=4, features="stream", refresh=True, **ONE)
    assert set(streamed.table["features"]) == {"stream"}
    spread = np.std(resident, ddof=1) + np.std(scores(streamed), ddof=1)
    assert 0.5 < np.mean(resident) < 0.97, "neither chance nor the ceiling"
    assert abs(np.mean(resident) - np.mean(scores(streamed))) < max(3 * spread / 2, 0.02)


def test_seeds_shots_and_fractions_make_rows(planted: Callable[..., Any]) -> None:
    cache = planted()
    table = probe(cache, head="linear", seeds=[3, 5], shots=[1, 3, 5], **ONE).table
    assert table[["seed", "shots"]].drop_duplicates().shape[0] == 6
    assert table["train_rows"].tolist() == [3, 3, 9, 9, 15, 15]
    assert table["n_folds"].tolist() == [0, 0, 3, 3, 1, 1]
    assert table.loc[table["shots"] == 1, "val_balanced_accuracy"].isna().all()
    part = probe(cache, head="linear", train_fraction=0.25, **ONE).table
    assert part["train_rows"].tolist() == [60]
    full = scores(probe(cache, head="linear", **ONE))[0]
    assert table.loc[table["shots"] == 1, "test_balanced_accuracy"].mean() < full


def test_one_shot_takes_the_middle_of_the_grid(planted: Callable[..., Any]) -> None:
    (found,) = probe(
        planted(),
        head="linear",
        shots=1,
        **{**ONE, "lr": [0.1, 0.01, 0.001], "weight_decay": [1e-6, 1e-3, 1.0]},
    )
    assert (found.row["lr"], found.row["weight_decay"]) == (0.01, 1e-3)


def test_early_stopping_repeats_the_epochs_of_the_search(planted: Callable[..., Any]) -> None:
    (found,) = probe(
        planted(strength=9.0),
        head="linear",
        **{**ONE, "train_config": TrainConfig(epochs=30, min_steps=0, min_batches=3, patience=2)},
    )
    assert found.row["epochs"] == found.configs[0].epochs < 30


def test_multi_label_probes_report_mean_average_precision(planted: Callable[..., Any]) -> None:
    from sklearn.metrics import average_precision_score

    cache = planted(multi_label=True, rows=300, layer=4)
    (found,) = probe(cache, head="linear", layers="last", **ONE)
    kept = found.predictions()
    assert found.row["test_mean_average_precision"] == pytest.approx(
        average_precision_score(kept.targets, kept.logits, average="macro")
    )
    assert found.row["test_mean_average_precision"] > 0.75
    assert found.row["test_balanced_accuracy"] is None
    assert (
        found.row["test_ci95_low"]
        < found.row["test_mean_average_precision"]
        < found.row["test_ci95_high"]
    )
    (chance,) = probe(cache, head="linear", layers="1", **ONE)
    assert chance.row["test_mean_average_precision"] < 0.6


def test_one_class_an_empty_class_and_a_rare_class(
    planted: Callable[..., Any], write_cache: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    x = {
        "train": rng.normal(size=(2, 2, 60, 8)).astype("float16"),
        "test": rng.normal(size=(2, 2, 30, 8)).astype("float16"),
    }
    labels = {"train": np.arange(60) % 2, "test": np.arange(30) % 2}
    with pytest.raises(
        ProbeError, match="at least two classes with samples, but only class 'class 0' occurs"
    ):
        probe(write_cache(x, {**labels, "train": np.zeros(60)}, classes=2), head="linear", **ONE)
    train = labels["train"].copy()
    train[0] = 3  # one sample of class 3, none of class 2
    with logged() as lines:
        (found,) = probe(
            write_cache(x, {**labels, "train": train}, classes=4, model="rare"),
            head="linear",
            **ONE,
        )
    assert found.row["empty_classes"] == "class 2"
    assert any(
        "1 of 4 classes have no training sample and get weight 0: class 2" in line for line in lines
    )
    assert any(
        "1 of 4 classes have too few samples for the validation part" in line for line in lines
    )


def test_labels_outside_the_classes_and_tokens_that_are_not_finite(
    write_cache: Callable[..., Any],
) -> None:
    x = {"train": np.ones((2, 2, 40, 8), "float32"), "test": np.ones((2, 2, 10, 8), "float32")}
    labels = {"train": np.arange(40) % 4, "test": np.arange(10) % 4}
    with pytest.raises(
        ProbeError,
        match=r"split 'train': expected labels 0 to 2 \(3 classes\); 10 samples have others, such as 3",
    ):
        probe(write_cache(x, labels, classes=3), head="linear", **ONE)


def test_an_incomplete_cache_is_refused_before_any_work(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: pytest.fail("nothing may be trained"))
    with pytest.raises(CacheIncompleteError, match="run the same extraction again"):
        probe(planted(finish=False), head="linear", **ONE)


def test_attentive_tokens_names_the_extraction_that_it_needs(planted: Callable[..., Any]) -> None:
    with pytest.raises(
        OptionError,
        match=r"stores the tokens cls\+ap; this probe needs the tokens all. To extract them, run: layercache extract .*--layers last --tokens all",
    ):
        probe(planted(), head="attentive-tokens", **ONE)


def test_attentive_tokens_and_hybrid_see_patches(planted: Callable[..., Any]) -> None:
    kinds = ("cls", "ap", "patch/0", "patch/1", "patch/2", "patch/3")
    cache = planted(kinds=kinds, kind=4, layer=4)
    pooled, every, hybrid, embedded = (
        *probe(cache, head="attentive", **ONE),
        *probe(cache, head="attentive-tokens", **ONE),
        *probe(cache, head="hybrid", num_heads=4, spatial="patch", **ONE),
        *probe(cache, head="hybrid", num_heads=4, spatial="patch", embedding=True, **ONE),
    )
    assert (
        every.row["layers"],
        every.row["tokens"],
        every.row["n_tokens"],
        every.row["num_heads"],
    ) == ("last", "all", 5, 8)
    assert (hybrid.row["layers"], hybrid.row["spatial"], hybrid.row["n_tokens"]) == (
        "all",
        "patch@last",
        12,
    )
    assert embedded.head().spec.groups is not None
    assert abs(pooled.row["test_balanced_accuracy"] - CHANCE) < 0.15
    for found in (every, hybrid, embedded):
        assert found.row["test_balanced_accuracy"] > 0.6


def test_hybrid_takes_spatial_tokens_of_another_cache_of_the_same_weights(
    planted: Callable[..., Any],
) -> None:
    one = planted(kind=0, strength=0.0)
    two = planted(kinds=("grid:1/0",), kind=0, layer=4)
    (found,) = probe(one, head="hybrid", num_heads=4, spatial="grid:1", spatial_cache=two, **ONE)
    assert found.row["test_balanced_accuracy"] > 0.7
    assert found.head().provenance.fingerprints == (one.spec.fingerprint, two.spec.fingerprint)
    with pytest.raises(HeadMismatchError, match="expected a cache of the same weights"):
        probe(
            one,
            head="hybrid",
            spatial="grid:1",
            spatial_cache=planted(kinds=("grid:1/0",), weights="cd" * 32),
            **ONE,
        )
    with pytest.raises(OptionError, match="needs spatial tokens: give spatial"):
        probe(one, head="hybrid", **ONE)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"head": "atentive"}, UnknownNameError, "unknown head 'atentive': did you mean attentive"),
        ({"layers": "lst"}, UnknownNameError, "unknown layer choice 'lst'"),
        ({"tokens": "clz"}, UnknownNameError, "unknown token kind 'clz'"),
        ({"layers": "9"}, OptionError, "layers 1 to 4"),
        ({"lr": 0.0}, OptionError, "finite number > 0"),
        ({"memory_budget": "lots"}, OptionError, "a size such as 8GB"),
        ({"device": "tpu9"}, OptionError, "expected auto, cpu, cuda or cuda:N"),
        ({"features": "ram"}, OptionError, "auto, resident or stream"),
        ({"colour": "red"}, OptionError, "no option colour"),
        ({"configs": [HParams(lr=0.1, weight_decay=0.0)]}, OptionError, "not both"),
        ({"test_split": "tset"}, UnknownNameError, "unknown split 'tset'"),
    ],
)
def test_wrong_options_are_named(
    planted: Callable[..., Any], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        probe(planted(), **{"head": "linear", **ONE, **options})


def test_the_record_is_plain_json_and_complete_last(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.storage.local import LocalStore

    order: list[str] = []
    put = LocalStore.put
    monkeypatch.setattr(
        LocalStore, "put", lambda self, key, parts: order.append(key) or put(self, key, parts)
    )
    (found,) = probe(planted(), head="linear", **ONE)
    assert order[-1] == "probe.json"
    record = json.loads(
        (found.path / "probe.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert record["row"]["probe"] == found.path.name
    assert len(record["configs"]) == 1


def test_default_grids_are_the_papers() -> None:
    options = {"configs": None, "lr": None, "weight_decay": None, "dropout": None}
    assert [
        len(api._grid(head, **options))
        for head in ("linear", "attentive", "attentive-tokens", "hybrid")
    ] == [21, 63, 63, 63]


def test_baselines_run_as_probes(planted: Callable[..., Any]) -> None:
    cache = planted(rows=200)
    knn, logreg = probe(cache, head=["knn", "logreg"], layers="2", tokens="cls", device="cpu")
    assert knn.row["config"].startswith("k=")
    assert knn.row["n_params"] == 0
    assert logreg.row["config"].startswith("C=")
    assert logreg.row["n_params"] == 8 * 3 + 3
    for found in (knn, logreg):
        assert found.row["test_balanced_accuracy"] > 0.8
    split = {name: cache.split(name) for name in ("train", "test")}
    x = {name: s.read(((2, "cls"),))[0].astype(np.float64) for name, s in split.items()}
    x = {name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in x.items()}
    c = float(logreg.row["config"].removeprefix("C="))
    alone = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(
        x["train"], split["train"].labels
    )
    agree = (alone.predict(x["test"]) == logreg.predictions().logits.argmax(1)).mean()
    assert agree > 0.98
