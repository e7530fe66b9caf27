"""A cell: one probe to be trained, as data. Its digest is the probe's id, so that the same probe is found again and not retrained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from layercache.cache.find import Cache, extract_command
from layercache.cache.format.selection import LAYER_WORDS, resolve_layers, resolve_tokens, select
from layercache.cache.format.spec import sha256_json
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads import HeadSpec
from layercache.probing.results.checkpoint import Provenance
from layercache.probing.training.config import TrainConfig

BASELINES = ("knn", "logreg")
HEADS = ("linear", "attentive", "attentive-tokens", "hybrid", *BASELINES)
SCHEMA = 2
"""Raised when a change of this package makes a probe of the same specification come out differently."""

Pairs = tuple[tuple[int, str], ...]
KIND = re.compile(r"cls|ap|all|patch|grid:\d+")
"""What --tokens can ask an extraction for."""


@dataclass(frozen=True, eq=False)
class TokenSelection:
    """The tokens that a head sees: pairs of one cache, or of two of the same images by the same weights."""

    sources: tuple[tuple[Cache, Pairs], ...]
    """(cache, its pairs)."""
    layers: str
    """As a word where there is one: last, mid-last, quarter, all; else numbers."""
    kinds: str
    """Token kinds, such as cls+ap."""
    spatial: str
    """KIND@LAYERS of a hybrid head's spatial tokens; "" without."""
    pooled: int
    """How many of the tokens are not the hybrid head's spatial ones."""

    @property
    def cache(self) -> Cache:
        """The first cache: probes are kept beside it."""
        return self.sources[0][0]

    @property
    def pairs(self) -> Pairs:
        """All S of them."""
        return tuple(pair for _, pairs in self.sources for pair in pairs)

    @property
    def groups(self) -> tuple[int, ...]:
        """Number of each token's embedding group, one for each layer and kind."""
        kinds = [(layer, token.split("/")[0]) for layer, token in self.pairs]
        order = list(dict.fromkeys(kinds))
        return tuple(order.index(kind) for kind in kinds)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSpec:
    """One probe."""

    tokens: TokenSelection
    """What it sees."""
    head: str
    """The word of --head."""
    head_spec: HeadSpec
    """Kind and shape of the head; of the baselines that of a linear head on the same tokens."""
    grid: tuple[Mapping[str, float], ...]
    """The settings to choose from, in order; with a tie the first one wins."""
    seed: int
    """Of the draws of samples, the initial parameters, batch order and noise."""
    shots: int | None
    """Training samples of each class, or None for all."""
    train_fraction: float | None
    """Part of the training samples, or None for all."""
    train_config: TrainConfig
    """How it is trained; baselines have nothing of it."""
    precision: str
    """Arithmetic of the training."""
    train_split: str = "train"
    """Split that it is trained and selected on."""
    test_split: str = "test"
    """Split that it is tested on."""

    def to_json(self) -> dict[str, Any]:
        """Return all that determines the probe, as plain JSON."""
        return {
            "schema": SCHEMA,
            "sources": [
                {"fingerprint": cache.spec.fingerprint, "pairs": [list(pair) for pair in pairs]}
                for cache, pairs in self.tokens.sources
            ],
            "head": self.head,
            "head_spec": asdict(self.head_spec),
            "grid": [dict(hparams) for hparams in self.grid],
            "seed": self.seed,
            "shots": self.shots,
            "train_fraction": self.train_fraction,
            "train_config": None if self.head in BASELINES else asdict(self.train_config),
            "precision": None if self.head in BASELINES else self.precision,
            "splits": [self.train_split, self.test_split],
        }

    @property
    def id(self) -> str:
        """Identifier of the probe, a digest of its specification, 12 hex digits."""
        return sha256_json(self.to_json())[:12]

    @property
    def provenance(self) -> Provenance:
        """Provenance stored in the checkpoint."""
        spec = self.tokens.cache.spec
        return Provenance(
            model=spec.model,
            architecture=spec.architecture,
            weights=spec.weights,
            depth=spec.depth,
            tap=spec.tap,
            projected=spec.projected,
            preprocessing=spec.preprocessing,
            dataset=spec.dataset.name,
            classes=spec.dataset.classes,
            pairs=self.tokens.pairs,
            fingerprints=tuple(cache.spec.fingerprint for cache, _ in self.tokens.sources),
        )


