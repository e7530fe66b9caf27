from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from layercache_cli.main import main
from tests.deploy.trained import Trained, change_one_weight, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("predict"), heads=["linear"], tokens="cls+ap")


@pytest.fixture
def images(trained: Trained, tmp_path: Path) -> Path:
    for name in ("across", "down"):
        shutil.copy(trained.images / name / "00.png", tmp_path / f"{name}.png")
    return tmp_path


def run(
    capsys: pytest.CaptureFixture[str], trained: Trained, *words: str | Path
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "predict",
                str(trained.probes["linear"].path),
                *map(str, words),
                "--weights",
                str(trained.weights),
                "--device",
                "cpu",
            ]
        )
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_predict_prints_the_same_in_all_three_formats(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, table, err = run(capsys, trained, images)
    assert (code, err) == (0, "")
    _, as_json, _ = run(capsys, trained, images, "--format", "json")
    _, as_csv, _ = run(capsys, trained, images, "--format", "csv")
    content = json.loads(as_json)
    assert [Path(image["image"]).name for image in content["images"]] == ["across.png", "down.png"]
    rows = list(csv.DictReader(io.StringIO(as_csv)))
    flat = [
        (image["image"], str(rank), top["class"])
        for image in content["images"]
        for rank, top in enumerate(image["top"], 1)
    ]
    assert [(row["image"], row["rank"], row["class"]) for row in rows] == flat
    for image, line in zip(content["images"], table.splitlines(), strict=True):
        assert sum(top["probability"] for top in image["top"]) == pytest.approx(1, abs=1e-4)
        first = image["top"][0]
        assert f"{image['image']}" in line
        assert f"{first['class']} {100 * first['probability']:.1f} %" in line


def test_predict_with_top_k_prints_k_classes(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, trained, images / "down.png", "-k", "1", "--format", "csv")
    assert len(out.splitlines()) == 2


def test_predict_of_an_unreadable_image_stops_or_lists_it(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.png").write_bytes(b"no image")
    code, out, err = run(capsys, trained, images)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: sample '{images / 'bad.png'}' cannot be decoded")
    code, out, err = run(capsys, trained, images, "--on-error", "skip", "--format", "json")
    assert code == 0
    assert len(json.loads(out)["images"]) == 2
    assert list(json.loads(out)["skipped"]) == [str(images / "bad.png")]
    assert err.startswith("1 of 3 images skipped:\n  sample")


def test_predict_with_another_precision_than_the_cache_says_so_on_stderr(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, trained, images, "--precision", "bf16", "--format", "json")
    assert code == 0
    assert len(json.loads(out)["images"]) == 2
    assert err == (
        "the tokens that this head was trained on were computed in fp32, this tiny_vit computes in "
        "bf16: predictions may differ a little\n"
    )


def test_predict_with_another_backbone_is_refused_in_one_line(
    trained: Trained, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = change_one_weight(trained.weights, tmp_path / "other.pt")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(trained.probes["linear"].path), str(images), "--weights", str(other)])
    assert stop.value.code == 1
    assert "error: this head was trained on tiny_vit with weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "xml"], "unknown format 'xml'"),
        (["--on-error", "hide"], "--on-error: expected stop or skip"),
        (["/nowhere.png"], "no such file or folder"),
    ],
)
def test_predict_with_a_bad_argument_exits_with_an_error(
    words: list[str],
    message: str,
    trained: Trained,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, trained, images, *words)
    assert code == 1
    assert message in err


def test_predict_takes_the_beginning_of_an_id(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, by_path, _ = run(capsys, trained, images)
    options = ["--weights", str(trained.weights), "--cache", str(trained.cache.parents[2])]
    with pytest.raises(SystemExit) as stop:
        main(["predict", trained.probes["linear"].id[:7], str(images), *options])
    assert (stop.value.code or 0, capsys.readouterr().out) == (0, by_path)
    with pytest.raises(SystemExit) as stop:
        main(["export", "0" * 12, "--card", str(images / "card.md"), *options])
    assert "no probe below" in capsys.readouterr().err


def test_predict_score_prints_metrics_in_every_format(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (trained.images, "--score", "folders", "--metrics", "roc_auc,top5_accuracy")
    code, table, err = run(capsys, trained, *words)
    assert (code, err) == (0, "")
    assert table.startswith("28 images")
    assert "AUROC (%)" in table
    assert "top-5 accuracy (%)  not defined" in table
    _, as_json, _ = run(capsys, trained, *words, "--format", "json")
    scores = json.loads(as_json)["scores"]
    assert scores["top5_accuracy"]["value"] is None
    _, as_csv, _ = run(capsys, trained, *words, "--format", "csv")
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(as_csv))}
    assert float(rows["roc_auc"]["value"]) == scores["roc_auc"]["value"]


def test_predict_score_counts_images_without_a_target(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, trained, images, trained.images, "--score", "folders")
    assert code == 0
    assert "2 of 30 images have no target and are left out" in err
    code, _, err = run(capsys, trained, images, "--metrics", "roc_auc")
    assert code == 1
    assert "--metrics needs targets: --score folders, --score TABLE" in err
    code, _, err = run(capsys, trained, images, "--metrics", "roc_auc", "--score", "none")
    assert code == 1
    assert "leave out --score none" in err


def test_predict_scores_a_folder_whose_sub_folders_are_the_classes(
    trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "The sub-folders are named like the head's classes, so the 28 predictions are scored"
    _, explicit, _ = run(capsys, trained, trained.images, "--score", "folders")
    _, plain, _ = run(capsys, trained, trained.images, "--score", "none")
    assert said not in plain
    code, table, err = run(capsys, trained, trained.images)
    assert (code, err) == (0, "")
    assert table.startswith(plain)
    assert said in table
    assert table.endswith(explicit.split("\n\n", 1)[1])
    _, as_csv, err = run(capsys, trained, trained.images, "--format", "csv")
    assert len(as_csv.splitlines()) == 1 + 2 * 28
    assert said in err
    assert "balanced accuracy" in err
    words = ("--format", "json", "--metrics", "roc_auc")
    _, as_json, _ = run(capsys, trained, trained.images, *words)
    assert list(json.loads(as_json)["scores"]) == ["roc_auc"]
    for other in (images, trained.images / "down"):  # no sub-folders; a sub-folder itself
        assert said not in run(capsys, trained, other)[1]
    (images / "sideways").mkdir()
    for name in ("across", "down"):
        shutil.move(images / f"{name}.png", images / "sideways")
    assert said not in run(capsys, trained, images)[1]


@pytest.mark.parametrize("command", ["predict", "export"])
def test_offline_forbids_the_download_of_the_backbone(
    trained: Trained,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    class Reached(Exception):
        pass

    def load(*args: object, offline: bool, **options: object) -> None:
        raise Reached(f"offline={offline}")

    monkeypatch.setattr("layercache.deploy.backbones.load_encoder", load)
    rest = [str(images)] if command == "predict" else ["--onnx", str(images / "head.onnx")]
    for words, expected in (((), "offline=False"), (("--offline",), "offline=True")):
        with pytest.raises(SystemExit):
            main([command, str(trained.probes["linear"].path), *rest, *words])
        assert expected in capsys.readouterr().err
