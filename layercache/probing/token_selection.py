"""The tokens that a head sees: layers and token kinds of one cache or of several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from layercache.cache.cache import Cache, extract_advice
from layercache.cache.format.cache_spec import POOLED_KINDS
from layercache.cache.format.layers_and_tokens import (
    LAYER_WORDS,
    parse_layers,
    parse_tokens,
    select_pairs,
)
from layercache.cache.format.token_names import kind_word, kind_words, token_kind
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads.spec import HEADS, SPATIAL_HEADS

Pairs = tuple[tuple[int, str], ...]
TOKEN_KIND = re.compile("|".join(POOLED_KINDS) + r"|all|patch|grid:\d+")
"""Token kinds that an extraction can store."""


@dataclass(frozen=True, eq=False)
class TokenSelection:
    """The tokens that a head sees, from caches of the same images.

    They have the same weights, unless encoders are joined.
    """

    sources: tuple[tuple[Cache, Pairs], ...]
    """(cache, its (layer, token) pairs)."""
    layers: str
    """Layers as a word if there is one (last, mid-last, quarter, all), else as numbers."""
    kinds: str
    """Token kinds, such as cls+ap; see `name_tokens`."""
    spatial: str
    """KIND@LAYERS of the spatial tokens of a hybrid or fusion head, else ""."""
    pooled: int
    """Number of tokens that are not spatial tokens of such a head."""
    joined: bool = False
    """Each source is another encoder."""

    @property
    def cache(self) -> Cache:
        """The first cache, whose folder holds the probe."""
        return self.sources[0][0]

    @property
    def pairs(self) -> Pairs:
        """(layer, token) of all S tokens."""
        return tuple(pair for _, pairs in self.sources for pair in pairs)

    @property
    def width(self) -> int:
        """D, the largest width of a cache."""
        return max(cache.spec.width for cache, _ in self.sources)

    @property
    def encoders(self) -> tuple[tuple[str, int], ...] | None:
        """Model and number of tokens of each joined encoder, in the order of the tokens."""
        if not self.joined:
            return None
        return tuple((cache.spec.model, len(pairs)) for cache, pairs in self.sources)

    def of_cache(self, other: Cache) -> TokenSelection:
        """Return the same tokens of another cache, which holds all of them.

        Raises:
            OptionError: It does not.
        """
        if self.joined:
            raise OptionError(
                f"test_cache: {other.path} is of one encoder, and the head joins several: test on "
                "splits of the joined caches (--test SPLIT)"
            )
        stored = {(layer, token) for layer in other.spec.layers for token in other.spec.tokens}
        if missing := [pair for pair in self.pairs if pair not in stored]:
            layer, token = missing[0]
            raise OptionError(
                f"{other.path}: {len(missing)} of the {len(self.pairs)} tokens of this probe are "
                f"not stored, such as {token!r} of layer {layer}: extract the test set with the "
                f"layers and tokens of {self.cache.path}"
            )
        return replace(self, sources=((other, self.pairs),))

    @property
    def embedding_ids(self) -> tuple[int, ...]:
        """Index of the embedding of each token: one for each layer and token kind."""
        return _number([(layer, token_kind(token)) for layer, token in self.pairs])

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """Index of the layer of each token, ascending with depth."""
        order = sorted({layer for layer, _ in self.pairs})
        return tuple(order.index(layer) for layer, _ in self.pairs)

    @property
    def kind_ids(self) -> tuple[int, ...]:
        """Index of the kind of each token."""
        return _number([token_kind(token) for _, token in self.pairs])

    def embeddings_of(self, head: str, *, positions: bool) -> tuple[int, ...]:
        """Return the index of the embedding of each token that a head adds embeddings to.

        They are all tokens of a hybrid head, and the spatial ones of a fusion head.

        Args:
            head: Name of the head.
            positions: Each position has an embedding of its own, not only each layer and kind.
        """
        ids = tuple(range(len(self.pairs))) if positions else self.embedding_ids
        return _number(ids[self.pooled :] if head == "fusion" else ids)

    @property
    def mix_ids(self) -> tuple[int, ...]:
        """Index of the mean of layers that each token belongs to: one for each token name."""
        return _number([token for _, token in self.pairs])


def _number(values: Sequence[Any]) -> tuple[int, ...]:
    """Return the number of each value, in the order in which they first occur."""
    order = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return tuple(order[value] for value in values)


def select_tokens(
    cache: Cache,
    *,
    head: str,
    layers: str | None,
    tokens: str | None,
    spatial: str | None = None,
    spatial_layers: str = "last",
    spatial_cache: Cache | None = None,
) -> TokenSelection:
    """Return the tokens of a head.

    Args:
        cache: Cache of the tokens.
        head: Name of the head.
        layers: Layer choice; None: all, or the last one for attentive-tokens.
        tokens: Token kinds; None: cls+ap, or all for attentive-tokens.
        spatial: Spatial tokens of a hybrid or fusion head; those of a fusion head may be among
            its other tokens.
        spatial_layers: Layers of the spatial tokens.
        spatial_cache: Cache of the spatial tokens if it is another one.

    Raises:
        UnknownNameError: The head, a layer choice or a token kind is unknown.
        OptionError: The tokens are not stored; the message gives the extraction to run. Or a head
            other than fusion would see a token twice.
    """
    if head not in HEADS:
        raise UnknownNameError("head", head, HEADS)
    if head in SPATIAL_HEADS and spatial is None:
        raise OptionError(
            f"the {head} head needs spatial tokens: give spatial (grid:2, another grid, or patch) "
            "and spatial_layers"
        )
    if head not in SPATIAL_HEADS and spatial is not None:
        raise OptionError(
            f"spatial tokens belong to the hybrid and fusion heads, not to {head}: choose one of "
            "these, or leave spatial out"
        )
    all_tokens = head == "attentive-tokens"
    layers = layers or ("last" if all_tokens else "all")
    tokens = tokens or ("all" if all_tokens else _default_tokens(cache))
    pairs = _select(cache, layers=layers, tokens=tokens)
    sources = [(cache, pairs)]
    spatial_name = ""
    if spatial is not None:
        other = spatial_cache or cache
        added = _select(other, layers=spatial_layers, tokens=spatial)
        check_each_once(head, pairs, added, tokens=tokens, spatial=spatial)
        sources = [(cache, pairs + added)] if other is cache else [*sources, (other, added)]
        spatial_name = f"{name_tokens(added, other)}@{name_layers(added, other)}"
    return TokenSelection(
        tuple(sources),
        name_layers(pairs, cache),
        name_tokens(pairs, cache),
        spatial_name,
        len(pairs),
    )


def check_each_once(head: str, pairs: Pairs, added: Pairs, *, tokens: str, spatial: str) -> None:
    """Check that a head sees each token once; the branches of a fusion head may share tokens.

    Args:
        head: Name of the head.
        pairs: (layer, token or its kind) of the other tokens.
        added: Those of the spatial tokens.
        tokens: The words for `pairs`, for the error.
        spatial: The words for `added`.

    Raises:
        OptionError: Another head would see a token twice.
    """
    repeated = set(added) & set(pairs)
    if repeated and head != "fusion":
        layer, token = min(repeated)
        raise OptionError(
            f"layer {layer}, token {token!r} is in both tokens {tokens} and spatial {spatial}"
        )


def _default_tokens(cache: Cache) -> str:
    """Return cls+ap, as in the paper; for an imported cache all kinds that it has."""
    return "+".join(kind_words(cache.spec.tokens)) if cache.spec.imported else "cls+ap"


def _select(cache: Cache, *, layers: str, tokens: str) -> Pairs:
    spec = cache.spec
    try:
        return select_pairs(spec, layers=layers, tokens=tokens)
    except (OptionError, UnknownNameError):
        numbers = parse_layers(layers, spec.depth)
        if not all(TOKEN_KIND.fullmatch(word.strip()) for word in re.split("[+,]", tokens)):
            raise
        if set(numbers) - set(spec.layers):
            stored, needed = f"layers {','.join(map(str, spec.layers))}", f"layers {layers}"
        else:
            kinds = "+".join(kind_words(spec.tokens))
            stored, needed = f"the tokens {kinds}", f"the tokens {tokens}"
        command = extract_advice(cache, layers=layers, tokens=tokens.replace(",", "+"))
        raise OptionError(
            f"the cache of {spec.model} on {spec.dataset.name} ({cache.path}) stores {stored}; "
            f"this probe needs {needed}. To extract them, run: {command}"
        ) from None


def name_layers(pairs: Sequence[tuple[int, str]], cache: Cache) -> str:
    """Return the word for the layers of some pairs if there is one, else their numbers: "1,5,9"."""
    numbers = tuple(sorted({layer for layer, _ in pairs}))
    # in a shallow model several words can mean the same layers: the extremes come first
    for word in sorted(LAYER_WORDS, key=("last", "all", "mid-last", "quarter").index):
        if parse_layers(word, cache.spec.depth) == numbers:
            return word
    return ",".join(map(str, numbers))


def name_tokens(pairs: Sequence[tuple[int, str]], cache: Cache) -> str:
    """Return the shortest word for the tokens of some pairs: cls+ap, grid:2, all ...

    Kinds are in the order of POOLED_KINDS, whatever that of the cache.
    """
    names = tuple(dict.fromkeys(token for _, token in pairs))
    if any(name.startswith("patch/") for name in names):
        for word in ("all", "patch"):
            if parse_tokens(word, cache.spec.tokens) == names:
                return word
    words: list[str] = []
    kinds = kind_words(names)
    pooled = [kind for kind in POOLED_KINDS if kind in kinds]
    for kind in [*pooled, *(kind for kind in kinds if kind not in pooled)]:
        members = tuple(name for name in names if kind_word(name) == kind)
        words += [kind] if parse_tokens(kind, cache.spec.tokens) == members else list(members)
    return "+".join(words)
