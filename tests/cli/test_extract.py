"""The command, in this process, on limited digits."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from layercache.cache import open_cache
from layercache.cache.cache import extract_command
from layercache.cache.find import find_caches
from layercache_cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["extract", *words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_extract_prints_the_plan_and_the_result_and_does_nothing_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "-m",
        "vit_nano",
        "-d",
        "digits",
        "--limit",
        "20",
        "--split",
        "test",
        "--layers",
        "1,12",
        "--tokens",
        "ap",
        "--cache",
        str(tmp_path),
    )
    code, out, _ = run(capsys, *words)
    assert code == 0
    cache = open_cache(root=tmp_path)
    assert (cache.spec.layers, cache.spec.tokens, cache.splits) == ((1, 12), ("ap",), ("test",))
    assert "digits: test 20 images" in out
    assert "vit_nano: 2 layers x 1 token x 96 (norm2, float16), 12.3 kB" in out
    assert "forward on cpu" in out
    assert "vit_nano on digits: 20 images in" in out
    assert f"cache: {cache.path}" in out
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.splitlines()[0] == "vit_nano on digits: already complete, nothing to do"


def test_extract_with_another_preprocessing_prints_it_and_makes_a_cache_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("-m", "vit_nano", "-d", "digits", "--limit", "20", "--split", "test", "--cache")
    words = ("--input-size", "32x24", "--crop-pct", "0.8", "--crop-mode", "squash")
    more = ("--interpolation", "bilinear", "--mean", "0,0.25,0.5", "--std", "1,1,2")
    code, out, _ = run(capsys, *usual, str(tmp_path))
    assert code == 0
    assert "preprocessing: short edge to 28 (bicubic), center crop of 28 x 28, mean 0.5," in out
    code, out, _ = run(capsys, *usual, str(tmp_path), *words, *more)
    assert code == 0
    assert (
        "preprocessing: stretched to 40 x 30 (bilinear), center crop of 32 x 24, mean 0.0," in out
    )
    assert "note: input 32 x 24 instead of the checkpoint's 28 x 28: positions resampled" in out
    own, other = sorted(find_caches(tmp_path), key=lambda cache: cache.begun_at)
    assert other.spec.preprocessing == {
        "input_size": [32, 24],
        "resize": [40, 30],
        "interpolation": "bilinear",
        "crop_mode": "squash",
        "mean": [0.0, 0.25, 0.5],
        "std": [1.0, 1.0, 2.0],
    }
    assert own.spec.preprocessing["resize"] == [28, 28]
    command = shlex.split(extract_command(other))[2:]
    code, out, _ = run(capsys, *command, "--split", "test")
    assert "already complete" in out


def test_extract_accepts_the_spellings_of_earlier_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", "vit_nano", "-d", "digits", "--limit", "20", "--split", "test", "--layers", "12")
    old = ("--codec", "zstd", "--store-dtype", "float32", "--on-error", "stop", "--download")
    code, _, _ = run(capsys, *words, *old, "--cache", str(tmp_path))
    assert code == 0
    assert open_cache(root=tmp_path).spec.storage_dtype == "float32"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("-m", "vit_nanno", "-d", "digits"),
            "error: unknown model 'vit_nanno': did you mean vit_nano",
        ),
        (
            ("-m", "vit_nanno", "-d", "flowers", "--data-root", "/nowhere"),
            "error: unknown model 'vit_nanno': did you mean vit_nano",
        ),
        (
            ("-m", "vit_nano", "-d", "flowers", "--data-root", "/nowhere", "--offline"),
            "error: dataset flowers: expected a complete copy below /nowhere, got none",
        ),
        (("-m", "vit_nano", "-d", "digit"), "error: unknown dataset 'digit': did you mean digits"),
        (
            ("-m", "vit_nano", "-d", "digits", "--engine", "rya"),
            "error: unknown engine 'rya': did you mean ray?",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--address", "auto"),
            "error: address 'auto': it is the address of a Ray cluster, so it needs --engine ray",
        ),
        (
            (
                "-m",
                "vit_b16",
                "-d",
                "flowers",
                "--data-root",
                "/nowhere",
                "--input-size",
                "224x230",
            ),
            "error: input_size: vit_b16 has patches of 16 x 16, which do not divide 224 x 230: "
            "choose 224 x 224 or 224 x 240",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--input-size", "large"),
            "error: input_size: expected H or HxW, got 'large'",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--limit", "0"),
            "error: limit: expected at least 1, got 0",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--layers", "13"),
            "error: layers: expected numbers from 1 to 12 for this model, got 13",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--tokens", "grid:9"),
            "error: tokens 'grid:9': this model has 7 x 7 patches",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--weights", "/none.pt"),
            "error: weights /none.pt: no such file",
        ),
        (
            ("-m", "vit_nano", "-m", "vit_s16", "-d", "digits", "--weights", "a.pt"),
            "error: weights 'a.pt': with 2 models, expected MODEL=FILE",
        ),
        (
            ("-m", "vit_nano", "-d", "digits", "--weights", "a.pt", "--weights", "b.pt"),
            "error: weights: vit_nano has two files",
        ),
    ],
)
def test_extract_with_a_wrong_option_prints_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str
) -> None:
    code, _, err = run(capsys, *words, "--cache", str(tmp_path))
    assert code == 1
    assert text in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
