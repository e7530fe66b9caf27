"""Names of codecs."""

from __future__ import annotations

import numpy as np
import pytest

from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.errors import OptionError


@pytest.mark.parametrize(
    ("name", "text", "width", "dtype"),
    [
        ("int8", "int8", 768, "int8"),
        ("pca:64", "pca:64", 64, "int8"),
        ("pca:64:int8", "pca:64", 64, "int8"),
        ("pca:46:float16", "pca:46:float16", 46, "float16"),
        ("pq:96", "pq:96", 96, "uint8"),
    ],
)
def test_codec_spec_parses_a_name(name: str, text: str, width: int, dtype: str) -> None:
    codec = CodecSpec.parse(name)
    assert str(codec) == text
    assert codec.code_width(768) == width
    assert codec.dtype == dtype
    assert CodecSpec.parse(text) == codec
    assert np.array(codec.missing).astype(dtype) != 0


@pytest.mark.parametrize("name", ["", "int4", "pca", "pca:0", "pq:8:float16", "pq:-1", "int8 "])
def test_codec_spec_of_another_name_raises(name: str) -> None:
    with pytest.raises(OptionError, match="expected int8, pca:R, pca:R:float16 or pq:M"):
        CodecSpec.parse(name)


def test_code_width_of_a_codec_that_does_not_fit_raises() -> None:
    with pytest.raises(OptionError, match="expected at most pq:96 for tokens of width 96"):
        CodecSpec.parse("pq:97").code_width(96)
    with pytest.raises(OptionError, match="expected at most pca:8 for tokens of width 8"):
        CodecSpec.parse("pca:9").code_width(8)


def test_rank_is_the_number_of_principal_components() -> None:
    names = ["int8", "pca:92", "pq:64", "pq:92", "pq:200", "pq:768"]
    ranks = [CodecSpec.parse(name).rank(768) for name in names]
    assert ranks == [0, 92, 256, 368, 600, 768]
