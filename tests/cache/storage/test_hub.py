"""Pushing to and pulling from the Hugging Face Hub, whose four calls a folder stands in for.

The Hub itself is not reached by tests.

What the real library is given and gives (`CommitOperationAdd`, `RepoFile`, its errors) is the real
library's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "huggingface_hub", reason="the Hub needs the extra hf: pip install -e '.[test]'"
)

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from layercache import copy_cache
from layercache.cache import Cache, copy, find_caches, open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.cache.storage.hub import HubRepository
from layercache.cache.storage.paths import as_remote
from layercache.cache.verify import verify
from layercache.errors import OptionError, StorageError
from layercache.testing import make_cache, make_spec, make_writer
from tests.cache.folders import tree

SPEC = make_spec(50)
ROOT = "hf://datasets/me/caches"
LARGE = 400
"""Bytes from which a file is a large one, of which the Hub tells the SHA-256."""


class Hub:
    """`HfApi` on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commits, self.made = folder, [], []
        self.spoil: str | None = None

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert (repo_type, private, exist_ok) == ("dataset", True, True)
        self.made.append(repo_id)

    def create_commit(
        self, repo_id: str, operations: list[Any], *, commit_message: str, repo_type: str
    ) -> None:
        assert repo_id == "me/caches"
        assert self.made
        self.commits.append([op.path_in_repo for op in operations])
        for op in operations:
            assert isinstance(op, CommitOperationAdd)
            with op.as_file() as file:
                data = file.read()
            path = self.folder / op.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                b"?" + data[1:] if self.spoil and self.spoil in op.path_in_repo else data
            )

    def list_repo_tree(
        self, repo_id: str, path_in_repo: str | None, *, recursive: bool, repo_type: str
    ) -> Iterator[RepoFile]:
        base = self.folder / (path_in_repo or "")
        if not base.exists():
            raise EntryNotFoundError("404")
        for path in (p for p in base.rglob("*") if p.is_file()):
            data = path.read_bytes()
            large = (
                {"size": len(data), "oid": hashlib.sha256(data).hexdigest(), "pointerSize": 100}
                if len(data) >= LARGE
                else None
            )
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            yield RepoFile(
                path=path.relative_to(self.folder).as_posix(),
                size=len(data),
                oid="00" if large else git,
                lfs=large,
            )

    def hf_hub_download(
        self, repo_id: str, filename: str, *, repo_type: str, local_dir: str
    ) -> str:
        if not (self.folder / filename).is_file():
            raise EntryNotFoundError("404")
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True)
        target.write_bytes((self.folder / filename).read_bytes())
        return str(target)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    api = Hub(tmp_path / "hub")
    monkeypatch.setattr(HubRepository, "_api", api)
    return api


@pytest.fixture
def cache(tmp_path: Path, small_blocks: int) -> Cache:
    return make_cache(tmp_path / "from", SPEC, splits=("train", "test"))


def files(folder: Path) -> dict[str, bytes]:
    return {key: data for key, data in tree(folder).items() if not key.endswith(".lock")}


def test_copy_cache_to_the_hub_and_back_is_identical(
    api: Hub, cache: Cache, tmp_path: Path
) -> None:
    done = copy_cache(cache, to=ROOT)
    assert str(done.path) == f"{ROOT}/shapes/vit_tiny/{SPEC.fingerprint[:12]}"
    assert files(api.folder / "shapes" / "vit_tiny" / SPEC.fingerprint[:12]) == files(
        Path(str(cache.path))
    )
    assert [c.path for c in find_caches(as_remote(ROOT))] == [done.path]
    back = copy_cache(str(done.path), to=tmp_path / "to")
    assert files(Path(str(back.path))) == files(Path(str(cache.path)))
    assert verify(open_cache(back.path)) == []


def test_copy_cache_to_the_hub_sends_no_paths_of_this_machine(api: Hub, cache: Cache) -> None:
    record_origin(cache.path, Origin(dataset="folder:/home/me/shapes", weights="/home/me/w.pt"))
    assert open_cache(cache.path).source == "folder:/home/me/shapes"
    done = copy_cache(open_cache(cache.path), to=ROOT)
    assert not any(b"/home/me" in data for data in tree(api.folder).values())
    assert open_cache(done.path).source is None


def test_copy_cache_to_the_hub_commits_in_batches_the_complete_record_last(
    api: Hub, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "MAX_COMMIT_FILES", 5)
    copy_cache(cache, to=ROOT)
    lay = SplitLayout(SPEC, "train")
    split_commits = [
        commit
        for commit in api.commits
        if any(f"/{lay.commits}/" in key or f"/{lay.group}/" in key for key in commit)
    ]
    assert max(map(len, api.commits)) == 5
    assert [key for key in split_commits[-1] if key.endswith(lay.complete)]
    n = len(api.commits)
    again = copy_cache(cache, to=ROOT)
    assert (again.sent_files, len(api.commits)) == (0, n)


def test_copy_cache_to_the_hub_with_a_changed_file_raises(api: Hub, cache: Cache) -> None:
    api.spoil = "c.0.0.3.0"
    with pytest.raises(StorageError, match=r"hf://\S+c\.0\.0\.3\.0: did not arrive as it was sent"):
        copy_cache(cache, to=ROOT)
    assert not any(key.endswith("complete.json") for commit in api.commits for key in commit)


def test_split_writer_on_the_hub_raises(api: Hub) -> None:
    with pytest.raises(OptionError, match="expected a folder or an s3:// address to extract to"):
        make_writer(as_remote(ROOT), SPEC)


def test_copy_cache_with_the_hub_out_of_reach_raises_without_secrets(
    api: Hub, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("https://hub/?token=hf_secret")

    monkeypatch.setattr(Hub, "list_repo_tree", fail)
    with pytest.raises(
        StorageError,
        match=r"^hf://datasets/me/caches\S*: the Hugging Face Hub cannot be reached: "
        r"run the same command again$",
    ):
        copy_cache(cache, to=ROOT)
