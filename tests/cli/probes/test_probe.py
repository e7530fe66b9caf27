"""`layercache probe`: words in, one table out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from layercache.errors import OptionError
from layercache_cli.main import build, main
from layercache_cli.probes.probe import parse_numbers, parse_seeds

QUICK = (
    "--epochs",
    "5",
    "--min-steps",
    "0",
    "--lr",
    "0.03",
    "--weight-decay",
    "1e-4",
    "--dropout",
    "0",
    "--device",
    "cpu",
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--cache", str(tmp_path / "root")])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def test_probe_prints_its_choices_and_the_table(
    run: Callable[..., Any], planted: Callable[..., Any]
) -> None:
    cache = planted()
    code, out, err = run(
        "probe",
        "--head",
        "linear",
        "--head",
        "attentive",
        "--layers",
        "last",
        "--layers",
        "all",
        *QUICK,
    )
    assert (code, err) == (0, "")
    assert f"cache {cache.path}" in out
    assert "device cpu" in out
    assert "training features resident on cpu: 2 tokens x 240 samples" in out
    head = next(line for line in out.splitlines() if line.startswith("head"))
    names = [
        "head",
        "layers",
        "tokens",
        "accuracy",
        "top-1",
        "parameters",
        "seconds",
    ]
    assert all(word in head for word in names)
    rows = [line.split() for line in out.splitlines() if line.startswith(("linear", "attentive"))]
    shared = (
        "model vit_small_made, dataset made_up, seed 0, lr 0.03, weight decay 0.0001, dropout 0"
    )
    assert f"all rows: {shared}" in out
    assert [row[:2] for row in rows] == [
        ["linear", "last"],
        ["linear", "all"],
        ["attentive", "last"],
        ["attentive", "all"],
    ]
    assert f"stored in {cache.path / 'probes'}" in out


def test_probe_run_again_shows_existing_probes(
    run: Callable[..., Any], planted: Callable[..., Any]
) -> None:
    planted()
    words = (
        "probe",
        "--model",
        "vit_small_made",
        "--dataset",
        "made_up",
        "--head",
        "linear",
        *QUICK,
    )
    _, first, _ = run(*words)
    code, second, _ = run(*words)
    assert code == 0
    assert "already exists" in second
    assert "configurations train" not in second
    rows = [line for line in first.splitlines() if line.startswith("linear  ")]
    assert len(rows) == 1
    assert rows == [line for line in second.splitlines() if line.startswith("linear  ")]
    assert "already exists" not in run(*words, "--refresh")[1]


def test_probe_passes_its_options_on(run: Callable[..., Any], planted: Callable[..., Any]) -> None:
    planted()
    code, out, _ = run(
        "probe",
        "--head",
        "linear",
        "--seeds",
        "4,7",
        "--shots",
        "5",
        "--features",
        "stream",
        "--memory",
        "1GB",
        *QUICK,
    )
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("linear  ")]
    assert [row[3] for row in rows] == ["4", "7"]
    assert "shots 5" in out
    assert "training features streamed" in out


def test_probe_of_a_repeated_seed_or_layer_says_so_and_shows_it_once(
    run: Callable[..., Any], planted: Callable[..., Any]
) -> None:
    planted()
    code, out, _ = run(
        "probe", "--head", "linear", "--layers", "last", "--layers", "4", "--seeds", "0,0", *QUICK
    )
    assert code == 0
    assert "3 of the 4 requested probes are repeated, or the same by another name" in out
    assert len([line for line in out.splitlines() if line.startswith("linear  ")]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--head", "liner"), "error: unknown head 'liner': did you mean linear"),
        (("--head", "attentive-tokens"), "To extract them, run: layercache extract"),
        (("--lr", "fast"), "error: --lr: expected a list of numbers such as 0.1,0.01, got 'fast'"),
        (("--model", "vit_b16"), "error: no cache of model 'vit_b16'"),
        (("--memory", "much"), "error: --memory: expected a size such as 8GB"),
    ],
)
def test_probe_of_a_wrong_option_prints_one_line(
    run: Callable[..., Any], planted: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    planted()
    code, _, err = run("probe", *words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_parse_numbers_and_seeds_of_lists() -> None:
    assert parse_numbers("0.1, 1e-2", option="--lr") == [0.1, 0.01]
    assert parse_numbers("1,5", option="--shots", integers=True) == [1, 5]
    assert parse_numbers(None, option="--lr") is None
    assert (parse_seeds("3"), parse_seeds("4,7"), parse_seeds("4,")) == (3, [4, 7], [4])
    for text in ("0", "-1", "a", ""):
        with pytest.raises(OptionError, match="--seeds"):
            parse_seeds(text)


def test_probe_rm_deletes_after_a_question_and_takes_no_options_before_it(
    run: Callable[..., Any],
    planted: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted()
    assert run("probe", "--head", "knn")[0] == 0
    (folder,) = tmp_path.glob("root/*/*/*/probes/*")
    code, _, err = run("probe", "--head", "knn", "rm", folder.name)
    assert code == 1
    assert "put those of rm after it" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = run("probe", "rm", folder.name[:8])
    assert code == 1
    assert "vit_small_made on made_up, knn, layers all, tokens cls+ap, seed 0" in out
    assert folder.exists()
    code, out, err = run("probe", "rm", folder.name[:8], "--yes")
    assert (code, err) == (0, "")
    assert out.startswith(f"deleted {folder} (")
    assert not folder.exists()


@pytest.mark.parametrize("command", ["probe", "extract"])
def test_every_option_is_in_a_panel_of_the_help(command: str) -> None:
    parsed = get_command(build(command, debug=False)).commands[command]  # type: ignore[attr-defined]
    visible = [p for p in parsed.params if p.name != "help" and not getattr(p, "hidden", False)]
    assert len(visible) > 30
    assert [p.name for p in visible if not getattr(p, "rich_help_panel", None)] == []
