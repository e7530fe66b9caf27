"""Specs, caches, probes and tokens with given content, for tests and benchmarks.

Nothing here needs pytest, and everything is deterministic. `layercache.testing.probes` stands
apart, because it imports torch.
"""

from layercache.testing.caches import (
    CLASSES,
    TEST_ROWS,
    make_cache,
    make_identity,
    make_ids,
    make_labels,
    make_spec,
    make_tokens,
    make_writer,
    write_cache,
    write_labels,
    write_pending,
    write_planted_cache,
)
from layercache.testing.codecs import encode_tokens, make_codec
from layercache.testing.tokens import InMemoryTokens, make_separable_tokens

__all__ = [
    "CLASSES",
    "TEST_ROWS",
    "InMemoryTokens",
    "encode_tokens",
    "make_cache",
    "make_codec",
    "make_identity",
    "make_ids",
    "make_labels",
    "make_separable_tokens",
    "make_spec",
    "make_tokens",
    "make_writer",
    "write_cache",
    "write_labels",
    "write_pending",
    "write_planted_cache",
]
