"""The files of a model of transformers: "hf:ORG/NAME[@REVISION]" on the hub, or "hf:PATH".

Everything is downloaded here; transformers itself reads local folders only, and runs no code of a
repository.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layercache.errors import BackboneError
from layercache.extraction.models.weights.download import hub_file

CONFIG_FILE = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Names of an image processor's configuration."""
CHECKPOINT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of a checkpoint, or of the index of its shards; the first goes first."""
LAYOUT = "a model of transformers, as save_pretrained writes it"


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Access to the files of one model."""

    name: str
    """Address of the model as the user gave it."""
    offline: bool
    """Downloads are forbidden."""

    def __post_init__(self) -> None:
        if not self._place:
            raise BackboneError(f"{self.name}: expected hf:ORG/NAME or hf:PATH of a folder")
        if self.folder is not None and not self.folder.is_dir():
            problem = "a file, not a folder" if self.folder.exists() else "no such folder"
            raise BackboneError(
                f"{self.name}: {problem}: expected hf:ORG/NAME or hf:PATH of {LAYOUT}"
            )

    @property
    def _place(self) -> str:
        return self.name.partition(":")[2]

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a repository of the hub."""
        path = Path(self._place).expanduser()
        is_path = self._place.startswith(("/", "./", "../", "~")) or path.exists()
        is_repository = self._place.partition("@")[0].count("/") == 1
        return path if is_path or not is_repository else None

    def config(self) -> tuple[dict[str, Any], Path]:
        """Return the contents of config.json, and its path.

        Raises:
            BackboneError: There is none, or it is not reachable.
        """
        path = self.find((CONFIG_FILE,))
        return self.read_json(path), path

    def find(self, files: Sequence[str], *, log: bool = False) -> Path:
        """Return the first of some files that the model has.

        Args:
            files: Names, the preferred one first.
            log: Log a download.

        Raises:
            BackboneError: There is none, or it is not reachable.
        """
        if self.folder is None:
            return hub_file(
                self._place, files, name=self.name, offline=self.offline, log=log, expected=LAYOUT
            )
        for file in files:
            if (self.folder / file).is_file():
                return self.folder / file
        raise BackboneError(
            f"{self.name}: there is no {' or '.join(files)} in {self.folder}: expected {LAYOUT}"
        )

    def checkpoint_folder(self) -> Path:
        """Return the folder with the whole checkpoint, downloaded on first use.

        Raises:
            BackboneError: There is none, or it is not reachable.
        """
        path = self.find(CHECKPOINT_FILES, log=True)
        if path.suffix == ".json":
            shards = sorted(set(self.read_json(path).get("weight_map", {}).values()))
            for shard in shards:
                self.find((str(shard),), log=shard == shards[0])
        return path.parent

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return the object in a JSON file of the model.

        Raises:
            BackboneError: It is not one.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise BackboneError(f"{self.name}: {path} cannot be read: {e}") from e
        if not isinstance(values, dict):
            raise BackboneError(
                f"{self.name}: expected an object in {path}, got {type(values).__name__}"
            )
        return values
