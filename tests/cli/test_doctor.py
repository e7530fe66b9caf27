from __future__ import annotations

import pytest

from layercache import doctor
from layercache.doctor import Finding
from layercache_cli.main import main


@pytest.mark.parametrize(("status", "code"), [("absent", 0), ("problem", 1)])
def test_doctor_prints_every_finding_and_exits_1_if_there_is_a_problem(
    status: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Finding(topic="packages", text="torch 2"),
        Finding(topic="extra s3", text="not installed", status=status, remedy="pip install it"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda **_: found)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--no-self-test"])
    lines = capsys.readouterr().out.splitlines()
    assert (stopped.value.code or 0) == code
    assert lines[0] == "ok      packages: torch 2"
    assert lines[1].endswith("extra s3: not installed -> pip install it")
    assert "bug report" in lines[-1]