def select_tokens(
    cache: Cache,
    *,
    head: str,
    layers: str | None,
    tokens: str | None,
    spatial: str | None = None,
    spatial_layers: str = "last",
    beside: Cache | None = None,
) -> TokenSelection:
    """The tokens of a head, from words; None is what the head is meant for: all layers' cls+ap, or all tokens of the last layer (attentive-tokens).

    `beside` is the cache that holds the spatial tokens of a hybrid head, where it is another one.
    Raises UnknownNameError for an unknown head; OptionError or UnknownNameError, naming the extraction to run, for tokens that are not stored.
    """
    if head not in HEADS:
        raise UnknownNameError("head", head, HEADS)
    if (head == "hybrid") != (spatial is not None):
        raise OptionError(
            "the hybrid head needs spatial tokens: give --spatial grid:2 (or another grid, or patch) and --spatial-layers"
            if head == "hybrid"
            else f"spatial tokens belong to the hybrid head, not to {head}: use --head hybrid, or leave --spatial out"
        )
    every = head == "attentive-tokens"
    layers, tokens = (
        layers or ("last" if every else "all"),
        tokens or ("all" if every else "cls+ap"),
    )
    pairs = _select(cache, layers=layers, tokens=tokens)
    sources = [(cache, pairs)]
    extra = ""
    if spatial is not None:
        other = beside or cache
        added = _select(other, layers=spatial_layers, tokens=spatial)
        if repeated := set(added) & set(pairs):
            raise OptionError(
                f"layer {min(repeated)[0]}, token {min(repeated)[1]!r} is among both --tokens {tokens} and --spatial {spatial}"
            )
        sources = [(cache, pairs + added)] if other is cache else [*sources, (other, added)]
        extra = f"{name_tokens(added, other)}@{name_layers(added, other)}"
    return TokenSelection(
        tuple(sources), name_layers(pairs, cache), name_tokens(pairs, cache), extra, len(pairs)
    )


def _select(cache: Cache, *, layers: str, tokens: str) -> Pairs:
    spec = cache.spec
    try:
        return select(spec, layers=layers, tokens=tokens)
    except (OptionError, UnknownNameError):
        numbers = resolve_layers(layers, spec.depth)
        if not all(KIND.fullmatch(word.strip()) for word in re.split("[+,]", tokens)):
            raise
        kinds = "+".join(dict.fromkeys(token.split("/")[0] for token in spec.tokens))
        lacking = set(numbers) - set(spec.layers)
        stored = f"layers {','.join(map(str, spec.layers))}" if lacking else f"the tokens {kinds}"
        wanted = tokens.replace(",", "+").replace("patch", "all")
        command = extract_command(cache, layers=layers, tokens=wanted)
        raise OptionError(
            f"the cache of {spec.model} on {spec.dataset.name} ({cache.path}) stores {stored}; this probe needs "
            f"{'layers ' + layers if lacking else 'the tokens ' + tokens}. To have them, run: {command}"
        ) from None


def name_layers(pairs: Sequence[tuple[int, str]], cache: Cache) -> str:
    """The word for the layers of some pairs where there is one, else their numbers: "1,5,9"."""
    numbers = tuple(sorted({layer for layer, _ in pairs}))
    # a shallow model's words can mean the same layers: the extremes go first
    for word in sorted(LAYER_WORDS, key=("last", "all", "mid-last", "quarter").index):
        if resolve_layers(word, cache.spec.depth) == numbers:
            return word
    return ",".join(map(str, numbers))


def name_tokens(pairs: Sequence[tuple[int, str]], cache: Cache) -> str:
    """The shortest word for the tokens of some pairs: cls+ap, grid:2, all ..."""
    names = tuple(dict.fromkeys(token for _, token in pairs))
    if any(name.startswith("patch/") for name in names):
        for word in ("all", "patch"):
            if resolve_tokens(word, cache.spec.tokens) == names:
                return word
    words: list[str] = []
    for kind in dict.fromkeys(name.split("/")[0] for name in names):
        members = tuple(name for name in names if name.split("/")[0] == kind)
        words += [kind] if resolve_tokens(kind, cache.spec.tokens) == members else list(members)
    return "+".join(words)
