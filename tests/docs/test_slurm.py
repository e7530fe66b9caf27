"""docs/slurm-ray.sh on a real SLURM cluster: two nodes on this machine, in their own namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from layercache.cache import find_caches
from layercache.cache.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.alone]

HERE = Path(__file__).parent
SCRIPT = HERE.parent.parent / "docs" / "slurm-ray.sh"
NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
SUBMIT = """
for model in no_such_model vit_nano; do
    sbatch --cpus-per-task=1 --output="$model.log" "$0" "$model" digits
done
while squeue --noheader | grep -q .; do sleep 0.5; done
scontrol --oneliner show job > jobs
ps -e -o args > processes
"""


@pytest.fixture
def folder() -> Path:
    """With a short name: sockets lie in it."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    if missing := [
        tool for tool in ("slurmctld", "slurmd", "unshare", "ip") if not shutil.which(tool)
    ]:
        pytest.skip(
            f"{', '.join(missing)} not found: apt-get install slurm-wlm util-linux iproute2"
        )
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("no leave to make a network of one's own (unshare --net): run as root")
    return Path(tempfile.mkdtemp(prefix="lc-"))


def test_a_job_makes_a_whole_cache_and_leaves_nothing_behind(folder: Path) -> None:
    programs, temporary, home = folder / "bin", folder / "tmp", folder / "home"
    programs.mkdir()
    temporary.mkdir()
    for name, module in {"ray": "ray.scripts.scripts", "layercache": "layercache_cli.main"}.items():
        (programs / name).write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        (programs / name).chmod(0o755)
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_")
    }  # the engine's tests bind to loopback
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        subprocess.run(
            [
                *NAMESPACES,
                "bash",
                str(HERE / "slurm_cluster.sh"),
                str(folder / "slurm"),
                "2",
                "bash",
                "-c",
                SUBMIT,
                str(SCRIPT),
            ],
            cwd=folder,
            env={**own, "PATH": path, "TMPDIR": str(temporary), "LAYERCACHE_HOME": str(home)},
            timeout=400,
            check=True,
        )
        wrong, right = (
            (folder / "no_such_model.log").read_text(),
            (folder / "vit_nano.log").read_text(),
        )
        jobs = (folder / "jobs").read_text().splitlines()
        assert [job.split("JobState=")[1].split()[0] for job in jobs] == ["FAILED", "COMPLETED"], (
            wrong + right
        )
        assert "no_such_model" in wrong
        assert "Traceback" not in wrong + right
        assert "2 workers of 1 CPU on a Ray cluster of 2 nodes" in right
        assert "test balanced" in right
        [cache] = find_caches(home)
        assert not verify(cache)
        assert sorted(cache.spec.dataset.splits) == ["test", "train"]
        assert not list(temporary.glob("ray-*"))
        assert not [
            line
            for line in (folder / "processes").read_text().splitlines()
            if "ray" in Path(line.split()[0]).name
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
