"""Every remedy that a message gives is followed once: a command is pasted, an option is given.

Followed in the tests of their own room: folders and tables (tests/extraction/datasets/
test_remedies), columns of `hf:` (test_huggingface), `pip install` of an
extra (test_packaging), confirmation of a large cache (test_extract, `confirm=False`), a read-only
cache (test_lookup, test_probe_store), probes and heads of another schema (test_probe_store,
test_checkpoint), locks and notes with other contents (test_lock, test_notes), prefixes and
wrappers of checkpoints (test_checkpoint, test_key_prefix), images (test_decode, test_stream).

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
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import layercache.extraction.models.vit_nano as vit_nano
from layercache.testing import make_spec
from layercache_cli.main import main
from tests.cache.folders import make_schema_1_cache

EXTRACT = "extract -m vit_nano -d digits --limit 20 --layers 6,12"
"""What the fixture `folder` has been extracted with."""
KNN = "probe --head knn --layers 12"
FAST = "probe --layers 12 --weight-decay 0 --dropout 0 --epochs 1 --min-steps 2"
LINEAR = f"{FAST} --head linear --lr 0.1"


def run(line: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and all that it printed."""
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as stop:
        main(shlex.split(line.removeprefix("layercache ")))
    return int(stop.value.code or 0), printed.getvalue()


def must_run(line: str) -> str:
    code, text = run(line)
    assert code == 0, f"{line}\n{text}"
    return text


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one cache and two probes."""
    root = tmp_path_factory.mktemp("remedies") / "home"
    must_run(f"{EXTRACT} --cache {root}")
    must_run(f"{KNN} --cache {root}")
    must_run(f"{LINEAR} --cache {root}")
    return root


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command, with the root `home`."""
    shutil.copytree(prepared, tmp_path / "home")
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (28, 28)).save("image.png")
    return tmp_path


def cache_of(root: Path) -> Path:
    (found,) = root.glob("*/*/*")
    return found


def probe_of(root: Path, *, head: bool) -> Path:
    (found,) = [
        probe
        for probe in root.glob("*/*/*/probes/*")
        if (probe / "head.safetensors").exists() == head
    ]
    return found


def write_weights(file: str, name: str, factor: float) -> None:
    state = load_file(Path(vit_nano.__file__).with_suffix(".safetensors"))
    torch.save({**state, name: factor * state[name].float()}, file)


def delete(match: re.Match[str]) -> None:
    """Delete the file or folder that a message names in its first group."""
    path = Path(match[1])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class Case:
    """A command that fails, its remedy, and the command that then succeeds."""

    fails: str
    """The command line; {home} and {cache} are the root and the cache."""
    says: str
    """Pattern of the remedy. Its first group is a command to run, unless `follow` is given."""
    then: str | None = None
    """The command that then succeeds; \\1 is the first group. By default the same as before."""
    slow: bool = False
    """Left to `make slow`."""
    make: Callable[[Path], object] = lambda folder: None
    """Makes the circumstances in the working folder."""
    follow: Callable[[Path, re.Match[str]], object] | None = None
    """Does what the message says."""


def drop_complete(split: str) -> Callable[[Path], None]:
    return lambda folder: (cache_of(folder / "home") / f"commits/{split}/complete.json").unlink()


def cut(pattern: str) -> Callable[[Path], None]:
    """Cut a file of the cache in half."""

    def do(folder: Path) -> None:
        (file,) = cache_of(folder / "home").glob(pattern)
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])

    return do


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
REPAIR = r"^(?:error: )?(/\S+?): .*(?:delete it and run the same extraction again)"

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


def options(fails: str, says: str, then: str, *, slow: bool = False) -> Case:
    """An option or value that the message names."""
    return Case(fails, says, then, slow=slow, follow=lambda folder, match: None)


CASES |= {
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


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if case.slow else [])
        for name, case in CASES.items()
    ],
)
def test_remedy_of_a_command_works(case: Case, folder: Path) -> None:
    for i in range(8):
        Image.new("RGB", (28, 28), (30 * i, 0, 0)).save(f"{i}.png")
    rows = [
        f"{i}.png,{'ab'[i % 2] if i < 7 else ''},{'test' if i > 5 else 'train'}" for i in range(8)
    ]
    Path("t.csv").write_text("\n".join(["path,label,split", *rows]))
    gone = [f"{i if i else 'gone'}.png,{'ab'[i % 2]}" for i in range(8)]
    Path("gone.csv").write_text("\n".join(["path,label", *gone]))
    cache = cache_of(folder / "home")
    names = {
        "home": folder / "home",
        "cache": cache,
        "knn": probe_of(folder / "home", head=False).name,
        "linear": probe_of(folder / "home", head=True).name,
    }
    case.make(folder)
    fails = case.fails.format(**names)
    if fails.endswith("*"):
        (found,) = Path(shlex.split(fails)[-1]).parent.glob("*")
        fails = f"cache verify {found}"
    code, text = run(fails)
    assert code == 1, text
    match = re.search(case.says, text, re.MULTILINE)
    assert match, text
    if case.follow is not None:
        case.follow(folder, match)
    else:
        must_run(match[1])
    must_run(match.expand(case.then).format(**names) if case.then else fails)


@pytest.mark.parametrize(
    "file",
    [
        "spec.json",
        "commits/train/complete.json",
        "commits/test/00000000.json",
        "train.zarr/tokens/c*",
        "train.zarr/id/c/0",
        "annotations/*.npz",
        "annotations/columns.json",
        "train.zarr/zarr.json",
        "origins/*.json",
    ],
)
def test_remedy_of_verify_for_a_damaged_file_works(folder: Path, file: str) -> None:
    cut(file)(folder)
    code, text = run("cache verify")
    assert code == 1
    assert re.search("delete it and run the same extraction again|delete the file", text), text
    named = {Path(word) for word in re.findall(r"^(?:error: )?(/\S+?):? ", text, re.MULTILINE)}
    assert named
    for path in named & set(cache_of(folder / "home").rglob("*")):
        path.unlink()
    must_run(EXTRACT)
    must_run("cache verify")
