"""Run one part in a process of its own: a crash, a hang or lost memory ends that part alone."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main() -> None:
    from benchmarks.gpu.context import Context

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rows-file", type=Path, required=True)
    parser.add_argument("--rates", type=json.loads, default={})
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    context = Context(
        device=args.device,
        tiny=args.tiny,
        deadline=time.monotonic() + args.seconds,
        rows_file=args.rows_file,
        rates=args.rates,
    )
    importlib.import_module(f"benchmarks.gpu.{args.name}").measure(context)


if __name__ == "__main__":
    main()
