"""`layercache export`: writes a checked file and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layercache.deploy
from layercache.deploy import Export
from layercache_cli.main import main
from tests.deploy.trained import Trained, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("export"), heads=["linear"], tokens="cls+ap")


def run(
    capsys: pytest.CaptureFixture[str], trained: Trained, *words: str | Path
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "export",
                str(trained.probes["linear"].path),
                *map(str, words),
                "--weights",
                str(trained.weights),
            ]
        )
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.slow
def test_a_pt2_file_and_its_card(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    code, out, _ = run(
        capsys,
        trained,
        "--torch",
        tmp_path / "head.pt2",
        "--check",
        trained.images / "down" / "00.png",
    )
    assert code == 0
    assert "on 5 real images, together and one by one, its logits differ by at most" in out
    assert (tmp_path / "head.pt2.md").read_text().startswith("# linear head on tiny_vit for waves")
    assert torch.export.load(tmp_path / "head.pt2").module()(torch.zeros(3, 3, 32, 32)).shape == (
        3,
        2,
    )


def test_both_formats_are_asked_for_and_told(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int]] = []

    def stand_in(name: str) -> Any:
        def write(classifier: Any, path: Path, *, images: list[Any]) -> Export:
            asked.append((name, len(images)))
            return Export(path=path, bytes=2_000_000, images=4 + len(images), max_difference=2.1e-7)

        return write

    for name in ("export_onnx", "export_torch"):
        monkeypatch.setattr(layercache.deploy, name, stand_in(name))
    code, out, _ = run(
        capsys,
        trained,
        "--torch",
        tmp_path / "h.pt2",
        "--onnx",
        tmp_path / "h.onnx",
        "--check",
        trained.images / "down" / "00.png",
    )
    assert code == 0
    assert asked == [("export_onnx", 1), ("export_torch", 1)]
    assert (
        f"{tmp_path / 'h.onnx'}: 2.0 MB; on 5 real images, together and one by one, its logits differ by at most 2e-07"
        in out
    )
    assert {p.name for p in tmp_path.iterdir()} == {"h.onnx.md", "h.pt2.md"}


def test_an_image_to_check_on_must_be_one(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, trained, "--torch", tmp_path / "h.pt2", "--check", trained.weights)
    assert code == 1
    assert f"sample '{trained.weights}' cannot be decoded" in err
    assert not list(tmp_path.iterdir())


def test_the_card_alone_needs_no_backbone(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained_on = trained.probes["linear"].path
    with pytest.raises(SystemExit) as stop:
        main(["export", str(trained_on), "--card", str(tmp_path / "card.md")])
    assert not stop.value.code
    assert capsys.readouterr().out == f"card: {tmp_path / 'card.md'}\n"
    assert (tmp_path / "card.md").read_text().startswith("# linear head on tiny_vit for waves")


def test_without_a_format_there_is_nothing_to_do(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, trained)
    assert code == 1
    assert err.startswith("error: say what to write: --onnx FILE, --torch FILE.pt2, --card FILE.md")
