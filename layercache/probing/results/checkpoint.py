"""A trained head as one safetensors file.

It holds the state dict, and in its metadata all that is needed to use the head on its backbone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath, RemotePath, as_cache_path
from layercache.errors import HeadMismatchError, ProbeNotFoundError, ProbeSchemaError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead

HeadPath = CachePath
"""A probe's folder or its head file, here or on object storage."""

HEAD_FILE = "head.safetensors"
METADATA_KEY = "layercache"
SCHEMA = 2
MAX_SHOWN_TOKENS = 6


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Backbone, preprocessing and caches that a head's tokens come from."""

    model: str
    """The name given as `model`."""
    architecture: str
    """timm's architecture name."""
    weights: str
    """SHA-256 hex of the backbone's weights."""
    depth: int
    """Number of blocks."""
    tap: str
    """Point inside a block where its tokens are read."""
    projected: bool
    """The last layer went through CLIP's projection."""
    preprocessing: Mapping[str, Any]
    """The resolved preprocessing."""
    dataset: str
    """Name of the dataset."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of each of the S tokens, in the order of the head's input."""
    fingerprints: tuple[str, ...]
    """Fingerprints of the caches that the head was trained from."""
    precision: str = "fp32"
    """Arithmetic of the forward that made the tokens: "fp32", "bf16" or "fp16"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(FittedHead):
    """A trained head with its provenance, as stored on disk."""

    name: str
    """The name given as `head`; "logreg" is stored as a linear head."""
    provenance: Provenance
    """Source of its tokens."""

    @classmethod
    def of(cls, head: FittedHead, *, name: str, provenance: Provenance) -> Checkpoint:
        """Return `head` with its provenance."""
        return cls(**vars(head), name=name, provenance=provenance)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.provenance.classes

    @property
    def pairs(self) -> tuple[tuple[int, str], ...]:
        """(layer, token) of each input token."""
        return self.provenance.pairs

    def describe_input(self) -> str:
        """Return the expected input in words, for errors."""
        names = [f"{layer}:{token}" for layer, token in self.pairs]
        if len(names) > MAX_SHOWN_TOKENS:
            names = [*names[:3], "...", names[-1]]
        return f"{super().describe_input()}, {', '.join(names)} of {self.provenance.model}"

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        from safetensors.torch import save

        metadata = {
            field.name: getattr(self, field.name)
            for field in fields(Checkpoint)
            if field.name not in ("state_dict", "spec", "provenance")
        }
        metadata |= {
            "schema": SCHEMA,
            "spec": asdict(self.spec),
            "provenance": asdict(self.provenance),
        }
        content: bytes = save(
            {name: p.contiguous() for name, p in self.state_dict.items()},
            metadata={METADATA_KEY: json.dumps(metadata)},
        )
        return content


def head_path(path: str | HeadPath) -> HeadPath:
    """Return a local path, or an address on object storage, of a string. Raises OptionError."""
    return as_cache_path(path)


def head_file(path: HeadPath) -> HeadPath:
    """Return the head file of a probe, which is given by itself or by the probe's folder."""
    is_file = path.name == HEAD_FILE if isinstance(path, RemotePath) else not path.is_dir()
    return path if is_file else path / HEAD_FILE


def load_head(path: str | HeadPath) -> Checkpoint:
    """Load the trained head of a probe.

    Args:
        path: The probe's folder (CACHE/probes/ID) or its head.safetensors, here or on object
            storage.

    Raises:
        HeadMismatchError: The file is not a head that layercache wrote.
        ProbeSchemaError: Another version of layercache wrote it.
        ProbeNotFoundError: There is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = head_file(head_path(path))
    try:
        data = open_store(file.parent).read(file.name)
    except FileNotFoundError:
        raise ProbeNotFoundError(
            f"{file}: expected a trained head here, got no such file (a knn baseline has none); "
            "`layercache results` lists the probes and their folders"
        ) from None
    try:
        state_dict = load(data)
    except SafetensorError as e:
        raise HeadMismatchError(
            f"{file} is not a safetensors file ({e}): train the probe again with refresh=True "
            "(--refresh)"
        ) from e
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header.get("__metadata__", {}).get(METADATA_KEY)
    if text is None:
        raise HeadMismatchError(
            f"{file} has no {METADATA_KEY!r} entry in its metadata: it is not a head saved by "
            "layercache"
        )
    metadata = json.loads(text)
    if (schema := metadata.pop("schema")) != SCHEMA:
        raise ProbeSchemaError(
            f"{file}: expected a head of schema {SCHEMA}, got schema {schema}, which another "
            "version of layercache wrote: run the same `layercache probe` again and use the head "
            "that it writes"
        )
    spec = metadata.pop("spec")
    if spec["embedding_ids"] is not None:
        spec["embedding_ids"] = tuple(spec["embedding_ids"])
    provenance = metadata.pop("provenance")
    for name in ("classes", "fingerprints"):
        provenance[name] = tuple(provenance[name])
    provenance["pairs"] = tuple((int(layer), str(token)) for layer, token in provenance["pairs"])
    metadata["losses"] = tuple(metadata["losses"])
    return Checkpoint(
        **metadata,
        spec=HeadSpec(**spec),
        state_dict=state_dict,
        provenance=Provenance(**provenance),
    )
