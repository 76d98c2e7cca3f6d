"""Prints the tables of speed of README.md and docs/results.md from results/benchmarks.

    python tools/speed_tables.py

Of two runs of a benchmark the one that is less favorable to us counts; the times of `pareto.py` are means. A page's
name comes first, then its tables. A test checks that each page contains its tables.
"""

import json
import math
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
BENCHMARKS = {"train_speed": "CAMVID", "data_speed": "CAMVID", "predict_speed": "RUN CAMVID"}


# The rows of README.md: what it is called in the benchmark of training, and in that of prediction.
README_ROWS = {
    "**linknet-fastai, torch**": ("linknet-fastai", "linknet-fastai, torch"),
    "linknet-fastai, OpenVINO bf16": (None, "linknet-fastai, openvino"),
    "linknet-fastai, OpenVINO int8": (None, "linknet-fastai, openvino int8"),
    "smp Linknet as documented, fp32": ("smp Linknet, documented", "smp Linknet, torch fp32"),
    "smp Linknet tuned by hand, bf16": ("smp Linknet, tuned by hand", "smp Linknet, torch bf16"),
    "fastai unet_learner": ("fastai unet_learner", None),
}


def read_contests(name: str) -> list[dict[str, Any]]:
    """The contests of a benchmark, each from the run in which the peers come off better, taken together."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob(f"{name}-*.json"))]
    return [
        min(contests, key=lambda one: math.prod(result["ms"] / _ours(one) for result in _peers(one)))
        for contests in zip(*(run["contests"] for run in runs), strict=True)
    ]


def readme_table() -> str:
    """The table of README.md as Markdown: training and prediction side by side."""
    contests = [read_contests("train_speed")[0], read_contests("predict_speed")[0]]
    lines = ["| | training, ms an image | prediction, ms a frame |", "| --- | ---: | ---: |"]
    for shown, names in README_ROWS.items():
        cells = (
            f"{contest['results'][name]['ms']:.1f}" if name else ""
            for name, contest in zip(names, contests, strict=True)
        )
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def results_tables() -> list[str]:
    """The tables of docs/results.md as Markdown, each with the command that makes its figures."""
    return [
        _table(contest, f"`python benchmarks/{name}.py {arguments}`")
        for name, arguments in BENCHMARKS.items()
        for contest in read_contests(name)
    ]


def _table(contest: dict[str, Any], command: str) -> str:
    ours = contest["ours"]
    lines = [
        f"| {contest['title']} ({command}) | {contest['unit']} | times ours | MiB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, result in contest["results"].items():
        ratio = result["ms"] / _ours(contest)
        shown = f"**{name}**" if name == ours else name
        lines.append(f"| {shown} | {result['ms']:.1f} | {ratio:.2f} | {result['peak_memory_mib']} |")
    return "\n".join(lines)


def pareto_table() -> str:
    """The table of docs/results.md with both speed and accuracy of small and large networks."""
    content = json.loads((RESULTS / "pareto.json").read_text(encoding="utf-8"))
    sizes = ("640x360", "1280x720")
    title = f"{content['minutes']:.0f} minutes of training from scratch (`python benchmarks/pareto.py CAMVID`)"
    lines = [
        f"| {title} | epochs | {' | '.join(f'ms, {size}' for size in sizes)} | IoU, val | 0006R0 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, scores in content["class_iou"].items():
        ms = content["ms"][name.partition(",")[0]]
        cells = (
            f"{len(content['curves'][name])}",
            *(f"{ms[size]:.1f}" for size in sizes),
            *(f"{score:.3f}" for score in scores.values()),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ours(contest: dict[str, Any]) -> float:
    return contest["results"][contest["ours"]]["ms"]


def _peers(contest: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for name, result in contest["results"].items() if not name.startswith("linknet-fastai")]


if __name__ == "__main__":
    for page, tables in {
        "README.md": [readme_table()],
        "docs/results.md": [*results_tables(), pareto_table()],
    }.items():
        print(page, *tables, sep="\n\n", end="\n\n")
