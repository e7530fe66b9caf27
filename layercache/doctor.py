"""Facts about an installation for a bug report, and a test that it works."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import torch

from layercache._devices import available_cores, free_memory, resolve_device
from layercache._log_level import log_level
from layercache._offline import is_offline
from layercache._printable import redact
from layercache._units import format_bytes, pluralize
from layercache._version import installed_version
from layercache.cache.cache import load_cache
from layercache.cache.find import cache_folders
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.cache.verify import verify
from layercache.errors import LayercacheError
from layercache.extraction.api import extract
from layercache.extraction.options import DeviceName
from layercache.probing.api import probe
from layercache.probing.training.config import HParams, TrainConfig

DISTRIBUTION = "layercache-vit"
DEVELOPER_EXTRAS = ("test", "dev", "docs")
"""Extras that only developers of layercache install."""
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
CONNECT_TIMEOUT_S = 5.0
LITTLE_SPACE = 10**9
"""Free bytes of a disk below which it is called nearly full."""
TEST_LIMIT = 300
"""Images of each split in the self-test."""
TEST_STEPS = 200
"""Steps of its training."""
MIN_TEST_ACCURACY = 0.7
"""Balanced accuracy that the self-test must reach; of ten classes, chance is 0.1."""

Status = Literal["ok", "absent", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    topic: str
    """Subject of the check, such as "cache root"."""
    text: str
    """Finding."""
    status: Status = "ok"
    """"absent" for what is optional, "problem" for what will make commands fail."""
    remedy: str = ""
    """Remedy."""


def examine(
    *,
    cache: str | CachePath | None = None,
    device: DeviceName = "auto",
    self_test: bool = True,
) -> Iterator[Finding]:
    """Yield what there is, line by line.

    Args:
        cache: Root of the caches, as for `extract`.
        device: Device of the self-test.
        self_test: Extract, verify and probe 300 images of a bundled dataset.
    """
    yield from _versions()
    yield from _extras()
    yield from _hardware()
    yield from _cache_root(cache)
    yield from _network()
    if self_test:
        yield _self_test(device)


def _versions() -> Iterator[Finding]:
    yield Finding(
        topic="layercache",
        text=f"{installed_version()}, Python {platform.python_version()}, {platform.platform()}",
    )
    packages = [name for name, extra in _requirements() if extra is None]
    missing = [name for name in packages if _version(name) is None]
    found = [f"{name} {_version(name)}" for name in packages if name not in missing]
    yield Finding(topic="packages", text=", ".join(found) or "installed without metadata")
    if missing:
        yield Finding(
            topic="packages",
            text=f"{', '.join(missing)} missing",
            status="problem",
            remedy=f"pip install --upgrade {DISTRIBUTION}",
        )


def _extras() -> Iterator[Finding]:
    extras: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None and extra not in DEVELOPER_EXTRAS:
            extras.setdefault(extra, []).append(name)
    for extra, names in extras.items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            yield Finding(
                topic=f"extra {extra}",
                text=f"{', '.join(missing)} not installed",
                status="absent",
                remedy=f"pip install '{DISTRIBUTION}[{extra}]'",
            )
        else:
            found = ", ".join(f"{name} {_version(name)}" for name in names)
            yield Finding(topic=f"extra {extra}", text=found)


def _hardware() -> Iterator[Finding]:
    facts = (
        platform.processor() or platform.machine(),
        f"{pluralize(available_cores(), 'core')} for this process",
        f"{pluralize(torch.get_num_threads(), 'thread')} of torch",
        f"{format_bytes(free_memory(torch.device('cpu')))} of memory free",
    )
    yield Finding(topic="processor", text=", ".join(facts))
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Finding(
            topic=f"cuda:{number}",
            text=f"{properties.name}, {format_bytes(properties.total_memory)}, CUDA "
            f"{torch.version.cuda}",
        )
    chosen, reason = resolve_device("auto")
    yield Finding(topic="device", text=f"auto is {chosen} ({reason})")


def _cache_root(cache: str | CachePath | None) -> Iterator[Finding]:
    root = cache_root(cache)
    try:
        n_caches = len(cache_folders(root))
        caches = pluralize(n_caches, "cache")
        if not isinstance(root, Path):
            yield Finding(topic="cache root", text=f"{root}, {caches}")
            return
        existing = next(path for path in (root, *root.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (LayercacheError, OSError) as error:
        yield Finding(
            topic="cache root",
            text=f"{root}: {redact(str(error))}",
            status="problem",
            remedy="give a folder that can be written (--cache DIR, or $LAYERCACHE_HOME)",
        )
        return
    free = shutil.disk_usage(existing).free
    little = free < LITTLE_SPACE
    yield Finding(
        topic="cache root",
        text=f"{root}, {caches}, {format_bytes(free)} free",
        status="problem" if little else "ok",
        remedy="give a folder on a larger disk (--cache DIR, or $LAYERCACHE_HOME)"
        if little
        else "",
    )


def _network() -> Iterator[Finding]:
    if is_offline():
        yield Finding(topic="downloads", text="forbidden by $LAYERCACHE_OFFLINE")
    yield _hub_login()
    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    if endpoint:
        yield _endpoint(endpoint)


def _hub_login() -> Finding:
    try:
        from huggingface_hub import get_token
    except ImportError:
        return Finding(
            topic="hub login",
            text="huggingface_hub is not installed",
            status="absent",
            remedy=f"pip install '{DISTRIBUTION}[hf]'",
        )
    if get_token():
        return Finding(topic="hub login", text="a token is set (not checked with the hub)")
    return Finding(
        topic="hub login",
        text="no token: gated models and private datasets cannot be read",
        status="absent",
        remedy="hf auth login",
    )


def _endpoint(url: str) -> Finding:
    topic, shown = "S3 endpoint", redact(url)
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S):
            return Finding(topic=topic, text=f"{shown} answers")
    except OSError as error:
        return Finding(
            topic=topic,
            text=f"{shown}: {error}",
            status="problem",
            remedy=f"correct ${ENDPOINT_VARIABLE}, or unset it for Amazon's own",
        )


def _self_test(device: DeviceName) -> Finding:
    """Extract, verify and probe in a temporary folder."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="layercache-doctor-") as folder,
        log_level("layercache", logging.WARNING),
    ):
        try:
            (extraction,) = extract(
                models=["vit_nano"],
                dataset="digits",
                limit=TEST_LIMIT,
                cache=folder,
                device=device,
                progress=False,
            )
            if corruptions := verify(extraction.path):
                return _failed(f"{corruptions[0]}")
            (trained,) = probe(
                load_cache(extraction.path),
                head="attentive",
                configs=[HParams(lr=1e-3, weight_decay=1e-4, dropout=0.1)],
                train_config=TrainConfig(min_steps=TEST_STEPS),
                device=device,
                progress=False,
            )
        except Exception as error:  # whatever is broken belongs into the report
            return _failed(f"{type(error).__name__}: {redact(str(error))}")
    accuracy = float(trained.row["test_balanced_accuracy"])
    text = (
        f"extraction, verification and a probe of {pluralize(TEST_LIMIT, 'image')} a split in "
        f"{time.monotonic() - started:.0f} s, test balanced accuracy {100 * accuracy:.1f} %"
    )
    if accuracy < MIN_TEST_ACCURACY:
        return _failed(f"{text}; expected at least {100 * MIN_TEST_ACCURACY:.0f} %")
    return Finding(topic="self-test", text=text)


def _failed(text: str) -> Finding:
    return Finding(
        topic="self-test",
        text=text,
        status="problem",
        remedy="report it with this output and that of the same command with --debug",
    )


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Yield the name of each required distribution, and the extra that requires it or None."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        if name is not None:
            yield name[0], extra[1] if extra else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
