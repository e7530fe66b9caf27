"""Checkpoints of unfinished training, in CACHE/probes/<probe id>/training/, one file for each pass.

    64 hexadecimal digits   SHA-256 of everything that follows
    8 hexadecimal digits    number of bytes of the header
    header                  TrainingCheckpoint as JSON
    state                   `TrainingPass.state_dict`, written by torch.save

A file is named after the digest of what it continues, is replaced as a whole, and is deleted once
the scores of its configurations are kept.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.result_folders import PASSES, is_whole_pass
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheCorruptError

logger = logging.getLogger(__name__)

FOLDER = PASSES
SCHEMA = 4
"""Increased when a change makes the state of an unfinished pass unusable."""
DIGEST_CHARS, LENGTH_CHARS = 64, 8
DIGITS = 16
"""Digits of the digest in a file's name."""


@dataclass(frozen=True, kw_only=True)
class TrainingCheckpoint:
    """Configurations that train together, and their progress."""

    probe: str
    """Id of the probe."""
    fold: int | None
    """Number of the fold; None for the final fit."""
    configs: Sequence[Mapping[str, float]]
    """Hyperparameters of each configuration."""
    device: str
    """Type of the device: the states of random generators cannot be moved to another."""
    step: int
    """Steps taken."""
    steps: int
    """Steps in total."""
    seconds: float
    """Duration of the training so far."""
    stop_epoch: int | None = None
    """Epoch after which the search stops the training; None: the last one."""

    @property
    def key(self) -> str:
        """Name of the file: digest of probe, fold, configurations and last epoch."""
        return _key(self.probe, self.fold, self.configs, self.stop_epoch)


class TrainingCheckpoints:
    """The states of unfinished training of one probe."""

    def __init__(self, probe_folder: CachePath) -> None:
        self._store = open_store(probe_folder / FOLDER)

    def all(self) -> list[TrainingCheckpoint]:
        """Return what is saved, from the headers; damaged files are left out with a warning."""
        found = []
        for key in self._store.list_files("."):
            if "/" in key:  # a temporary file of a killed process
                continue
            try:
                found.append(self._read_header(key))
            except (CacheCorruptError, FileNotFoundError) as e:
                self._warn(key, e)
        return found

    def load(
        self,
        probe: str,
        *,
        fold: int | None,
        configs: Sequence[Mapping[str, float]],
        device: str,
        stop_epoch: int | None = None,
    ) -> tuple[TrainingCheckpoint, dict[str, Any]] | None:
        """Return a saved pass and its state, or None; a file that is not usable is a warning.

        Args:
            probe: Id of the probe.
            fold: Number of the fold; None for the final fit.
            configs: Hyperparameters of each configuration.
            device: Type of the device that training continues on.
            stop_epoch: Epoch after which the search stops the training; None: the last one.
        """
        import torch

        key = _key(probe, fold, configs, stop_epoch)
        try:
            data = self._store.read(key)
        except FileNotFoundError:
            return None
        try:
            if not is_whole_pass(data):
                raise CacheCorruptError("its checksum does not match")
            saved, start = _parse_header(data, key=key)
            if saved.device != device:
                raise CacheCorruptError(f"it was saved on {saved.device}, this is {device}")
        except CacheCorruptError as e:
            self._warn(key, e)
            return None
        state = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
        return saved, state

    def save(self, saved: TrainingCheckpoint, state: Mapping[str, Any]) -> None:
        """Store the state of a pass in place of its last one.

        Raises:
            StorageError: The disk is full or not writable.
        """
        import torch

        header = json.dumps({"schema": SCHEMA, **asdict(saved)}).encode()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        length = f"{len(header):0{LENGTH_CHARS}x}".encode()
        digest = sha256(length + header)
        digest.update(buffer.getbuffer())
        start = digest.hexdigest().encode() + length + header
        self._store.put(saved.key, [start, buffer.getbuffer()])

    def delete(self, saved: TrainingCheckpoint) -> None:
        """Delete the state of a finished pass."""
        self._store.delete(saved.key)

    def clear(self) -> None:
        """Delete all states."""
        if self._store.has_dir("."):
            self._store.delete_all()

    def _read_header(self, key: str) -> TrainingCheckpoint:
        with self._store.open(key) as file:
            start = bytearray(min(file.size, DIGEST_CHARS + LENGTH_CHARS))
            file.read_into(0, [start])
            header = bytearray(min(file.size, _header_end(start)) - len(start))
            file.read_into(len(start), [header])
        return _parse_header(bytes(start + header), key=key)[0]

    def _warn(self, key: str, problem: Exception) -> None:
        logger.warning(
            "%s: this state of unfinished training is not used, and training starts again: %s",
            self._store.path(key),
            problem,
        )


def _key(
    probe: str,
    fold: int | None,
    configs: Sequence[Mapping[str, float]],
    stop_epoch: int | None,
) -> str:
    identity = [probe, fold, [sorted(hparams.items()) for hparams in configs], stop_epoch]
    return sha256_json(identity)[:DIGITS]


def _header_end(data: bytes | bytearray) -> int:
    """Return the position after the header. Raises CacheCorruptError."""
    try:
        length = int(data[DIGEST_CHARS : DIGEST_CHARS + LENGTH_CHARS], 16)
    except ValueError:
        raise CacheCorruptError("it is not a file of this kind") from None
    return DIGEST_CHARS + LENGTH_CHARS + length


def _parse_header(data: bytes, *, key: str) -> tuple[TrainingCheckpoint, int]:
    """Return the header and the position after it. Raises CacheCorruptError."""
    end = _header_end(data)
    try:
        values = json.loads(data[DIGEST_CHARS + LENGTH_CHARS : end])
        schema = values.pop("schema")
        saved = TrainingCheckpoint(**values)
        matches = saved.key == key
    except (ValueError, TypeError, AttributeError, KeyError):
        raise CacheCorruptError("its header cannot be read") from None
    if schema != SCHEMA:
        raise CacheCorruptError(f"expected schema {SCHEMA}, got {schema}")
    if not matches:
        raise CacheCorruptError("it belongs to other configurations or another probe")
    return saved, end
