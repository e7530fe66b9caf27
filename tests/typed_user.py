"""A script as a user writes one: mypy --strict checks its types, nothing runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
import torch
from PIL import Image

import layercache

Array = np.ndarray[Any, Any]


def extraction(image: Image.Image) -> layercache.Cache:
    names = [info.name for info in layercache.list_models() if info.width >= 768]
    sizes = {info.name: info.num_train for info in layercache.list_datasets()}
    assert_type(names, list[str])
    assert_type(sizes, dict[str, int])
    dataset: layercache.Dataset = layercache.open_dataset("folder:images")
    encoder: layercache.Backbone = layercache.load_encoder("clip_b16", layers=[6, 12])
    assert_type(encoder.encode([image, "cat.jpg"]), torch.Tensor)
    own = layercache.Encoder(
        torch.nn.Identity(),
        name="own",
        blocks="blocks",
        preprocessing=layercache.PreprocessingOptions(input_size=224),
    )
    extractions = layercache.extract(
        models=["clip_b16", own],
        dataset=dataset,
        tokens="cls+ap",
        precision="bf16",
        preprocessing=layercache.PreprocessingOptions(input_size=336),
    )
    assert_type(extractions, list[layercache.Extraction])
    return extractions[0].open()


def caches(tokens: Array, table: pd.DataFrame) -> layercache.Cache:
    layercache.copy_cache("a", to="s3://bucket")
    layercache.annotate("a", table)
    layercache.drop_annotations("a", ["age"])
    layercache.export_tokens("a", "tokens.parquet", format="parquet")
    layercache.import_tokens(tokens, name="mine", model="other")
    return layercache.open_cache(model="clip_b16", dataset="digits")


def probing(cache: layercache.Cache) -> pd.DataFrame:
    scanned: layercache.ScanResult = layercache.scan(cache)
    print(scanned)
    results = layercache.probe(
        cache,
        head=["linear", "attentive"],
        layers=[1, 5, 9],
        configs=[layercache.HParams(lr=0.01, weight_decay=0.1)],
        train_config=layercache.TrainConfig(epochs=5),
        seeds=3,
        device="cpu",
        memory_budget="8GB",
    )
    assert_type(results, layercache.Results)
    pooled: layercache.Results = layercache.ensemble(["1a2b", "3c4d"], root="caches")
    print(pooled.to_dataframe())
    everything = layercache.read_results(cache)
    probes: list[layercache.Probe] = list(everything)
    print(probes)
    print(len(everything))
    folder = layercache.find_probe("1a2b")
    head = layercache.load_head(folder)
    print(head.classes, layercache.load_probe(folder).id)
    return results.to_dataframe()


def images(image: Image.Image) -> Array:
    classifier: layercache.Classifier = layercache.load_classifier("1a2b", device="cpu")
    assert_type(classifier.predict("photos"), Array)
    print(classifier.logits([image, Path("cat.jpg")]), classifier(torch.zeros(1, 3, 28, 28)))
    regressor: layercache.Regressor = layercache.load_regressor("3c4d")
    print(regressor.predict(image))
    return classifier.predict_proba(image)


def estimators(x: Array, y: Array) -> Array:
    print(layercache.ProbeRegressor(random_state=0).fit(x, y).predict(x))
    return layercache.ProbeClassifier(head="attentive").fit(x, y).predict_proba(x)


def reporting() -> str:
    written: layercache.Report = layercache.report("report", root="caches", metrics="roc_auc")
    result = layercache.run_study(layercache.read_study("study.toml"), confirm=False)
    print(written.page, result.failures)
    return layercache.__version__


def heads(x_btd: torch.Tensor) -> torch.Tensor:
    head = layercache.heads.AttentiveHead(tokens=24, width=768, classes=10)
    try:
        return head.attention(x_btd)
    except layercache.errors.OptionError as error:
        raise layercache.LayercacheError(str(error)) from None
