"""Every option or value that a message proposes is given once."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.remedies.case import EXTRACT, FAST, KNN, LINEAR, Case, follow_remedy, parametrize


def options(fails: str, says: str, then: str, *, slow: bool = False) -> Case:
    """An option or value that the message names."""
    return Case(fails, says, then, slow=slow, follow=lambda folder, match: None)


CASES = {
    "memory": options(
        f"{LINEAR} --refresh --features stream --memory 1kB",
        r"expected at least (\d+ bytes), .*more memory \(--memory\)",
        f"{LINEAR} --refresh --features stream --memory '\\1'",
    ),
    "attention heads": options(
        f"{FAST} --head attentive --lr 0.1 --heads 97",
        r"between 1 and the width (96), got 97: set num_heads \(--heads\)",
        f"{FAST} --head attentive --lr 0.1 --heads \\1",
    ),
    "divergence": options(
        f"{FAST} --head linear --lr 1e30 --weight-decay 1e-4",
        r"try (smaller) values of lr",
        LINEAR,
    ),
    "shots and fraction": options(
        f"{LINEAR} --shots 1 --fraction 0.5",
        "expected (shots) or train_fraction",
        f"{LINEAR} --\\1 1",
    ),
    "no validation samples": options(
        f"{KNN} --fraction 0.1", "or (shots) for a few-shot probe", f"{KNN} --\\1 1"
    ),
    "seeds": options(f"{KNN} --seeds 0", r"one seed: (4,)", f"{KNN} --seeds \\1"),
    "numbers": options(
        f"{FAST} --head linear --lr ,",
        "such as ([0-9.,]+), got",
        f"{FAST} --head linear --lr \\1",
    ),
    "unknown head": options("probe --head kn --layers 12", "did you mean (knn)", KNN),
    "unknown layers": options(
        "probe --head knn --layers lst", "did you mean (last)", "probe --head knn --layers \\1"
    ),
    "a layer too deep": options(
        "probe --head knn --layers 13",
        r"from 1 to (12) for this model",
        "probe --head knn --layers \\1",
    ),
    "features": options(f"{LINEAR} --refresh --features x", "expected (auto)", LINEAR),
    "unknown split": options(
        f"{KNN} --test tes", "did you mean (test)", f"{KNN} --refresh --test \\1"
    ),
    "unknown head of results": options(
        "results --head lin", "expected head (knn) or", "results --head \\1"
    ),
    "unknown kind of file": options("results -o t.foo", "ends in (.csv)", "results -o t\\1"),
    "nothing to export": options(
        "export {linear}", "(--card) FILE.md", "export {linear} \\1 card.md"
    ),
    "variant": options(
        "report --out out --variant zz",
        r"first digits of one of (\w{6})",
        "report --out out --variant \\1",
        slow=True,
    ),
    "a model misspelt": options(
        "extract -m vitnano -d digits",
        r"did you mean (vit_nano)\?",
        f"{EXTRACT} -m vit_nano".replace("-m vit_nano ", "", 1),
    ),
    "a model, listed": options("extract -m xyzzy -d digits", "see (layercache models)", "\\1"),
    "grid": options(
        f"{EXTRACT} --tokens grid:9",
        "K must be 1 to (7)",
        f"{EXTRACT} --tokens grid:\\1",
        slow=True,
    ),
    "tokens twice": options(
        f"{EXTRACT} --tokens cls+all",
        "'(all)' includes 'cls'",
        f"{EXTRACT} --tokens \\1",
        slow=True,
    ),
    "projected": options(f"{EXTRACT} --projected", "(leave it out)", EXTRACT),
    "compressor": options(
        f"{EXTRACT} --tap block --compressor gzip",
        "expected (zstd)",
        f"{EXTRACT} --tap block --compressor \\1",
        slow=True,
    ),
    "a place of its own": options(
        "extract -m vit_nano -d csv:t.csv --data-root x",
        "(leave out) the data root",
        "datasets",
    ),
    "a missing image": options(
        "extract -m vit_nano -d csv:gone.csv --layers last",
        r"on_error='(skip)'",
        "extract -m vit_nano -d csv:gone.csv --layers last --on-error \\1",
    ),
}
if not torch.cuda.is_available():
    CASES["device"] = options(
        f"{KNN} --refresh --device cuda",
        "use --device (cpu) or auto",
        f"{KNN} --refresh --device \\1",
    )


@parametrize(CASES)
def test_remedy_of_a_command_works(case: Case, folder: Path) -> None:
    follow_remedy(case, folder)
