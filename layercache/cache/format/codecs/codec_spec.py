"""Names of token codecs, and what a code looks like.

* `int8`: one byte a channel, x = offset + scale * code, for each layer and channel.
* `pca:R`: R coefficients of the projection on the first R principal components of a layer, each
  stored as in `int8`; `pca:R:float16` stores them in half precision.
* `pq:M`: optimized product quantization (Jegou et al., 2011; Ge et al., 2013): the first R = 4 M
  principal components of a layer (fewer if D is smaller) in M groups of equal product of variances,
  each group replaced by the number of the nearest of its 255 centroids.

A code of int8 numbers runs from -127 to 127, where the two ends mean that the value lay outside the
range of the sample. -128, and the centroid number 255, mark a token that does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from layercache.errors import OptionError

INT8_LEVELS = 126
"""Steps of an int8 code between the middle and the end of the range of the sample."""
INT8_SATURATED = 127
"""Absolute value of an int8 code of a number outside the range of the sample."""
INT8_MISSING = -128
"""int8 code of a token that does not exist: a skipped image, padding, a value that is not
finite."""
CENTROIDS = 255
"""Centroids of a group."""
GROUP_COMPONENTS = 4
"""Largest number of principal components of a group."""
CENTROID_MISSING = 255
"""Centroid number of a token that does not exist."""
FORMS = "int8, pca:R, pca:R:float16 or pq:M"

_NAME = re.compile(r"int8|pca:([1-9]\d{0,5})(:float16|:int8)?|pq:([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True)
class CodecSpec:
    """Kind, size and dtype of a codec, as its name gives them."""

    kind: Literal["int8", "pca", "pq"]
    size: int
    """R of pca, M of pq, else 0."""
    dtype: Literal["int8", "uint8", "float16"]
    """Dtype of the numbers of a code."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a name.

        Raises:
            OptionError: It is no name of a codec.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise OptionError(f"store {name!r}: expected {FORMS}")
        if match[1]:
            dtype: Literal["int8", "float16"] = "float16" if match[2] == ":float16" else "int8"
            return cls("pca", int(match[1]), dtype)
        return cls("pq", int(match[3]), "uint8") if match[3] else cls("int8", 0, "int8")

    def __str__(self) -> str:
        """Return the name, always the same for one codec."""
        if self.kind == "int8":
            return "int8"
        return f"{self.kind}:{self.size}" + (":float16" if self.dtype == "float16" else "")

    def code_width(self, width: int) -> int:
        """Return the numbers of the code of a token of width D.

        Raises:
            OptionError: The codec does not fit the width.
        """
        if self.kind == "int8":
            return width
        if self.size > width:
            raise OptionError(
                f"store {str(self)!r}: expected at most {self.kind}:{width} for tokens of width "
                f"{width}"
            )
        return self.size

    def rank(self, width: int) -> int:
        """Return R, the number of principal components of tokens of width D; 0 for int8."""
        if self.kind == "pq":
            return self.size * min(GROUP_COMPONENTS, width // self.size)
        return self.size

    @property
    def missing(self) -> float:
        """Number that fills the code of a token that does not exist."""
        return {"int8": INT8_MISSING, "uint8": CENTROID_MISSING, "float16": np.nan}[self.dtype]
