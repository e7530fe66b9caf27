from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layercache
from layercache_cli.main import main


def test_import_makes_a_cache_that_the_other_commands_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split, n in {"train": 40, "test": 20}.items():
        np.savez(tmp_path / f"{split}.npz", features=rng.normal(size=(n, 3, 8)))
        np.save(tmp_path / f"{split}.npy", np.arange(n) % 2)
    (tmp_path / "names.txt").write_text("ant\nfox\n")
    root = tmp_path / "root"

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--cache", str(root)])
        output = capsys.readouterr()
        assert not stop.value.code, output
        return output.out

    files = [
        word
        for split in ("train", "test")
        for word in (
            *("--tokens", f"{split}={tmp_path / split}.npz"),
            *("--labels", f"{split}={tmp_path / split}.npy"),
        )
    ]
    classes = str(tmp_path / "names.txt")
    out = run("import", *files, "--name", "shapes", "--model", "mine", "--classes", classes)
    assert "1 layer x patch/0, patch/1, patch/2 of width 8, float32" in out
    assert "samples: train 40, test 20" in out
    cache = layercache.open_cache(root=root, model="mine", dataset="shapes")
    assert cache.annotations["label"].cat.categories.tolist() == ["ant", "fox"]
    assert "mine" in run("cache", "ls")
    assert "imported" in run("cache", "info", "--model", "mine")
