"""Every command and every snippet of the README and the book is run, in the order of the page.

What cannot run here stands in `not_run.NOT_RUN` with the reason, and only there. Command lines
within sentences are not run; test_commands.py checks that their commands and options exist.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from layercache.extraction.datasets.sources import bundled_digits
from layercache.probing import plan
from layercache.probing.training import config
from tests.docs.not_run import NOT_RUN
from tests.docs.pages import PAGES, Block, read_blocks
from tests.docs.session import Session
from tests.docs.stages import STAGES, Stage

LANGUAGES = ("console", "python", "toml", "text")
"""Of blocks: `text` is what is printed, a formula or a tree of files, all others are run."""
WITH_BLOCKS = [name for name in PAGES if any(b.language != "text" for b in read_blocks(name))]
WITH_SLOW_COMMANDS = [name for name in WITH_BLOCKS if STAGES.get(name, Stage()).slow]
QUICK = [name for name in WITH_BLOCKS if "" not in STAGES.get(name, Stage()).slow]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer digits, configurations and steps: these tests are about what runs, not scores."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:200], digits.target[:200]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.setattr(bundled_digits, "NUM_TRAIN", 150)
    monkeypatch.setattr(plan, "WEIGHT_DECAYS", config.WEIGHT_DECAYS[::3])
    make_schedule = config.make_schedule
    monkeypatch.setattr(
        config,
        "make_schedule",
        lambda n_rows, **options: make_schedule(n_rows, **{**options, "epochs": 1, "min_steps": 2}),
    )


def units(block: Block) -> list[str]:
    """Return what of a block is run at once: each command of a console, else the whole text."""
    return block.commands if block.language == "console" else [block.text]


def entry(unit: str, prefixes: Collection[str]) -> str | None:
    """Return the one of the prefixes that a command or block begins with."""
    return next((prefix for prefix in prefixes if unit.startswith(prefix)), None)


def run_page(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
    """Run a page.

    Args:
        name: One of PAGES.
        folder: An empty folder.
        monkeypatch: Changes the current folder and the environment.
        slow: Run its slow commands, too.
    """
    stage = STAGES.get(name, Stage())
    left_out = [*NOT_RUN.get(name, ()), *(() if slow else stage.slow)]
    monkeypatch.chdir(folder)
    with Session(monkeypatch, stand_ins=stage.stand_ins, slow=slow) as session:
        stage.prepare(session)
        for block in read_blocks(name):
            run_block(block, session, left_out=left_out)
    for part in stage.prints:
        assert part in session.printed


def run_block(block: Block, session: Session, *, left_out: Collection[str]) -> None:
    """Run a block but for the units that begin like one of `left_out`."""
    for unit in units(block):
        if block.language == "text" or entry(unit, left_out) is not None:
            continue
        if block.language == "console":
            session.run_command(unit)
        elif block.language == "python":
            session.run_python(block)
        else:
            session.write_study(block)


@pytest.mark.parametrize("name", QUICK)
def test_a_page_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page(name, tmp_path, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SLOW_COMMANDS)
def test_a_page_runs_with_its_slow_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page(name, tmp_path, monkeypatch, slow=True)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_has_a_language_and_commands_stand_in_consoles(name: str) -> None:
    for block in read_blocks(name):
        where = f"{name}:{block.line}"
        assert block.language in LANGUAGES, where
        if block.language == "console":
            assert block.commands, f"{where}: commands begin with '$ '"
        elif block.language == "text":
            assert not re.search(r"^(\$ |import |layercache )", block.text, re.MULTILINE), where


def test_fences_are_all_found() -> None:
    for name, page in PAGES.items():
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(read_blocks(name)), name


@pytest.mark.parametrize("name", sorted({*NOT_RUN, *STAGES}))
def test_lists_name_only_what_is_on_the_pages(name: str) -> None:
    prefixes = [*NOT_RUN.get(name, ()), *STAGES.get(name, Stage()).slow]
    on_page = [unit for block in read_blocks(name) for unit in units(block)]
    for prefix in prefixes:
        assert any(unit.startswith(prefix) for unit in on_page), f"{name}: {prefix}"


def test_a_command_that_fails_fails_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ layercache cache info nowhere\n```\n")
    monkeypatch.setitem(PAGES, "page.md", page)
    with pytest.raises(AssertionError, match="nowhere"):
        run_page("page.md", tmp_path, monkeypatch, slow=False)
