"""Faults of the network and the endpoint: retried, or one clear error; nothing lost or leaked."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache.cache import open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.reading.chunks import VERIFIED
from layercache.cache.storage.paths import as_remote
from layercache.cache.verify import verify
from layercache.cache.writing import conditional_commit
from layercache.errors import MissingExtraError, OptionError, StorageError
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from layercache_cli.main import main
from tests.cache.folders import tree
from tests.objects import proxy, server
from tests.objects.making import objects, remote_cache
from tests.objects.proxy import (
    BlackHole,
    CutUpload,
    Drop,
    Fault,
    FaultyProxy,
    Refuse,
    Status,
    Trickle,
)
from tests.objects.server import Server

SPEC = make_spec(50)
LAYOUT = SplitLayout(SPEC, "train")
PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]
EXTRACT = (
    "extract",
    "-m",
    "vit_nano",
    "-d",
    "digits",
    "--limit",
    "20",
    "--split",
    "test",
    "--device",
    "cpu",
    "--workers",
    "0",
)


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    VERIFIED.clear()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


SHORT = [
    ("PUT", Drop()),
    ("PUT", Refuse()),
    ("PUT", CutUpload(100)),
    ("*", Status()),
    ("GET", Drop(10)),
    ("GET", Trickle(100, 0.001)),
    ("*", Refuse()),
]


@pytest.mark.parametrize(
    "faults", [SHORT, *(pytest.param([fault], marks=pytest.mark.slow) for fault in SHORT)], ids=repr
)
def test_short_faults_are_retried(
    faulty: FaultyProxy, s3_root: str, tmp_path: Path, faults: list[tuple[str, Fault]]
) -> None:
    for seed, (method, fault) in enumerate(faults):
        faulty.inject(fault, method=method, probability=0.25 / len(faults), seed=seed + 1)
    cache = remote_cache(s3_root, SPEC)
    np.testing.assert_array_equal(
        cache.split("train").read(PAIRS), make_tokens(SPEC).reshape(4, 50, 8)
    )
    assert faulty.count(faulty=True)
    faulty.heal()
    assert verify(cache) == []
    assert objects(cache.path) == {
        key: data
        for key, data in tree(Path(str(make_cache(tmp_path, SPEC).path))).items()
        if not key.endswith(".lock")
    }


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            Status(),
            r"the endpoint answers 503 \(SlowDown\), also after 1 retry\. What was committed is "
            r"kept; run the same command again",
        ),
        (
            Status(403, "AccessDenied"),
            r"access denied: the endpoint answers 403 \(AccessDenied\); check the credentials "
            r"\(AWS_PROFILE",
        ),
        (
            Refuse(),
            r"the connection to http://127\S+ broke off or could not be made also after 1 retry: "
            r"check the network and AWS_ENDPOINT_URL",
        ),
        (
            Drop(3),
            r"the connection to the endpoint broke off or could not be made: check the network",
        ),
        (BlackHole(), r"the connection to http://127\S+ timed out also after 1 retry"),
    ],
    ids=repr,
)
def test_lasting_faults_end_in_one_line_and_lose_nothing(
    faulty: FaultyProxy, s3_root: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, text: str
) -> None:
    monkeypatch.setenv("LAYERCACHE_S3_RETRIES", "1")
    monkeypatch.setenv("LAYERCACHE_S3_STALL_SECONDS", "0.4")
    with make_writer(as_remote(s3_root), SPEC) as writer:
        write_pending(writer, make_tokens(SPEC), stop_after=3)
        method = "PUT" if isinstance(fault, Refuse | Status) else "GET"
        faulty.inject(fault, method=method)
        with pytest.raises(StorageError, match=rf"^s3://caches/\S+: {text}"):
            write_pending(writer, make_tokens(SPEC)) if method == "PUT" else make_writer(
                as_remote(s3_root), SPEC
            )
        faulty.heal()
    with make_writer(as_remote(s3_root), SPEC) as writer:
        assert writer.pending == (3, 4, 5, 6)
        write_pending(writer, make_tokens(SPEC))
        writer.finish()
    assert verify(open_cache(root=s3_root)) == []


def test_missing_bucket_endpoint_or_credentials_end_in_one_line(
    s3_root: str,
    s3_server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAYERCACHE_S3_RETRIES", "1")
    code, _, err = run(capsys, *EXTRACT, "--cache", "s3://nowhere-to-be-found/x")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: s3://nowhere-to-be-found/x")
    assert "there is no such bucket: create it first" in err
    code, _, err = run(capsys, "cache", "ls", "--cache", "s3://nowhere-to-be-found/x")
    assert (code, "there is no such bucket" in err, err.count("\n")) == (1, True, 1)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        code, _, err = run(capsys, *EXTRACT, "--cache", s3_root)
        assert (code, err.count("\n")) == (1, 1)
        assert (
            "the connection to http://127.0.0.1:9 broke off or could not be made also after 1 retry"
            in err
        )
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        code, _, err = run(capsys, *EXTRACT, "--cache", s3_root)
        assert (code, err.count("\n")) == (1, 1)
        assert "no credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in err
        patch.setenv("AWS_PROFILE", "nobody")
        code, _, err = run(capsys, *EXTRACT, "--cache", s3_root)
        assert (code, err.count("\n")) == (1, 1)
        assert "the AWS configuration cannot be used (ProfileNotFound): check AWS_PROFILE" in err


def test_credentials_of_a_profile_are_found(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        f"[cluster]\naws_access_key_id = {server.KEY}\naws_secret_access_key = {server.SECRET}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile cluster]\nregion = {server.REGION}\nendpoint_url = "
        f"{os.environ['AWS_ENDPOINT_URL']}\n"
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "cluster")
    assert verify(remote_cache(s3_root, SPEC)) == []


@pytest.mark.slow
def test_commands_write_and_print_no_secret(
    faulty: FaultyProxy,
    s3_root: str,
    s3_server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Check everything that a command prints, logs or writes.

    With right and wrong credentials, --debug, and a failing endpoint.
    """
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("LAYERCACHE_S3_RETRIES", "1")
    said: list[str] = []
    said += map(str, run(capsys, *EXTRACT, "--cache", s3_root))
    said += map(str, run(capsys, "cache", "info", "--json", "--cache", s3_root))
    wrong = "wrong-SECRET-that-nobody-may-see"
    for faults in ([Status(403, "SignatureDoesNotMatch")], [Status()], [Refuse()], [Drop()], []):
        for fault in faults:
            faulty.inject(fault)
        with monkeypatch.context() as patch:
            patch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
            patch.setenv("AWS_SESSION_TOKEN", "TOKEN-of-a-session")
            for words in (
                ("cache", "verify", "--cache", s3_root),
                (*EXTRACT, "--cache", f"{s3_root}/other"),
            ):
                code, out, err = run(capsys, *words)
                said += [out, err]
                assert code == bool(faults or s3_server.kind == "swift"), (
                    err
                )  # moto looks at no signature
                try:
                    main([*words, "--debug"])
                except BaseException:
                    said.append(traceback.format_exc())
        faulty.heal()
    said += [record.getMessage() for record in caplog.records]
    said += [data.decode(errors="replace") for data in objects(s3_root).values()]
    assert sum(map(len, said)) > 10_000
    for secret in (server.SECRET, wrong, "TOKEN-of-a-session"):
        assert [text for text in said if secret in text] == []


