"""Copies to and from object storage, by the command line too, and through faults."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache import copy_cache
from layercache.cache import open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.verify import verify
from layercache.errors import StorageError
from layercache.testing import make_cache, make_spec
from layercache_cli.main import main
from tests.cache.folders import tree, write_probe
from tests.objects.making import objects, put
from tests.objects.proxy import FaultyProxy, Refuse

SPEC = make_spec(50)


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(("cache", *words))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_push_and_pull_end_with_the_same_bytes(
    s3_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(tmp_path / "from", SPEC, splits=("train", "test"))
    write_probe(cache)
    whole = {
        key: data for key, data in tree(Path(str(cache.path))).items() if not key.endswith(".lock")
    }
    code, out, err = run(capsys, "push", str(cache.path), "--to", s3_root)
    assert (code, err) == (0, "")
    remote = open_cache(root=s3_root)
    assert out.splitlines()[0].startswith(f"{remote.path}: {len(whole)} files, ")
    assert objects(remote.path) == whole
    code, out, _ = run(
        capsys, "push", "--cache", str(tmp_path / "from"), "--model", "vit_tiny", "--to", s3_root
    )
    assert (code, out.splitlines()[1]) == (
        0,
        f"sent 0 files, 0 bytes; {len(whole)} existed already",
    )
    code, _, _ = run(capsys, "pull", s3_root, "--dataset", "shapes", "--to", str(tmp_path / "to"))
    assert code == 0
    assert {
        k: v
        for k, v in tree(tmp_path / "to" / cache.path.relative_to(tmp_path / "from")).items()
        if not k.endswith(".lock")
    } == whole
    code, _, err = run(capsys, "pull", f"{s3_root}/nothing", "--to", str(tmp_path / "to"))
    assert (code, "no cache of any model and dataset below" in err) == (1, True)


def test_push_through_a_dead_connection_fails_and_continues_later(
    faulty: FaultyProxy, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, lay = make_cache(tmp_path / "from", SPEC), SplitLayout(SPEC, "train")
    monkeypatch.setenv("LAYERCACHE_S3_RETRIES", "1")
    faulty.inject(Refuse(), method="PUT", key=f"*/{lay.shard(5)}")
    with pytest.raises(
        StorageError,
        match=rf"{s3_root}/\S+c\.0\.0\.5\.0: the connection to http://127\S+ broke off .* "
        r"also after 1 retry",
    ):
        copy_cache(cache, to=s3_root)
    assert not open_cache(root=s3_root).complete("train")
    faulty.heal()
    faulty.forget()
    done = copy_cache(cache, to=s3_root)
    assert done.sent_files < done.files
    sent = [r.key for r in faulty.requests if r.method == "PUT" and "/tokens/c." in r.key]
    assert len(sent) < lay.blocks
    assert verify(open_cache(root=s3_root)) == []


def test_push_sends_damaged_files_of_the_target_again(s3_root: str, tmp_path: Path) -> None:
    cache, lay = make_cache(tmp_path / "from", SPEC), SplitLayout(SPEC, "train")
    remote = copy_cache(cache, to=s3_root).path
    whole = objects(remote)  # type: ignore[arg-type]
    put(remote, lay.shard(1), b"?" * len(whole[lay.shard(1)]))  # type: ignore[arg-type]
    assert copy_cache(cache, to=s3_root).sent_files == 1
    assert objects(remote) == whole  # type: ignore[arg-type]
