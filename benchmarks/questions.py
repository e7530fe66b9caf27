"""One cache, five questions: docs/questions.md is made of what this prints.

    python benchmarks/questions.py > docs/questions.md

It writes the digits of scikit-learn as image files with a table (5 % of the labels wrong), extracts
their tokens once, and asks: the class as in the table, the corrected class, the corrected class
with sheets kept together in 5 folds, the ink (a number), and the class on rotated test images.
Everything after the extraction reads the cache.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

N_TRAIN, N_TEST = 1000, 400
SHEET = 25
"""Consecutive images of one sheet: scikit-learn's order is that of the writers."""
WRONG = 0.05
"""Fraction of the training labels that are wrong at first."""
ANGLE = 20
"""Degrees by which the second test set is rotated."""
PROBE = "layercache probe --head logreg --layers all"

TEXT = """# One cache, five questions

Extraction is the expensive part, a question is the cheap one. `python benchmarks/questions.py`
made this page, on {machine}: it extracts {images} images once, and then asks five questions of
the same cache, without another forward pass.

The images are scikit-learn's digits as files, {train} to train and {test} to test, and the same
{test} test images rotated by {angle} degrees as a third split. The table names other columns than
usual, and {wrong} of its training labels are wrong:

```text
{head}
```

## Extraction

{extraction}

Other columns come from a second table, with the same ids:

{annotation}

## 1. The class

{class_}

## 2. The corrected class

Somebody has gone through the labels. The same extraction with the corrected table finds that the
images are those of the cache and only updates the labels:

```console
$ cp digits/corrected.csv digits/table.csv
```

{correction}

{corrected}

The probe of the earlier labels is not listed next to the new one:

{results}

## 3. The class, sheets kept together

Images of one sheet were written one after the other, so a sheet belongs on one side of every cut:

{grouped}

## 4. A number

{ink}

## 5. Another test set

The head is selected and trained once and tested on both splits:

{rotated}

## Seconds

{seconds}
"""


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="layercache-questions-") as name:
        os.chdir(name)
        os.environ["LAYERCACHE_HOME"] = "caches"
        write_images(Path("digits"))
        extract = "layercache extract --model vit_nano --dataset " + shlex.quote(
            "csv:digits/table.csv?path=file&label=digit&split=part"
        )
        extract += " --name handwriting"
        blocks: dict[str, tuple[str, float]] = {"extraction": run(extract)}
        head = "\n".join(Path("digits/table.csv").read_text().split("\n")[:4])
        blocks["annotation"] = run("layercache annotate digits/columns.csv --dataset handwriting")
        blocks["class_"] = run(PROBE)
        shutil.copyfile("digits/corrected.csv", "digits/table.csv")
        blocks["correction"] = run(extract)
        blocks["corrected"] = run(PROBE)
        blocks["results"] = run("layercache results")
        blocks["grouped"] = run(f"{PROBE} --group sheet --folds 5")
        blocks["ink"] = run("layercache probe --head ridge --layers all --target ink")
        blocks["rotated"] = run(f"{PROBE} --test test --test rotated")
        seconds = "\n".join(
            f"| {title} | {blocks[name][1]:.1f} |"
            for title, name in {
                "extraction": "extraction",
                "annotation of two columns": "annotation",
                "1. the class": "class_",
                "correction of the labels": "correction",
                "2. the corrected class": "corrected",
                "3. grouped, 5 folds": "grouped",
                "4. a number": "ink",
                "5. another test set": "rotated",
            }.items()
        )
        print(
            TEXT.format(
                machine=f"{os.cpu_count()} CPU cores, one thread, other work going on",
                images=f"{N_TRAIN + 2 * N_TEST:,}",
                train=f"{N_TRAIN:,}",
                test=N_TEST,
                angle=ANGLE,
                wrong=round(N_TRAIN * WRONG),
                head=head,
                seconds=f"| | seconds |\n|---|--:|\n{seconds}",
                **{name: text for name, (text, _) in blocks.items()},
            ),
            end="",
        )
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)


def write_images(folder: Path) -> None:
    """Write images, table.csv with wrong labels, corrected.csv and columns.csv."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.mkdir()
    n = N_TRAIN + N_TEST
    images = np.round(digits.images[:n] * (255 / 16)).astype(np.uint8)
    names = [image_name(i) for i in range(n)]
    for name, image in zip(names, images, strict=True):
        picture = Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)
        picture.save(folder / name)
        if name.startswith("test"):
            picture.rotate(ANGLE, Image.Resampling.BICUBIC).save(
                folder / name.replace("test", "rotated")
            )
    rng = np.random.default_rng(0)
    labels = digits.target[:n]
    wrong = rng.choice(N_TRAIN, round(N_TRAIN * WRONG), replace=False)
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    write_table(folder / "table.csv", noisy)
    write_table(folder / "corrected.csv", labels)
    with open(folder / "columns.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sheet", "ink"])
        for i, (name, image) in enumerate(zip(names, images, strict=True)):
            for version in versions(name):
                writer.writerow([version, f"sheet {i // SHEET}", f"{image.mean() / 255:.4f}"])


def image_name(i: int) -> str:
    return f"train-{i:04d}.png" if i < N_TRAIN else f"test-{i:04d}.png"


def versions(name: str) -> list[str]:
    return [name, name.replace("test", "rotated")] if name.startswith("test") else [name]


def write_table(file: Path, labels: np.ndarray[Any, Any]) -> None:
    with open(file, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["file", "digit", "part"])
        for i, label in enumerate(labels.tolist()):
            for name in versions(image_name(i)):
                writer.writerow([name, label, name.partition("-")[0]])


def run(command: str) -> tuple[str, float]:
    """Return a command and what it printed as a block of Markdown, and its seconds."""
    from layercache_cli.main import main as cli

    with captured() as (out, err):
        start = time.perf_counter()
        try:
            cli(shlex.split(command)[1:])
        except SystemExit as stop:
            code = stop.code
        seconds = time.perf_counter() - start
    text = out.getvalue() + err.getvalue()
    if code:
        raise SystemExit(f"{command}: {text}")
    here = f"{Path.cwd().resolve()}/"
    return f"```console\n$ {command}\n{text.replace(here, '').rstrip()}\n```", seconds


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


if __name__ == "__main__":
    main()
