"""Plan of a scan: its tokens, subsets and rows, and what they cost.

With N training rows and G settings that are tried, S tokens of width D cost

    N S D²            operations for the products of each token with itself, which are symmetric,
    2 N D²            more for each pair of tokens that is in one subset,
    G (k D)³ / 3      for a subset of k tokens, or
    N² k D + G N³ / 3 in products of samples if N < k D.

The products run in single precision at the speed of a large matrix product, the decompositions in
single precision too, and their solutions are corrected in double.
Every byte of the train and the test split is read once: 2 S D bytes of each row in float16.

At 40,000 training and 10,000 test rows of 24 tokens x 768 this is 1.8 GB read; 0.6e12 operations
for the tokens and 1.3e12 for the 28 pairs of last, mid-last and quarter; 1e12 to solve; and 1.8e12
for the similarities to 4,000 rows. All 24 tokens together would add 1.2e13:
a subset is left out by default if it costs more than three times all tokens on their own, and more
than SMALL_COST.

Shapes: S tokens, D width, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layercache._units import join_words
from layercache.cache.cache import Cache
from layercache.cache.format.cache_spec import POOLED_KINDS
from layercache.cache.format.layers_and_tokens import LAYER_WORDS, parse_layers, select_pairs
from layercache.errors import OptionError, UnknownNameError

HEADS = ("ridge", "lda", "knn")
SUBSETS = ("last", "mid-last", "quarter", "all")
RELATIVE_COST = 3.0
"""Cost of a subset, relative to all tokens on their own, up to which it is scanned by default."""
SMALL_COST = 2e12
"""Operations up to which it always is: about ten seconds on two cores."""
SOLVES = 6
"""Settings that the search of a subset tries, with those of the refit."""


@dataclass(frozen=True)
class Subset:
    """Tokens that one head sees."""

    layers: str
    """A word or a number."""
    kinds: str
    """Token kinds, as cls+ap."""
    tokens: tuple[int, ...]
    """Positions of its tokens among those of the scan, ascending."""

    @property
    def single(self) -> bool:
        """True if it is one token."""
        return len(self.tokens) == 1


@dataclass(frozen=True, kw_only=True)
class ScanPlan:
    """Tokens and subsets of a scan."""

    pairs: tuple[tuple[int, str], ...]
    """(layer, token kind) of the S tokens."""
    subsets: tuple[Subset, ...]
    """Every token on its own, then subsets of several."""
    left_out: tuple[Subset, ...]
    """Subsets that cost too much to be scanned by default."""
    width: int
    """D."""
    rows: int
    """N, training rows of the final fit."""
    too_large: tuple[Subset, ...] = ()
    """Default subsets that memory does not suffice for."""

    def in_samples(self, subset: Subset) -> bool:
        """Return whether a subset is solved in the coordinates of the samples."""
        return self.rows < len(subset.tokens) * self.width


def plan_scan(
    cache: Cache,
    *,
    rows: int,
    layers: str | None = None,
    tokens: str | None = None,
    subsets: str | Sequence[str] | None = None,
) -> ScanPlan:
    """Return the plan of a scan.

    Args:
        cache: The cache.
        rows: Training rows.
        layers: Layers to scan, as in `probe`; None: all that are stored.
        tokens: Token kinds; None: all that are stored and are one token of a layer.
        subsets: Words for several layers, each with all kinds together; None: those that are
            stored and cost little; an empty sequence: none.

    Raises:
        OptionError: There is no such layer, or no token of a layer.
        UnknownNameError: There is no such subset or token kind.
    """
    spec = cache.spec
    numbers = spec.layers if layers is None else parse_layers(layers, spec.depth)
    kinds = tokens or "+".join(kind for kind in POOLED_KINDS if kind in spec.tokens)
    if not kinds:
        raise OptionError(
            f"{cache.path} stores no token that summarizes a layer ({', '.join(POOLED_KINDS)}): "
            "give tokens, such as grid:2"
        )
    pairs = select_pairs(spec, layers=",".join(map(str, numbers)), tokens=kinds)
    singles = tuple(
        Subset(str(layer), kind, (position,)) for position, (layer, kind) in enumerate(pairs)
    )
    chosen_subsets: list[Subset] = []
    left_out: list[Subset] = []
    words = SUBSETS if subsets is None else [subsets] if isinstance(subsets, str) else subsets
    seen = {subset.tokens for subset in singles}
    for word in words:
        if word not in LAYER_WORDS:
            raise UnknownNameError("subset", word, SUBSETS)
        chosen = parse_layers(word, spec.depth)
        missing = set(chosen) - set(numbers)
        if missing and subsets is not None:
            raise OptionError(
                f"subset {word} needs the layers {join_words([str(n) for n in chosen])}, and this "
                f"scan has {join_words([str(n) for n in numbers])}: leave it out, or scan them too"
            )
        positions = tuple(i for i, (layer, _) in enumerate(pairs) if layer in chosen)
        if missing or positions in seen:
            continue
        seen.add(positions)
        subset = Subset(word, kinds.replace(",", "+"), positions)
        cost = _cost(len(positions), spec.width, rows)
        limit = max(RELATIVE_COST * len(pairs) * _cost(1, spec.width, rows), SMALL_COST)
        (chosen_subsets if subsets is not None or cost <= limit else left_out).append(subset)
    return ScanPlan(
        pairs=pairs,
        subsets=(*singles, *chosen_subsets),
        left_out=tuple(left_out),
        width=spec.width,
        rows=rows,
    )


def _cost(tokens: int, width: int, rows: int) -> float:
    """Return the operations that a subset adds; those in double precision count twice."""
    features = tokens * width
    if rows < features:
        return 2.0 * rows**2 * features + 2 * SOLVES * rows**3 / 3
    pairs = max(1, tokens * (tokens - 1) // 2)
    return 2.0 * pairs * rows * width**2 + 2 * SOLVES * features**3 / 3
