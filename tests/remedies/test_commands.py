"""Every remedy that a message gives is followed once: here those that are commands or steps.

Those that name an option or value are in test_options.py.

Followed in the tests of their own room: folders and tables (tests/extraction/datasets/
test_remedies), columns of `hf:` (test_huggingface), `pip install` of an
extra (test_packaging), confirmation of a large cache (test_extract, `confirm=False`), a read-only
cache (test_lookup, test_probe_store), probes and heads of another schema (test_probe_store,
test_head_checkpoint), locks and notes with other contents (test_lock, test_notes), prefixes and
wrappers of checkpoints (test_wrapped_weights, test_key_prefix), images (test_decode, test_stream).

Not followed, as they need what a test does not have:

* a network: downloads and their `--data-root`, `hf auth login`, `layercache cache pull hf://...`,
  datasets to be fetched by hand (imagenet, VTAB), "download it again", "run it again";
* an S3 endpoint without conditional puts, AWS profiles (tests/objects follows the retries);
* a GPU, a Ray cluster or another machine: `--engine ray`, the same paths on every machine;
* a second writer: "wait for it to end", "let one extraction run";
* a full disk or memory: "free some space", "fewer workers", `--fraction` for scikit-learn;
* a newer layercache: "upgrade layercache".
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

import layercache.extraction.models.vit_nano as vit_nano
from layercache.testing import make_spec
from tests.cache.folders import make_schema_1_cache
from tests.remedies.case import (
    EXTRACT,
    FAST,
    KNN,
    LINEAR,
    Case,
    cache_of,
    follow_remedy,
    must_run,
    parametrize,
    probe_of,
)


def write_weights(file: str, name: str, factor: float) -> None:
    state = load_file(Path(vit_nano.__file__).with_suffix(".safetensors"))
    torch.save({**state, name: factor * state[name].float()}, file)


def delete(match: re.Match[str]) -> None:
    """Delete the file or folder that a message names in its first group."""
    path = Path(match[1])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def drop_complete(split: str) -> Callable[[Path], None]:
    return lambda folder: (cache_of(folder / "home") / f"commits/{split}/complete.json").unlink()


def cut_head(folder: Path) -> None:
    file = probe_of(folder / "home", head=True) / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def extract_compressed(folder: Path) -> None:
    must_run(f"{EXTRACT} --cache {folder / 'packed'} --compressor zstd:5")
    for split in ("train", "test"):
        (cache_of(folder / "packed") / f"commits/{split}/complete.json").unlink()


def train_on_other_weights(folder: Path) -> None:
    write_weights("other.pt", "norm.weight", 2.0)
    must_run(f"{EXTRACT} --weights other.pt --cache other")
    must_run(f"{LINEAR} --cache other")
    probe_of(Path("other"), head=True).rename("trained")


def store_two(folder: Path) -> None:
    must_run(f"{EXTRACT} --tap block")


def make_outdated(folder: Path) -> None:
    spec = make_spec(10, model="vit_nano")
    old = make_schema_1_cache(Path("old"), spec)
    text = (old / "spec.json").read_text()
    assert '"shapes"' in text
    (old.parents[2] / "shapes").rename(old.parents[2] / "digits")


def make_small(folder: Path, match: re.Match[str]) -> None:
    must_run(f"{match[1]} --limit 20")


MAKE = r"(layercache extract [^\n`;]+?)(?:$|, or )"
TRAIN = r"`(layercache probe[^`]*)`"

CASES = {
    "no cache, probe": Case("probe --head knn --cache 'a b'", MAKE, follow=make_small),
    "no cache, info": Case("cache info --cache new", MAKE, follow=make_small, slow=True),
    "no cache, report": Case("report --out out --cache new", MAKE, follow=make_small, slow=True),
    "no probe": Case(
        "results --cache new",
        TRAIN,
        make=lambda folder: must_run(f"{EXTRACT} --cache new"),
        follow=lambda folder, match: must_run(f"{match[1]} --head knn --layers 12"),
    ),
    "no probe of a dataset": Case(
        "results --cache new -d digits",
        TRAIN,
        make=lambda folder: must_run(f"{EXTRACT} --cache new"),
        follow=lambda folder, match: must_run(f"{match[1]} --head knn --layers 12"),
        slow=True,
    ),
    "no probe with this id": Case(
        "predict 0123456789ab image.png --cache home",
        r"`(layercache results[^`]*)`",
        then="predict {linear} image.png --cache home",
    ),
    "no head": Case(
        "predict {cache}/probes/{knn} image.png",
        r"`(layercache results --paths)`",
        then="predict {cache}/probes/{linear} image.png",
    ),
    "several caches": Case(
        KNN,
        r"fingerprint, .*\n  \S+/(\w+): .*tap block",
        then=f"{KNN} --fingerprint \\1",
        make=store_two,
        follow=lambda folder, match: None,
        slow=True,
    ),
    "layers that are not stored": Case("probe --head knn --layers 1", MAKE),
    "tokens that are not stored": Case("probe --head knn --layers 12 --tokens grid:2", MAKE),
    "patch tokens that are not stored": Case(
        "probe --head knn --layers 6 --tokens patch", MAKE, slow=True
    ),
    "spatial tokens that are not stored": Case(
        f"{FAST} --head hybrid --lr 0.1 --spatial grid:2",
        MAKE,
        slow=True,
    ),
    "hybrid without spatial tokens": Case(
        f"{FAST} --head hybrid --lr 0.1",
        r"give spatial \((grid:2)",
        then=f"{FAST} --head hybrid --lr 0.1 --spatial \\1",
        slow=True,
        follow=lambda folder, match: must_run(f"{EXTRACT} --tokens cls+ap+grid:2"),
    ),
    "incomplete, probe": Case(f"{KNN} --refresh", MAKE, make=drop_complete("train")),
    "incomplete, push": Case("cache push --to copy", MAKE, make=drop_complete("test"), slow=True),
    "incomplete, verify": Case("cache verify", MAKE, make=drop_complete("test")),
    "another compressor": Case(
        f"{EXTRACT} --cache packed",
        r"begun with compressor (\S+), got none: continue with that one",
        then=f"{EXTRACT} --cache packed --compressor \\1",
        make=extract_compressed,
        follow=lambda folder, match: None,
    ),
    "another compressor, cache removed": Case(
        f"{EXTRACT} --cache packed",
        r"remove the cache \((layercache cache rm [^)]*)\)",
        make=extract_compressed,
        follow=lambda folder, match: must_run(f"{match[1]} --yes"),
        slow=True,
    ),
    "a compressor where none was": Case(
        f"{EXTRACT} --compressor zstd",
        "begun with compressor none, got zstd:3: (leave compressor out)",
        then=EXTRACT,
        make=lambda folder: [drop_complete(s)(folder) for s in ("train", "test")],
        follow=lambda folder, match: None,
        slow=True,
    ),
    "a damaged probe": Case(
        "predict {cache}/probes/{linear} image.png",
        r"remove (\S+) and run the same `layercache probe` again",
        make=cut_head,
        follow=lambda folder, match: (delete(match), must_run(LINEAR)),
    ),
    "a damaged head alone": Case(
        "predict head.safetensors image.png",
        "run the same `layercache probe` again with refresh=True (.--refresh.)",
        then="predict {cache}/probes/{linear} image.png",
        make=lambda folder: (
            cut_head(folder),
            (probe_of(folder / "home", head=True) / "head.safetensors").rename("head.safetensors"),
        ),
        follow=lambda folder, match: must_run(f"{LINEAR} --refresh"),
    ),
    "a head of other weights": Case(
        "predict trained image.png",
        "pass the checkpoint that it was trained on as `(weights)`",
        then="predict trained image.png --\\1 other.pt",
        make=train_on_other_weights,
        follow=lambda folder, match: None,
        slow=True,
    ),
    "a cache of another schema": Case(
        "cache verify {home}/../old/digits/vit_nano/*",
        r"extract it again \((layercache extract --model vit_nano --dataset )shapes",
        then="cache verify",
        make=make_outdated,
        follow=lambda folder, match: must_run(f"{match[1]}digits --limit 20 --layers 6,12"),
        slow=True,
    ),
    "copied onto itself": Case(
        "cache push --to {home}",
        r"give another root \((--to)\)",
        then="cache push \\1 copy",
        follow=lambda folder, match: None,
    ),
    "rm of a link": Case(
        "cache rm link --yes",
        r"got a symbolic link to (\S+): give that folder",
        then="cache rm \\1 --yes",
        make=lambda folder: Path("link").symlink_to(cache_of(folder / "home")),
        follow=lambda folder, match: Path("link").unlink(),
    ),
    "a lock file with contents": Case(
        "cache rm --yes",
        r"(/\S+): expected an empty lock file, .*: move it elsewhere and run the same",
        make=lambda folder: (cache_of(folder / "home") / "commits/train.lock").write_text("x"),
        follow=lambda folder, match: Path(match[1]).rename("elsewhere"),
    ),
    "a folder in the place of a file": Case(
        f"{EXTRACT} --tap block",
        r"(/\S+): expected a regular file, got .*: remove it and run the same command again",
        make=lambda folder: (
            store_two(folder),
            [
                ((cache / "spec.json").unlink(), (cache / "spec.json").symlink_to("/dev/null"))
                for cache in (folder / "home").glob("*/*/*")
                if not (cache / "probes").exists()
            ],
        ),
        follow=lambda folder, match: delete(match),
        slow=True,
    ),
    "tokens that overflow": Case(
        f"{EXTRACT} --weights large.pt",
        "try storage dtype (float32)",
        then=f"{EXTRACT} --weights large.pt --storage-dtype \\1",
        make=lambda folder: write_weights("large.pt", "norm.weight", 1e6),
        follow=lambda folder, match: None,
        slow=True,
    ),
    "rm with options before it": Case(
        "probe --cache home rm {knn} --yes",
        r"as in `(layercache probe rm) ID (--cache) DIR`",
        then="\\1 {knn} \\2 home --yes",
        follow=lambda folder, match: None,
    ),
    "a download of nothing": Case(
        "datasets --download",
        r": (layercache datasets) NAME (--download)",
        then="\\1 digits \\2",
        follow=lambda folder, match: None,
    ),
}


@parametrize(CASES)
def test_remedy_of_a_command_works(case: Case, folder: Path) -> None:
    follow_remedy(case, folder)
