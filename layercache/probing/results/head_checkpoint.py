"""Checkpoint of a trained head: one safetensors file.

It holds the state dict, and in its metadata all that is needed to use the head on its backbone,
with a checksum of both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from layercache._units import join_words
from layercache.cache.find import matching_caches
from layercache.cache.format.cache_spec import IMPORTED, CacheSpec
from layercache.cache.format.result_folders import read_file, read_record
from layercache.cache.format.token_names import kind_words
from layercache.cache.origin_records import read_origins
from layercache.cache.storage.open import open_source, open_store
from layercache.cache.storage.paths import CachePath, RemotePath, as_cache_path, cache_root
from layercache.errors import HeadMismatchError, ProbeNotFoundError, ProbeSchemaError
from layercache.probing.heads import HeadSpec, parameter_shapes
from layercache.probing.heads.fitted import FittedHead

HeadPath = CachePath
"""A probe's folder or its head file, here or on object storage."""

HEAD_FILE = "head.safetensors"
METADATA_KEY = "layercache"
SCHEMA = 3
MAX_SHOWN_TOKENS = 6
STEP_COUNTER = "batch_norm.num_batches_tracked"
"""End of the name of a buffer of the textbook module that no head needs."""
MAX_HEADER_BYTES = 2**26
"""Size above which a header is not read."""
TRAIN_AGAIN = "run the same `layercache probe` again with refresh=True (--refresh)"


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """A backbone and how its tokens were made: what is needed to make them again."""

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
    precision: str = "fp32"
    """Arithmetic of the forward that made the tokens: "fp32", "bf16" or "fp16"."""

    @classmethod
    def of(cls, spec: CacheSpec, **values: Any) -> Self:
        """Return the record of a cache's encoder, with the fields of a subclass."""
        names = [field.name for field in fields(EncoderRecord)]
        return cls(**{name: getattr(spec, name) for name in names}, **values)

    @property
    def imported(self) -> bool:
        """True if another tool has computed the tokens: there is no encoder to run."""
        return self.tap == IMPORTED


@dataclass(frozen=True, kw_only=True)
class JoinedEncoder(EncoderRecord):
    """One of several encoders whose tokens are joined."""

    n_tokens: int
    """Number of its tokens, in a row among those of the head."""


