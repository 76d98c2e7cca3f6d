"""Runs everything that only a GPU shows, part by part; `gpu_check.sh` starts it. What is measured is in gpu_parts.py.

    python tools/gpu_check.py OUT [--device cpu] [--only PART,PART]

Each part runs in a process of its own and within a time of its own: what fails or takes too long is noted, and the
next part follows. After each part OUT/gpu_check.json and OUT/summary.txt are written again, so that a run that is
stopped loses one part. `--device cpu` runs the same on tiny networks and frames; its figures mean nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOTAL_SECONDS = 460  # the lent machine gives a command 10 minutes, of which its start-up and the wheels take some
# In the order of what is missed most; the seconds that a part may take, its start of about 10 s included.
PARTS = {"tests": 90, "step": 45, "fit": 150, "deterministic": 45, "train": 130, "predict": 60, "kill": 60}
Record = dict[str, Any]


def command(part: str, device: str, work: Path) -> list[str]:
    """The command of a part; all but the tests and the kill test are functions of gpu_parts.py."""
    if part == "tests":
        files = sorted(str(file) for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text())
        # Nothing in the tests reaches for what the machine lacks, but other test files do when they are collected.
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-rA", *files]
    if part == "kill":
        return [sys.executable, str(ROOT / "tools" / "kill_and_resume.py"), "1", device]
    return [sys.executable, str(ROOT / "tools" / "gpu_parts.py"), part, device, str(work)]


def run_part(arguments: list[str], log: Path, records: Path, seconds: float) -> Record:
    """Run one part and wait for its end, at most `seconds`.

    Returns:
        `status` ("done", "failed" or "out of time"), `seconds`, the `records` that the part wrote as JSON lines, and
        the last lines of its `output`.
    """
    begin = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            status = "failed" if process.wait(max(seconds, 1)) else "done"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
                process.wait()
    written = records.read_text().splitlines() if records.is_file() else []
    return {
        "status": status,
        "seconds": round(time.monotonic() - begin, 1),
        "records": [json.loads(line) for line in written],
        "output": log.read_text(errors="replace").splitlines()[-40:],
    }


def summary(results: Mapping[str, Record]) -> str:
    """All records as text: a heading per part, a table of those with the same keys."""
    lines: list[str] = []
    for part, result in results.items():
        lines += ["", f"== {part}: {result['status']} after {result['seconds']} s"]
        keys: list[str] = []
        for record in result["records"]:
            if [*record] != keys:
                keys = [*record]
                lines.append("  ".join(f"{key:>14}" for key in keys))
            lines.append("  ".join(f"{_cell(value):>14}" for value in record.values()))
        if result["status"] != "done" or not result["records"]:
            lines += [f"   | {line}" for line in result["output"]]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    patience = 1 if arguments.device == "cuda" else 10  # CPUs may have other work, and nobody waits for a lease
    end = time.monotonic() + patience * TOTAL_SECONDS
    results: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ.update(XDG_CACHE_HOME=str(work), HF_HUB_OFFLINE="1", MPLBACKEND="Agg", PYTHONUNBUFFERED="1")
        for part in arguments.only.split(","):
            if end - time.monotonic() < 15:
                results[part] = {"status": "no time left", "seconds": 0, "records": [], "output": []}
            else:
                files = work / f"{part}.log", work / f"{part}.jsonl"
                seconds = min(patience * PARTS[part], end - time.monotonic())
                results[part] = run_part(command(part, arguments.device, work), *files, seconds)
            text = json.dumps({"device": arguments.device, "parts": results}, indent=1)
            (out / "gpu_check.json").write_text(text + "\n")
            (out / "summary.txt").write_text(summary(results))
            print(summary({part: results[part]}), flush=True)


if __name__ == "__main__":
    main()