def test_address_or_endpoint_with_credentials_raises_without_repeating_them(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        OptionError, match=r"^s3://\*\*\*@\.\.\.: expected an address without credentials"
    ) as caught:
        as_remote("s3://key:PASS@bucket/x")
    assert "PASS" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:PASS@127.0.0.1:9")
    with pytest.raises(
        OptionError, match="AWS_ENDPOINT_URL: an endpoint holds no credentials"
    ) as caught:
        open_cache(root=s3_root)
    assert "PASS" not in str(caught.value)


def test_endpoint_that_ignores_conditions_raises(
    faulty: FaultyProxy, s3_root: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if s3_server.kind == "swift":
        pytest.skip("Swift looks at the signature, which covers the header that is taken out here")
    monkeypatch.setattr(proxy, "_HOP", {*proxy._HOP, "if-none-match"})
    monkeypatch.setattr(conditional_commit, "_checked_buckets", set())
    with pytest.raises(
        StorageError,
        match=r"the endpoint ignores conditional puts \(If-None-Match\).* `layercache cache push`",
    ):
        make_writer(as_remote(s3_root), SPEC)


def test_retry_variable_that_is_no_number_raises(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERCACHE_S3_RETRIES", "many")
    with pytest.raises(
        OptionError, match="LAYERCACHE_S3_RETRIES: expected a number of at least 0, got 'many'"
    ):
        open_cache(root=s3_root)


def test_s3_without_its_extra_raises_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(
        MissingExtraError,
        match=r"this needs obstore, which is not installed: pip install -e '\.\[s3\]'",
    ):
        open_cache(root="s3://bucket/x")
