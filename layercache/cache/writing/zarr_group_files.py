"""The files of a split's Zarr group except for the shards: made, or corrected, by its writer."""

from __future__ import annotations

from shlex import quote

from layercache.cache.format.codecs.codec_file import parse_codec
from layercache.cache.format.compressor import Compressor, compressor_in, format_compressor
from layercache.cache.format.layout import CODEC_KEY, SplitLayout
from layercache.cache.format.zarr_metadata import write_group
from layercache.cache.storage.threads import in_threads
from layercache.cache.writing.commit import CommitStrategy
from layercache.errors import OptionError


def write_group_files(
    commit: CommitStrategy,
    layout: SplitLayout,
    *,
    ids: list[str],
    compressor: Compressor | None,
    has_blocks: bool,
) -> None:
    """Make the group of a split, or correct its files, which follow from the arguments.

    Args:
        commit: How the split is written.
        layout: Its layout.
        ids: Names of the N samples.
        compressor: Compressor of the tokens, or None.
        has_blocks: True if a row block is committed.

    Raises:
        OptionError: The split was begun with another compressor.
    """
    store, spec, metadata = commit.store, layout.spec, layout.tokens_metadata
    begun = store.read_many([metadata]).get(metadata)
    # without a lock, other writers may be about to commit the first block
    if begun is not None and (has_blocks or not commit.exclusive):
        _check_compressor(commit, layout, begun, compressor=compressor)
    codec = None
    if spec.codec is not None:
        where = str(store.path(CODEC_KEY))
        codec = parse_codec(store.read(CODEC_KEY), spec, where=where)  # stored by `store_codec`
    with commit.scratch_folder() as scratch:
        fresh = scratch / "group"
        write_group(fresh, layout, ids=ids, compressor=compressor, codec=codec)
        if commit.adopt_folder(fresh, layout.group):
            return
        files = {
            f"{layout.group}/{path.relative_to(fresh).as_posix()}": path.read_bytes()
            for path in fresh.rglob("*")
            if path.is_file()
        }
    existing = store.read_many(files)
    wrong = {key: data for key, data in files.items() if existing.get(key) != data}
    if layout.valid in existing:
        wrong.pop(layout.valid, None)  # `SplitWriter.finish` decides which rows are valid
    if (
        metadata in wrong
        and metadata not in existing
        and not store.create(metadata, [wrong.pop(metadata)])
    ):
        # Another writer was faster, perhaps with another compressor.
        write_group_files(commit, layout, ids=ids, compressor=compressor, has_blocks=has_blocks)
        return

    def put(key: str) -> None:
        if key in existing:
            store.put(key, [wrong[key]])
        else:
            store.create(key, [wrong[key]])

    in_threads(put, list(wrong), threads=store.requests)


def _check_compressor(
    commit: CommitStrategy, layout: SplitLayout, metadata: bytes, *, compressor: Compressor | None
) -> None:
    """Raise OptionError if the metadata of `tokens` are of another compressor."""
    store = commit.store
    begun_with = compressor_in(metadata, where=str(store.path(layout.tokens_metadata)))
    requested = compressor.metadata(layout.dtype.itemsize) if compressor else None
    if begun_with != requested:
        remedy = "continue with that one" if begun_with else "leave compressor out"
        cache = str(store.path(layout.group).parent)
        raise OptionError(
            f"{store.path(layout.group)}: begun with compressor "
            f"{format_compressor(begun_with)}, got {format_compressor(requested)}: {remedy}, or "
            f"remove the cache (layercache cache rm {quote(cache)})"
        )
