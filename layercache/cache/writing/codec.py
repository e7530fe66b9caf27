"""The codec of a cache, fitted once: the first writer stores it, all others use what is stored."""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.codecs.codec_file import codec_bytes, parse_codec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.format.layout import CODEC_KEY, SPEC_KEY, cache_folder, spec_bytes
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheCorruptError


def read_codec(root: CachePath, spec: CacheSpec) -> TokenCodec | None:
    """Return the stored codec of a cache, or None if there is none yet.

    Raises:
        CacheCorruptError: It is damaged, or lost although codes are committed.
    """
    path = cache_folder(root, spec)
    store = open_store(path)
    data = store.read_many([CODEC_KEY]).get(CODEC_KEY)
    where = store.path(CODEC_KEY)
    if data is not None:
        try:
            return parse_codec(data, spec, where=str(where))
        except CacheCorruptError:
            problem = "is damaged"
    else:
        problem = "is missing"
    if any(key.endswith(".json") for key in store.list_files("commits")):
        raise CacheCorruptError(
            f"{where}: {problem}, and without it the committed codes cannot be read: put a copy of "
            f"the file there, or remove the cache (layercache cache rm {quote(str(path))}) and "
            "extract it again"
        )
    return None


def store_codec(root: CachePath, spec: CacheSpec, fit: Callable[[], TokenCodec]) -> TokenCodec:
    """Return the codec of a cache; if none is stored yet, fit it and store it.

    Of several writers that fit at the same time, the first to store its codec is followed by all.

    Args:
        root: Root of the caches.
        spec: Spec of the cache.
        fit: Fits the codec.

    Raises:
        CacheCorruptError: The codec is damaged, or lost although codes are committed.
        StorageError: The disk is full or read-only.
    """
    if (codec := read_codec(root, spec)) is not None:
        return codec
    codec = fit()
    store = open_store(cache_folder(root, spec))
    store.create(SPEC_KEY, [spec_bytes(spec)])
    if not store.create(CODEC_KEY, [codec_bytes(codec, spec)]):
        if (stored := read_codec(root, spec)) is not None:
            return stored
        store.put(CODEC_KEY, [codec_bytes(codec, spec)])  # in place of a damaged file
    return codec
