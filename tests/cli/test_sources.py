"""Datasets by their source, and the commands that messages advise: run as pasted."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layercache.cache import find_caches
from layercache.cache.cache import extract_command
from layercache.extraction.image_lookup import ImageLookup
from layercache.extraction.models.vit_nano import weights_path
from layercache.reporting.analysis.published import BASELINE, FUSION
from layercache.reporting.data.loading import load_report_data
from layercache_cli.main import main

TRAIN = ("--lr", "0.1", "--weight-decay", "1e-4,1e-3", "--epochs", "1", "--min-steps", "2")
LINEAR = ("--head", "linear", "--layers", "last", "--tokens", "cls", *TRAIN)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "caches"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def paste(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """Run a command as a user pastes it, and return what it prints."""
    program, *words = shlex.split(command)
    assert program == "layercache"
    code, out, err = run(capsys, *words)
    assert code == 0, f"{command}\n{err}"
    return out


def extract(capsys: pytest.CaptureFixture[str], source: str, *words: str) -> str:
    command = ["layercache", "extract", "-m", "vit_nano", "-d", source, "--workers", "0", *words]
    return paste(capsys, shlex.join(command))


def draw(folder: Path, classes: str = "ab") -> Path:
    """A folder of 10 random images per class."""
    rng = np.random.default_rng([*str(folder).encode()])
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def test_probe_results_and_cache_of_a_source_never_take_another_of_its_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = draw(tmp_path / "1" / "pets"), draw(tmp_path / "2" / "pets", "abc")
    extract(capsys, f"folder:{one}", "--layers", "last")
    commands = (("probe", *LINEAR), ("results",), ("cache", "info"), ("cache", "ls"))
    for dataset in (f"folder:{two}", "folder:/nope/pets", "csv:exp2/pets.csv", "hf:pets?label=a"):
        for command in commands:
            code, out, err = run(capsys, *command, "--dataset", dataset)
            if command == ("cache", "ls") and dataset in (f"folder:{two}", "hf:pets?label=a"):
                assert out.startswith("no cache below")
            else:
                assert (code, out) == (1, ""), (command, dataset, out)
                assert err.startswith("error: ")
    extract(capsys, f"folder:{two}", "--layers", "last")
    for folder, classes in ((one, 2), (two, 3)):
        out = paste(capsys, shlex.join(["layercache", "probe", "-d", f"folder:{folder}", *LINEAR]))
        assert f"(folder:{folder})\n" in out.splitlines(keepends=True)[0]
        assert f", {classes} classes" in paste(capsys, f"layercache cache info -d folder:{folder}")
        assert "1 below" in paste(capsys, f"layercache cache ls -d folder:{folder}")
    paste(capsys, f"layercache results -d folder:{one} --export table.csv")
    assert len(Path("table.csv").read_text().splitlines()) == 2  # the head and one probe
    _, _, err = run(capsys, "probe", "-d", "pets", *LINEAR)
    assert f"folder:{one}, 2 classes, 16 train + 4 test images" in err
    assert f"folder:{two}, 3 classes, 24 train + 6 test images" in err


def test_cache_of_a_moved_folder_is_found_there_after_its_extraction(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = draw(tmp_path / "old" / "pets")
    extract(capsys, f"folder:{old}", "--layers", "last")
    new = tmp_path / "new" / "pets"
    new.parent.mkdir()
    old.rename(new)
    assert run(capsys, "cache", "info", "-d", f"folder:{new}")[0] == 1
    out = extract(capsys, f"folder:{new}", "--layers", "last")
    assert "already complete" in out
    for folder in (old, new):
        paste(capsys, f"layercache cache info -d folder:{folder}")
    (cache,) = find_caches(root)
    assert cache.source == f"folder:{new}"


def test_command_of_an_incomplete_split_continues_it_as_pasted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "my data")
    rows = [
        f"my data/{c}/{i}.png,{c},{'test' if i > 7 else 'train'}" for c in "ab" for i in range(10)
    ]
    (tmp_path / "my pets.csv").write_text("\n".join(["path,label,split", *rows]))
    shutil.copy(weights_path(), tmp_path / "nano copy.safetensors")
    begin = [
        "extract", "-m", "vit_nano", "-d", "csv:my pets.csv", "--weights", "nano copy.safetensors",
        "--tap", "block", "--layers", "6,12", "--limit", "12", "--seed", "3", "--split", "train",
        "--compressor", "zstd", "--cache", "elsewhere", "--workers", "0",
    ]  # fmt: skip
    code, _, _ = run(capsys, *begin)
    assert code == 0
    code, _, err = run(capsys, "probe", *LINEAR, "--cache", "elsewhere")
    assert code == 1
    (command,) = re.findall(r"run the same extraction again: (layercache extract .*)", err)
    assert f"--weights '{tmp_path}/nano copy.safetensors'" in command
    assert f"--dataset 'csv:{tmp_path}/my pets.csv'" in command
    paste(capsys, command)
    (cache,) = find_caches(Path("elsewhere"))
    assert cache.complete("test")
    paste(capsys, shlex.join(["layercache", "probe", *LINEAR, "--cache", "elsewhere"]))


def test_command_for_missing_tokens_extracts_them_as_pasted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "pets")
    extract(capsys, f"folder:{folder}", "--layers", "last", "--tokens", "ap")
    code, _, err = run(capsys, "probe", *LINEAR)
    assert code == 1
    (command,) = re.findall(r"To extract them, run: (layercache extract .*)", err)
    paste(capsys, command)
    paste(capsys, shlex.join(["layercache", "probe", *LINEAR]))


def test_commands_of_a_report_train_comparable_probes_as_pasted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [draw(tmp_path / number / "my pets") for number in "12"]
    for folder in folders:
        extract(capsys, f"folder:{folder}")
    # the same source in another way: model and dataset do not tell these two apart
    extract(capsys, f"folder:{folders[0]}", "--tap", "block")
    source = f"folder:{folders[1]}"
    command = ["layercache", "probe", "-d", source, *LINEAR, "--seeds", "0,2"]
    paste(capsys, shlex.join(command))
    data = load_report_data(find_caches(root))
    assert len(data.combinations) == 3
    for combination in data.combinations.values():
        command = data.probe_command(combination, FUSION)
        if combination.source == source:
            for option in (
                f"--dataset '{source}'",
                "--lr 0.1",
                "--weight-decay 0.0001,0.001",
                "--epochs 1",
                "--min-steps 2",
                "--seeds 0,2",
            ):
                assert option in command
            assert "--dropout" not in command
        else:
            command += " " + shlex.join(TRAIN)  # nothing to copy: the whole grid would take long
        out = paste(capsys, command)
        assert out.startswith(f"cache {combination.cache.path} ")
    again = load_report_data(find_caches(root))
    combination = next(c for c in again.combinations.values() if c.source == source)
    assert again.paired_predictions(combination, FUSION) is not None
    assert len(again.probes_of(combination, FUSION)) == len(again.probes_of(combination, BASELINE))


def test_image_lookup_of_a_recorded_source_finds_the_image(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "pets")
    extract(capsys, f"folder:{folder}", "--layers", "last")
    (combination,) = load_report_data(find_caches(root)).combinations.values()
    (sample, *_) = combination.cache.split("test").ids
    assert ImageLookup()(combination.source, sample) is not None
    assert ImageLookup()(combination.dataset, sample) is None


def test_named_dataset_is_found_by_its_name_and_by_its_source(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "data")
    rows = [f"data/{c}/{i}.png,{c},{'test' if i > 7 else 'train'}" for c in "ab" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["file,kind,part", *rows]))
    source = "csv:t.csv?path=file&label=kind&split=part"
    extract(capsys, source, "--name", "my_pets")
    (cache,) = find_caches(root)
    assert (cache.spec.dataset.name, cache.classes) == ("my_pets", ("a", "b"))
    for dataset in ("my_pets", source):
        out = paste(capsys, shlex.join(["layercache", "cache", "info", "--dataset", dataset]))
        assert str(cache.path) in out
    again = extract_command(cache)
    assert "--name my_pets" in again
    assert "already complete" in paste(capsys, again)
    code, _, err = run(capsys, "extract", "-m", "vit_nano", "-d", source, "--name", "her pets")
    assert (code, "take 'her_pets'" in err) == (1, True)
