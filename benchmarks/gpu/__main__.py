"""All measurements on a GPU in one command of under eight minutes.

    make bench-gpu
    python -m benchmarks.gpu [--device cuda] [--out gpu.json] [--parts rates step]
    python -m benchmarks.gpu --device cpu --tiny     tests the scripts, measures nothing
    python benchmarks/log_gpu.py gpu.json            the section for LOG.md

Each part runs in a process of its own with a share of the time; what one part leaves goes to the
next. Results are in the JSON file as soon as they are measured. A part that fails or runs out of
time is reported with its error, and the others go on; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import TITLES, count_failures, format_report
from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[2]
SHARES = {
    "rates": 25,
    "extraction": 175,
    "step": 75,
    "search": 90,
    "streaming": 50,
    "device_tests": 45,
}
"""Seconds of each part, in the order in which they run; 460 in all."""
PART = Path(__file__).with_name("part.py")
NEEDED = ("torch", "timm", "zarr", "numcodecs", "google_crc32c", "pydantic", "sklearn", "pytest")
"""Modules without which parts fail."""
GRACE_S = 3
"""Seconds before its end at which a part should start nothing more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: test the scripts")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file of the results")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument(
        "--limit", type=float, default=sum(SHARES.values()), help="seconds for all parts together"
    )
    args = parser.parse_args(argv)
    check(args.device)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(),
        "device": args.device,
        "tiny": args.tiny,
        "command": "make bench-gpu" if args.device == "cuda" else "python -m benchmarks.gpu",
        "seconds": 0.0,
        "parts": {},
    }
    began = time.monotonic()
    scale = args.limit / sum(SHARES[name] for name in args.parts)
    due = 0.0
    for name in args.parts:
        due += SHARES[name] * scale  # what earlier parts left is this part's, too
        seconds = began + due - time.monotonic()
        print(f"\n{TITLES[name]}, at most {seconds:.0f} s", flush=True)
        results["parts"][name] = {"rows": [], "error": ""}
        run_part(name, args, results, seconds=seconds)
        results["seconds"] = time.monotonic() - began
        save(results, args.out)
    print("\n" + format_report(results))
    failures = count_failures(results["parts"].values())
    print(f"Results: {args.out}")
    if failures:
        print(f"{failures} FAILED OR LEFT OUT, see above")
    return bool(failures)


def check(device: str) -> None:
    """End with a remedy where no part could run."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"{sys.executable} has no {', '.join(missing)}: pip install -e '.[report,test]', or, "
            "without a network, see 'Measurements on a GPU' in CONTRIBUTING.md"
        )
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            f"torch {torch.__version__} finds no CUDA device on this machine; "
            "`python -m benchmarks.gpu --device cpu --tiny` tests the scripts"
        )


def run_part(
    name: str, args: argparse.Namespace, results: dict[str, Any], *, seconds: float
) -> None:
    """Run one part, and write its results and its error into `results` and to the file."""
    part = results["parts"][name]
    rates = {
        row["unit"]: row["value"]
        for row in results["parts"].get("rates", {"rows": []})["rows"]
        if "error" not in row
    }
    with tempfile.TemporaryDirectory(prefix="layercache-gpu-") as folder:
        rows_file, log = Path(folder, "rows.jsonl"), Path(folder, "log")
        rows_file.touch()
        command = [sys.executable, str(PART), name]
        command += ["--device", args.device, "--seconds", str(max(1, seconds - GRACE_S))]
        command += ["--rows-file", str(rows_file), "--rates", json.dumps(rates)]
        command += ["--tiny"] if args.tiny else []
        # the folder is the part's, too, so that nothing is left behind if it is killed
        environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": search_path()}
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None and time.monotonic() - start < seconds:
                    time.sleep(0.2)
                    collect(rows_file, part, results, args.out)
                if process.poll() is None:
                    part["error"] = f"stopped after {seconds:.0f} s"
            finally:
                kill_session(process)
        collect(rows_file, part, results, args.out)
        tail = log.read_text(errors="replace").strip()[-2000:]
    if process.returncode and not part["error"]:
        last = tail.splitlines()[-1] if tail else ""
        part["error"] = f"exit status {process.returncode}: {last}"
    if part["error"]:
        print(f"FAILED: {part['error']}\n{tail}", flush=True)


def collect(rows_file: Path, part: dict[str, Any], results: dict[str, Any], out: Path) -> None:
    """Take over the rows written since the last time."""
    lines = rows_file.read_text().split("\n")[:-1]  # the last one may be half written
    for line in lines[len(part["rows"]) :]:
        row = json.loads(line)
        part["rows"].append(row)
        if "error" in row:
            print(f"  FAILED {row['what']}: {row['error']}", flush=True)
        else:
            ratios = ", ".join(f"{name} {ratio:.3g}" for name, ratio in row["ratios"].items())
            print(f"  {row['what']}: {row['value']:.4g} {row['unit']} {ratios}", flush=True)
        save(results, out)


def search_path() -> str:
    """Return PYTHONPATH with this checkout in front, for the workers of an extraction, too."""
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *([given] if given else [])])


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """End a part and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def save(results: dict[str, Any], out: Path) -> None:
    """Write the results so far; the file is whole at any time."""
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(out)


if __name__ == "__main__":
    sys.exit(main())
