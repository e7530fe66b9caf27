"""Turn the results of `make bench-gpu` into a section of LOG.md.

python benchmarks/log_gpu.py gpu.json            print the section
python benchmarks/log_gpu.py gpu.json --append   append it to benchmarks/LOG.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.report import format_report

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--log", type=Path, default=ROOT / "benchmarks" / "LOG.md")
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text())
    if not args.append:
        print(section(results))
        return
    if results["tiny"]:
        sys.exit(f"{args.results}: made with --tiny, which measures nothing; run make bench-gpu")
    with args.log.open("a") as log:
        log.write("\n" + section(results))


def section(results: dict[str, Any]) -> str:
    """Return the section of LOG.md."""
    return f"## {results['date']}, on a GPU: `{results['command']}`\n\n{format_report(results)}"


if __name__ == "__main__":
    main()
