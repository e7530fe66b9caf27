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
def test_export_with_torch_writes_the_file_and_its_card(
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
    assert (
        "on 5 real images, in one batch and one at a time, the output differs from the "
        "original's by at most" in out
    )
    assert (tmp_path / "head.pt2.md").read_text().startswith("# linear head on tiny_vit for waves")
    assert torch.export.load(tmp_path / "head.pt2").module()(torch.zeros(3, 3, 32, 32)).shape == (
        3,
        2,
    )


def test_export_with_both_formats_writes_both(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, int]] = []

    def fake_writer(name: str) -> Any:
        def write(classifier: Any, path: Path, *, images: list[Any]) -> Export:
            calls.append((name, len(images)))
            return Export(path=path, bytes=2_000_000, images=4 + len(images), max_difference=2.1e-7)

        return write

    for name in ("export_onnx", "export_torch"):
        monkeypatch.setattr(layercache.deploy, name, fake_writer(name))
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
    assert calls == [("export_onnx", 1), ("export_torch", 1)]
    assert (
        f"{tmp_path / 'h.onnx'}: 2 MB; on 5 real images, in one batch and one at a time, the "
        "output differs from the original's by at most 2e-07" in out
    )
    assert {p.name for p in tmp_path.iterdir()} == {"h.onnx.md", "h.pt2.md"}


def test_export_with_an_unreadable_check_image_writes_nothing(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, trained, "--torch", tmp_path / "h.pt2", "--check", trained.weights)
    assert code == 1
    assert f"sample '{trained.weights}' cannot be decoded" in err
    assert not list(tmp_path.iterdir())


def test_export_with_card_alone_needs_no_backbone(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained.probes["linear"].path
    with pytest.raises(SystemExit) as stop:
        main(["export", str(folder), "--card", str(tmp_path / "card.md")])
    assert not stop.value.code
    assert capsys.readouterr().out == f"card: {tmp_path / 'card.md'}\n"
    assert (tmp_path / "card.md").read_text().startswith("# linear head on tiny_vit for waves")


def test_export_without_an_output_is_refused(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, trained)
    assert code == 1
    assert err.startswith(
        "error: nothing to write: pass --onnx FILE, --torch FILE.pt2 or --card FILE.md"
    )
