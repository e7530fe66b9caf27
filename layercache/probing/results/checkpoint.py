"""A trained head as one safetensors file: the textbook parameters, and in its metadata all that is needed to use it on its backbone.

Shapes: B images, S tokens, D width, C classes, H attention heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.cache.storage.base import open_store
from layercache.cache.storage.paths import CachePath, RemotePath, as_place
from layercache.errors import HeadMismatchError, ProbeError, ProbeNotFoundError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.attentive import AttentiveHead

HeadPath = CachePath
"""A probe's folder or its head file, here or on object storage."""

HEAD_FILE = "head.safetensors"
KEY = "layercache"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class HeadOrigin:
    """Where a head's tokens come from: what a backbone must be, give and be fed for the head to work on it."""

    model: str
    """The name given to --model."""
    architecture: str
    """timm's architecture name."""
    weights: str
    """SHA-256 hex of the backbone's weights."""
    depth: int
    """Number of blocks B."""
    tap: str
    """Where a layer's tokens are read."""
    projected: bool
    """The last layer went through CLIP's projection."""
    preprocessing: Mapping[str, Any]
    """The resolved preprocessing."""
    dataset: str
    """Name of the data set."""
    classes: tuple[str, ...]
    """Class c is classes[c]."""
    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of each of the S tokens, in the order of the head's input."""
    fingerprints: tuple[str, ...]
    """Fingerprints of the caches that the head was trained from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A trained head: `predict` gives logits from tokens, `attention` the weights of its heads."""

    name: str
    """The word of --head."""
    spec: HeadSpec
    """Kind and shape; a logistic regression is a linear head."""
    parameters: Mapping[str, Tensor]
    """State dict of the textbook head, float32 on the CPU."""
    origin: HeadOrigin
    """What it was trained on."""
    setting: Mapping[str, float]
    """The chosen hyperparameters."""
    seed: int
    """Seed of the fit."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.origin.classes

    @property
    def pairs(self) -> tuple[tuple[int, str], ...]:
        """(layer, token) of each input token."""
        return self.origin.pairs

    def predict(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Tokens (B, S, D), normalised or not -> logits (B, C) float32 on the tokens' device. Raises HeadMismatchError for another shape."""
        x = self._normalised(tokens)
        with torch.inference_mode():
            head = build(self.spec)
            return head.logits(self._lifted(x.device), head.prepare(x), train=False)[0]

    def attention(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Tokens (B, S, D) -> attention weights (B, H, S) float32, which sum to 1 over S. Raises ProbeError for a head without attention."""
        x = self._normalised(tokens)
        head = build(self.spec)
        if not isinstance(head, AttentiveHead):
            raise ProbeError(
                f"a {self.name} head has no attention; attentive, attentive-tokens and hybrid heads do"
            )
        with torch.inference_mode():
            return (
                head.attention(self._lifted(x.device), head.prepare(x))[:, :, 0]
                .transpose(1, 2)
                .contiguous()
            )

    def _normalised(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        x = torch.as_tensor(tokens).float()
        if x.ndim != 3 or x.shape[1:] != (self.spec.tokens, self.spec.width):
            raise HeadMismatchError(
                f"this {self.name} head takes (images, {self.spec.tokens}, {self.spec.width}): the tokens {self._described()} of "
                f"{self.origin.model}; came {tuple(x.shape)}"
            )
        return torch.nn.functional.normalize(x, dim=-1)

    def _described(self) -> str:
        names = [f"{layer}:{token}" for layer, token in self.pairs]
        return ", ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]])

    def _lifted(self, device: torch.device) -> dict[str, Tensor]:
        """The parameters as one configuration of G = 1."""
        return {name: p.to(device)[None] for name, p in self.parameters.items()}


def head_bytes(head: FittedHead) -> bytes:
    """The file's content."""
    from safetensors.torch import save

    described = {
        f.name: getattr(head, f.name)
        for f in fields(head)
        if f.name not in ("parameters", "spec", "origin")
    }
    described |= {"schema": SCHEMA, "spec": asdict(head.spec), "origin": asdict(head.origin)}
    content: bytes = save(
        {name: p.contiguous() for name, p in head.parameters.items()},
        metadata={KEY: json.dumps(described)},
    )
    return content


def head_place(path: str | HeadPath) -> HeadPath:
    """A folder or file here, or an address. Raises OptionError."""
    return as_place(path)


def head_file(place: HeadPath) -> HeadPath:
    """The head file of a probe, given by itself or by the probe's folder."""
    is_file = place.name == HEAD_FILE if isinstance(place, RemotePath) else not place.is_dir()
    return place if is_file else place / HEAD_FILE


def load_head(path: str | HeadPath) -> FittedHead:
    """The trained head of a probe: `path` is the probe's folder (CACHE/probes/ID) or its head.safetensors, here or on object storage.

    Raises HeadMismatchError where the file is none of ours, ProbeNotFoundError where there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = head_file(head_place(path))
    try:
        data = open_store(file.parent).read(file.name)
    except FileNotFoundError:
        raise ProbeNotFoundError(
            f"{file}: no saved head here (a knn baseline has none); `layercache results` lists the probes and their folders"
        ) from None
    try:
        parameters = load(data)
        text = (
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            .get("__metadata__", {})
            .get(KEY)
        )
    except SafetensorError as e:
        raise HeadMismatchError(
            f"{file} is not a safetensors file ({e}): train the probe again with --refresh"
        ) from e
    if text is None:
        raise HeadMismatchError(
            f"{file} has no {KEY!r} entry in its metadata: it is not a head saved by layercache"
        )
    found = json.loads(text)
    if found["schema"] != SCHEMA:
        raise HeadMismatchError(
            f"{file} has schema {found['schema']}, this version reads {SCHEMA}: train the probe again with --refresh"
        )
    spec = found["spec"]
    if spec["groups"] is not None:
        spec["groups"] = tuple(spec["groups"])
    origin = found["origin"]
    for name in ("classes", "fingerprints"):
        origin[name] = tuple(origin[name])
    origin["pairs"] = tuple((int(layer), str(token)) for layer, token in origin["pairs"])
    return FittedHead(
        name=found["name"],
        spec=HeadSpec(**spec),
        parameters=parameters,
        origin=HeadOrigin(**origin),
        setting=found["setting"],
        seed=found["seed"],
    )
