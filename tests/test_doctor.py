from __future__ import annotations

import socket
from pathlib import Path

import pytest

from layercache import doctor
from layercache.doctor import Finding, examine
from layercache.errors import StorageError


def findings(topic: str, **options: object) -> list[Finding]:
    found = examine(self_test=False, **options)  # type: ignore[arg-type]
    return [finding for finding in found if finding.topic == topic]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(doctor.ENDPOINT_VARIABLE, raising=False)


def test_a_missing_package_of_an_extra_is_absent_and_the_command_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["torch>=2.9", 'ray>=2.50; extra == "ray"', 'no-such-package>1; extra == "s3"']
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    (ray,), (s3,) = findings("extra ray"), findings("extra s3")
    assert (ray.status, ray.text.partition(" ")[0]) == ("ok", "ray")
    assert (s3.status, s3.remedy) == ("absent", "pip install 'layercache-vit[s3]'")


def test_a_missing_required_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=2.9", "no-such-package>1"])
    assert [finding.status for finding in findings("packages")] == ["ok", "problem"]


def test_the_cache_root_is_checked_for_writing_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = findings("cache root")
    assert found.status == "ok"
    assert found.text.startswith(f"{tmp_path / 'caches'}, 0 caches, ")
    assert not (tmp_path / "caches").exists()
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 10**18)
    (found,) = findings("cache root")
    assert found.status == "problem"

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (found,) = findings("cache root")
    assert found.status == "problem"
    assert "Permission denied" in found.text


def test_an_s3_endpoint_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv(doctor.ENDPOINT_VARIABLE, f"http://me:secret@127.0.0.1:{port}")
        (answers,) = findings("S3 endpoint")
    (refused,) = findings("S3 endpoint")
    assert (answers.status, refused.status) == ("ok", "problem")
    assert "secret" not in answers.text + refused.text


def test_a_failed_self_test_is_a_problem_that_names_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**options: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(doctor, "extract", fail)
    found = list(examine())[-1]
    assert (found.topic, found.status) == ("self-test", "problem")
    assert found.text == "StorageError: no space left"


@pytest.mark.slow
def test_the_self_test_passes_and_leaves_nothing(tmp_path: Path) -> None:
    found = list(examine())[-1]
    assert (found.topic, found.status) == ("self-test", "ok"), found.text
    assert list(tmp_path.iterdir()) == []
