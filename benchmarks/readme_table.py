"""The README's tables of speed, from the JSON files of the benchmarks: of two runs the less favourable to us.

    python benchmarks/readme_table.py

A test holds the README to what this prints.
"""

import json
import math
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
BENCHMARKS = {"train_speed": "CAMVID", "data_speed": "CAMVID", "predict_speed": "RUN CAMVID"}


def tables() -> str:
    """All tables as Markdown, each under the command that makes its figures."""
    parts = []
    for name, arguments in BENCHMARKS.items():
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob(f"{name}-*.json"))]
        command = f"`python benchmarks/{name}.py {arguments}`"
        for contest in range(len(runs[0]["contests"])):
            parts.append(_table([run["contests"][contest] for run in runs], command))
    return "\n\n".join(parts)


def _table(contests: list[dict[str, Any]], command: str) -> str:
    ours = contests[0]["ours"]
    # One run for the whole table: the one in which the peers come off better, taken together.
    run = min(contests, key=lambda one: math.prod(r["ms"] / one["results"][ours]["ms"] for r in _peers(one)))
    lines = [
        f"| {contests[0]['title']} ({command}) | {contests[0]['unit']} | times ours | MiB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in contests[0]["results"]:
        result = run["results"][name]
        ratio = result["ms"] / run["results"][ours]["ms"]
        shown = f"**{name}**" if name == ours else name
        lines.append(f"| {shown} | {result['ms']:.1f} | {ratio:.2f} | {result['peak_memory_mib']} |")
    return "\n".join(lines)


def _peers(contest: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for name, result in contest["results"].items() if not name.startswith("linknet-fastai")]


if __name__ == "__main__":
    print(tables())
