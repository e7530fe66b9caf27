from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import (
    OptionError,
)
from layercache.probing.api import probe
from layercache.testing import make_cache, make_spec
from tests.probing.quick import ONE_CONFIG


def test_select_tokens_that_are_not_stored_names_the_extraction(
    planted: Callable[..., Any],
) -> None:
    with pytest.raises(
        OptionError,
        match=r"stores the tokens cls\+ap; this probe needs the tokens all. To extract them, run: "
        r"layercache extract .*--layers last --tokens all",
    ):
        probe(planted(), head="attentive-tokens", **ONE_CONFIG)


def test_probe_records_the_precision_of_the_forward_in_its_head(tmp_path: Path) -> None:
    spec = replace(make_spec(), precision="bf16")
    cache = make_cache(tmp_path, spec, splits=("train", "test"))
    (trained,) = probe(cache, head="linear", **ONE_CONFIG | {"layers": "last"})
    assert trained.head().provenance.precision == "bf16"
