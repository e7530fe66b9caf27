"""`layercache models`: the list without torch, one model with timm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from layercache_cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_models_lists_the_figures_of_every_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert lines["name"].split() == [
        "name",
        "timm",
        "architecture",
        "params",
        "width",
        "layers",
        "input",
        "resize",
        "patch",
        "tokens",
        "weights",
    ]
    row = (
        "clip_b16 vit_base_patch16_clip_quickgelu_224.openai 85.8 M 768 12 224 224 (timm 248) 16 "
        "cls ap std max attn grid:K all"
    )
    assert lines["clip_b16"].split()[:18] == row.split()
    assert "224             224     14" in lines["clip_l14"]  # as in timm's metadata
    assert "Fashion-MNIST" in lines["vit_nano"]


def test_models_list_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys\nfrom layercache_cli.main import main\ntry:\n    main(['models'])\nexcept "
        "SystemExit:\n"
        "    print('heavy:', sorted({'torch', 'timm', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout


def test_models_of_a_timm_name_shows_its_tokens_and_layers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "models", "vit_base_patch16_siglip_224.webli")
    assert code == 0
    assert "tokens             ap, std, max, grid:K, all (no class token: pass --tokens ap)" in out
    assert "layers             12" in out
    _, out, _ = run(capsys, "models", "vit_base_patch14_reg4_dinov2.lvd142m")
    assert "tokens             cls, ap, reg, std, max, attn, grid:K, all\n" in out
    _, out, _ = run(capsys, "models", "vit_small_patch16_18x2_224")  # two attentions in a block
    assert "tokens             cls, ap, std, max, grid:K, all\n" in out


@pytest.mark.parametrize(
    ("name", "preprocessing", "source"),
    [
        (
            "dinov2_b14",
            "short edge to 256 (bicubic), center crop of 224 x 224",
            "make_classification_eval_transform; timm's metadata: short edge to 224",
        ),
        (
            "vit_base_patch32_clip_224.openai",
            "short edge to 248 (bicubic), center crop of 224 x 224",
            "timm's metadata; its makers': crop_pct 1 (openai/CLIP, clip/clip.py, _transform)",
        ),
        (
            "vit_base_patch16_siglip_224.webli",
            "short edge to 248 (bicubic), center crop of 224 x 224",
            "timm's metadata\n",
        ),
    ],
)
def test_models_of_a_name_shows_its_preprocessing_and_where_that_is_published(
    capsys: pytest.CaptureFixture[str], name: str, preprocessing: str, source: str
) -> None:
    _, out, _ = run(capsys, "models", name)
    assert f"preprocessing      {preprocessing}\n  source             " in out
    assert source in out


def test_models_of_a_name_with_another_activation_shows_timms_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "models", "vit_base_patch16_clip_224.openai")
    assert "natively QuickGELU" in out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip_b61", "error: unknown model 'clip_b61': did you mean"),
        ("zzzzzzzz", "known: clip_b16, clip_b32"),
        ("resnet18", "error: resnet18: expected a ViT, got timm's ResNet"),
    ],
)
def test_models_of_an_unknown_name_or_no_vit_fails(
    capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    code, _, err = run(capsys, "models", name)
    assert code == 1
    assert text in err


def test_models_of_an_address_describes_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {"architecture": "vit_base_patch16_224", "model_args": {"depth": 3, "reg_tokens": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {}}))
    code, out, _ = run(capsys, "models", f"local-dir:{tmp_path}")
    assert code == 0
    assert "architecture       vit_base_patch16_224(depth=3, reg_tokens=4)" in out
    assert "layers             3" in out
    code, _, err = run(capsys, "models", "hf-hub:nobody/nothing", "--offline")
    assert code == 1
    assert "error: hf-hub:nobody/nothing: the files of nobody/nothing are not in" in err


def test_models_of_an_unknown_name_suggests_vits_only(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "models", "vit_nan")
    assert "did you mean vit_nano" in err
    assert not [name for name in ("davit", "convnext", "maxvit", "levit") if name in err]
