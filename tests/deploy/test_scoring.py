from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from layercache.deploy import PredictionResult, load_classifier, predict, score
from layercache.deploy.classifier import Classifier
from layercache.errors import DataError, DataNotFoundError
from tests.deploy.trained import Trained, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("scoring"), heads=["linear"], tokens="cls+ap")


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> Classifier:
    return load_classifier(trained.probes["linear"].path, weights=trained.weights, device="cpu")


@pytest.fixture
def predicted(classifier: Classifier, trained: Trained, tmp_path: Path) -> PredictionResult:
    shutil.copytree(trained.images, tmp_path / "waves")
    return predict(classifier, [tmp_path / "waves"])


def truth(result: PredictionResult) -> np.ndarray:
    return np.array([Path(image.image).parent.name == "down" for image in result.images])


def test_score_by_folders_equals_scikit_learns(
    classifier: Classifier, predicted: PredictionResult
) -> None:
    got = score(classifier, predicted, targets="folders")
    y = truth(predicted)
    assert got.n_images == len(y) == 28
    assert got.metrics["top1_accuracy"] == accuracy_score(y, predicted.outputs.argmax(1))
    margin = predicted.outputs[:, 1] - predicted.outputs[:, 0]
    assert got.metrics["roc_auc"] == pytest.approx(roc_auc_score(y, margin))
    low, high = got.intervals["roc_auc"]
    assert low <= got.metrics["roc_auc"] <= high


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("columns", [("path", "label"), ("Image", "class")])
def test_score_by_a_table_equals_that_by_folders(
    classifier: Classifier,
    predicted: PredictionResult,
    tmp_path: Path,
    suffix: str,
    columns: tuple[str, str],
) -> None:
    paths = [str(Path(image.image).relative_to(tmp_path)) for image in predicted.images]
    table = pd.DataFrame({columns[0]: paths, columns[1]: [p.split("/")[1] for p in paths]})
    file = tmp_path / f"targets{suffix}"
    if suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file)
    by_table = score(classifier, predicted, targets=file, metrics="f1_macro,log_loss")
    by_folders = score(classifier, predicted, targets="folders")
    assert set(by_table.metrics) == {"f1_macro", "log_loss"}
    for name, value in by_table.metrics.items():
        assert value == by_folders.metrics[name]


def test_images_without_a_target_are_left_out_and_listed(
    classifier: Classifier, predicted: PredictionResult, tmp_path: Path
) -> None:
    file = tmp_path / "some.csv"
    file.write_text("path,label\nwaves/down/00.png,down\nwaves/across/00.png,\n")
    got = score(classifier, predicted, targets=file, metrics="accuracy")
    assert got.n_images == 1
    assert len(got.without_target) == 27


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("path,label\nwaves/down/00.png,dwon\n", "'dwon'.* is none of the head's classes, such as"),
        ("path,label\nnowhere.png,down\n", "none of 28 images has a target: .* lists none of them"),
        ("path,labell\nwaves/down/00.png,down\n", "no column 'label' .*it has 'path' and 'labell'"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(
    classifier: Classifier,
    predicted: PredictionResult,
    tmp_path: Path,
    content: str,
    problem: str,
) -> None:
    (tmp_path / "targets.csv").write_text(content)
    with pytest.raises(DataError, match=problem):
        score(classifier, predicted, targets=tmp_path / "targets.csv")


def test_a_missing_table_and_folders_that_are_no_classes_are_errors(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.images / "down" / "00.png", tmp_path / "00.png")
    result = predict(classifier, [tmp_path])
    with pytest.raises(DataNotFoundError, match="there is no such table of targets"):
        score(classifier, result, targets=tmp_path / "none.csv")
    with pytest.raises(DataError, match="the name of no image's folder is a class"):
        score(classifier, result, targets="folders")
