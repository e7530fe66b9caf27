from __future__ import annotations

import pytest
from torch import Tensor

from tests.extraction.models.families import random_state


@pytest.fixture
def state() -> dict[str, Tensor]:
    """State dict of a small ViT with random weights."""
    return random_state("tiny_vit")