@dataclass(frozen=True, kw_only=True)
class Provenance(EncoderRecord):
    """Backbone, preprocessing and caches that a head's tokens come from."""

    dataset: str
    """Name of the dataset."""
    classes: tuple[str, ...]
    """Names of the classes, or of the columns of a regression, in the order of the output."""
    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of each of the S tokens, in the order of the head's input."""
    fingerprints: tuple[str, ...]
    """Fingerprints of the caches that the head was trained from."""
    target: tuple[str, ...] = ("label",)
    """Annotation columns that the head predicts; "label" is the dataset's own."""
    codecs: tuple[str, ...] = ()
    """Codecs that stored some of the tokens, such as "pq:64"."""
    encoders: tuple[JoinedEncoder, ...] | None = None
    """Joined encoders, in the order of their tokens; the other fields are those of the first. None:
    all tokens are of one encoder."""

    @property
    def tokens_by_encoder(self) -> tuple[tuple[EncoderRecord, tuple[tuple[int, str], ...]], ...]:
        """Each encoder with the (layer, token) of its tokens."""
        if self.encoders is None:
            return ((self, self.pairs),)
        stops = list(accumulate(encoder.n_tokens for encoder in self.encoders))
        return tuple(
            (encoder, self.pairs[stop - encoder.n_tokens : stop])
            for encoder, stop in zip(self.encoders, stops, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON; `target` only if it is not the dataset's label."""
        values = asdict(self)
        if self.encoders is None:
            del values["encoders"]
        if not self.codecs:
            del values["codecs"]
        if self.target == ("label",):
            del values["target"]
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(FittedHead):
    """A trained head with its provenance, as stored on disk."""

    name: str
    """The name given as `head`; "logreg", "ridge" and "lda" are stored as linear heads."""
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

    @property
    def kinds(self) -> list[str]:
        """Kinds of the input tokens as options name them, each once."""
        return kind_words(token for _, token in self.pairs)

    def describe_input(self) -> str:
        """Return the expected input in words, for errors."""
        names = [f"{layer}:{token}" for layer, token in self.pairs]
        if len(names) > MAX_SHOWN_TOKENS:
            names = [*names[:3], "...", names[-1]]
        models = [record.model for record, _ in self.provenance.tokens_by_encoder]
        return f"{super().describe_input()}, {', '.join(names)} of {join_words(models)}"

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
            "spec": self.spec.to_json(),
            "provenance": self.provenance.to_json(),
        }
        metadata["sha256"] = _digest(json.dumps(metadata), self.state_dict)
        content: bytes = save(
            {name: p.contiguous() for name, p in self.state_dict.items()},
            metadata={METADATA_KEY: json.dumps(metadata)},
        )
        return content

    @classmethod
    def from_bytes(cls, data: bytes, *, where: HeadPath) -> Checkpoint:
        """Return the head that `to_bytes` wrote.

        Args:
            data: Content of the file.
            where: Path of the file, for messages.

        Raises:
            HeadMismatchError: It is damaged, or not a head that layercache wrote.
            ProbeSchemaError: Another version of layercache wrote it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        header, metadata = _read_header(data, where=where)
        digest = metadata.pop("sha256", None)
        text = json.dumps(metadata)
        try:
            head = _parse(metadata)
            shapes = parameter_shapes(head.spec)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
            raise HeadMismatchError(
                f"{where}: its metadata is not that of a head ({_first_line(e)}): {TRAIN_AGAIN}"
            ) from None
        _check_tensors(header, shapes, size=len(data), where=where)
        try:
            state_dict = load(data)
        except SafetensorError as e:
            raise HeadMismatchError(
                f"{where} is not a safetensors file ({e}): {TRAIN_AGAIN}"
            ) from None
        if digest != _digest(text, state_dict):
            raise HeadMismatchError(f"{where}: does not match its own checksum: {TRAIN_AGAIN}")
        if not all(bool(p.isfinite().all()) for p in state_dict.values()):
            raise HeadMismatchError(
                f"{where}: expected finite weights, got NaN or infinity: {TRAIN_AGAIN}"
            )
        return replace(head, state_dict=state_dict)


def _read_header(data: bytes, *, where: HeadPath) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of a safetensors file, without its metadata, and layercache's metadata."""
    size = int.from_bytes(data[:8], "little")
    try:
        if size > min(len(data) - 8, MAX_HEADER_BYTES):
            raise ValueError(f"its header claims {size} bytes")
        header = json.loads(data[8 : 8 + size])
        text = header.pop("__metadata__", {}).get(METADATA_KEY)
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise HeadMismatchError(f"{where} is not a safetensors file ({e}): {TRAIN_AGAIN}") from None
    if text is None:
        raise HeadMismatchError(
            f"{where} has no {METADATA_KEY!r} entry in its metadata: it is not a head saved by "
            "layercache"
        )
    try:
        metadata = json.loads(text)
        schema = metadata["schema"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise HeadMismatchError(
            f"{where}: its metadata is not that of a head ({e!r}): {TRAIN_AGAIN}"
        ) from None
    if schema != SCHEMA:
        raise ProbeSchemaError(
            f"{where}: expected a head of schema {SCHEMA}, got schema {schema}, which another "
            "version of layercache wrote: run the same `layercache probe` again and use the head "
            "that it writes",
            schema=schema,
        )
    return header, metadata


def _parse(metadata: dict[str, Any]) -> Checkpoint:
    """Return the head, still without its tensors."""
    del metadata["schema"]
    spec, provenance = dict(metadata.pop("spec")), dict(metadata.pop("provenance"))
    for name in ("classes", "fingerprints", "target", "codecs"):
        if name in provenance:
            provenance[name] = tuple(provenance[name])
    provenance["pairs"] = tuple((int(layer), str(token)) for layer, token in provenance["pairs"])
    if provenance.get("encoders") is not None:
        provenance["encoders"] = tuple(JoinedEncoder(**e) for e in provenance["encoders"])
    losses = tuple(metadata.pop("losses"))
    head = Checkpoint(
        **metadata,
        losses=losses,
        spec=HeadSpec.from_json(spec),
        state_dict={},
        provenance=Provenance(**provenance),
    )
    for name, expected, names in (
        ("classes", head.spec.classes, head.classes),
        ("tokens", head.spec.tokens, head.pairs),
    ):
        if len(names) != expected:
            raise ValueError(f"expected {expected} {name}, got {len(names)}")
    return head


def _check_tensors(
    header: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    size: int,
    where: HeadPath,
) -> None:
    """Raise HeadMismatchError unless these are the tensors of the head, in float32."""
    for name in sorted(set(header) ^ set(shapes)):
        if name.endswith(STEP_COUNTER):
            continue
        state = "missing" if name in shapes else "not one of the head's"
        raise HeadMismatchError(f"{where}: tensor {name!r} is {state}: {TRAIN_AGAIN}")
    for name, entry in header.items():
        dtype, shape = ("I64", []) if name.endswith(STEP_COUNTER) else ("F32", list(shapes[name]))
        got = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if got != (dtype, shape):
            raise HeadMismatchError(
                f"{where}: expected tensor {name!r} to be {dtype} {shape}, got {got[0]} "
                f"{got[1]}: {TRAIN_AGAIN}"
            )
    expected = 4 * sum(map(math.prod, shapes.values()))
    if expected > size:
        raise HeadMismatchError(
            f"{where}: expected {expected} bytes of weights, got a file of {size} bytes: "
            f"{TRAIN_AGAIN}"
        )


def _digest(metadata: str, state_dict: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 hex over metadata, and name and values of every tensor."""
    digest = sha256(metadata.encode())
    for name in sorted(state_dict):
        digest.update(name.encode())
        digest.update(state_dict[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def head_path(path: str | HeadPath) -> HeadPath:
    """Return a local path, or an address on object storage, of a string. Raises OptionError."""
    return as_cache_path(path)


def head_file(path: HeadPath) -> HeadPath:
    """Return the head file of a probe, which is given by itself or by the probe's folder."""
    is_file = path.name == HEAD_FILE if isinstance(path, RemotePath) else not path.is_dir()
    return path if is_file else path / HEAD_FILE


def weights_files(head: Checkpoint, path: HeadPath) -> list[str | None]:
    """Return the checkpoint of each encoder that a head's caches were extracted with.

    None if its weights are the published ones, or if the cache is neither around the head nor in
    the default root.
    """
    folder = head_file(path).parent
    if isinstance(folder, Path):
        folder = folder.absolute()
    cache, provenance = folder.parent.parent, head.provenance
    around = read_origins(open_source(cache))
    found: list[str | None] = []
    for (encoder, _), fingerprint in zip(
        provenance.tokens_by_encoder, provenance.fingerprints, strict=False
    ):
        origins = around
        if found or not around:  # another cache than the one around the head
            root = cache.parents[2] if around else cache_root()
            caches = matching_caches(
                root, model=encoder.model, dataset=provenance.dataset, fingerprint=fingerprint
            )
            origins = tuple(origin for match in caches for origin in match.origins)
        found.append(next((o.weights for o in origins if o.weights is not None), None))
    return found


def load_head(path: str | HeadPath) -> Checkpoint:
    """Load the trained head of a probe.

    In the folder of a probe, the file must be the one of the probe's record.

    Args:
        path: The probe's folder (CACHE/probes/ID) or its head.safetensors, here or on object
            storage.

    Raises:
        HeadMismatchError: The file is damaged, or not a head that layercache wrote.
        CacheCorruptError: The probe is damaged.
        ProbeSchemaError: Another version of layercache wrote it.
        ProbeNotFoundError: There is no such file.
    """
    file = head_file(head_path(path))
    store = open_store(file.parent)
    record = read_record(store) if file.name == HEAD_FILE else None
    try:
        if record and HEAD_FILE in record.files:
            data = read_file(store, HEAD_FILE, record.files[HEAD_FILE])
        else:
            data = store.read(file.name)
    except FileNotFoundError:
        raise ProbeNotFoundError(
            f"{file}: expected a trained head here, got no such file (a knn "
            "baseline or an ensemble has none); "
            "`layercache results --paths` lists the probes and their folders"
        ) from None
    return Checkpoint.from_bytes(data, where=file)
