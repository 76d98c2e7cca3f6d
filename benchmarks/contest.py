"""Measures contestants in turns, each in its own process, so that none profits from another's tuning or memory.

Not a benchmark by itself: `train_speed.py`, `predict_speed.py` and `data_speed.py` use it.
"""

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Prepares a contestant and returns a function that takes one measurement: the time of a unit of work in ms.
Contestant = Callable[[Any], Callable[[], float]]


def run(contestants: Mapping[str, Contestant], setting: Any, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure all contestants in turns; the first turn of each is for warming up and is not counted.

    Args:
        contestants: functions at the top of their module, by name.
        setting: what each is prepared with.
        rounds: how many measurements of each count.

    Returns:
        For each: `ms` (the median), `all_ms`, `peak_memory_mib` of its process without its loader processes.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, tuple[Any, Connection]] = {}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    memory: dict[str, int] = {}
    for name, contestant in contestants.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(contestant, setting, theirs))
        process.start()
        theirs.close()  # or its end would not be noticed here
        pipes[name] = (process, ours)
        _ask(name, ours)  # it is prepared and warm before the next one starts
    for number in range(rounds):
        for name, (_, pipe) in pipes.items():
            ms, memory[name] = _ask(name, pipe)
            times[name].append(ms)
            print(f"round {number + 1} of {rounds}: {name} {ms:.2f} ms", flush=True)
    for process, pipe in pipes.values():
        pipe.send(False)
        process.join()
    return {
        name: {"ms": statistics.median(taken), "all_ms": taken, "peak_memory_mib": memory[name]}
        for name, taken in times.items()
    }


def _ask(name: str, pipe: Connection) -> tuple[float, int]:
    pipe.send(True)
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise SystemExit(f"{name}: its process ended") from None
    if isinstance(answer, str):
        raise SystemExit(f"{name}: {answer}")
    return answer


def _serve(contestant: Contestant, setting: Any, pipe: Connection) -> None:
    import torch

    from linknet_fastai.core.device import peak_memory_mib

    multiprocessing.set_start_method(None, force=True)  # the platform's own for loader processes, as in any script
    try:
        measure = contestant(setting)
        while pipe.recv():
            pipe.send((measure(), peak_memory_mib(torch.device("cpu"))))
            time.sleep(0.2)  # lets OpenMP's threads fall asleep: they would spin into the next contestant's time
    except (EOFError, BrokenPipeError):
        return  # another contestant failed
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        raise


def machine() -> dict[str, Any]:
    """The machine and versions that the figures come from."""
    import torch

    cpu = next((line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    flags = next((line.split() for line in _cpu_info() if line.startswith("flags")), [])
    packages = ("torch", "fastai", "timm", "segmentation_models_pytorch", "openvino", "onnxruntime")
    return {
        "cpu": cpu,
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _cpu_info() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def report(title: str, results: Mapping[str, Mapping[str, Any]], ours: str, unit: str) -> dict[str, Any]:
    """Print the medians and how many times as long as `ours` each takes; return all of it for the JSON file."""
    table = Table("", f"ms {unit}", "fastest", "slowest", f"times {ours}", "MiB", title=title, box=None)
    for name, result in results.items():
        ratio = result["ms"] / results[ours]["ms"]
        spread = (f"{pick(result['all_ms']):.1f}" for pick in (min, max))
        table.add_row(name, f"{result['ms']:.1f}", *spread, f"{ratio:.2f}", str(result["peak_memory_mib"]))
    Console(width=110).print(table)
    return {"title": title, "unit": f"ms {unit}", "ours": ours, "results": results}


def save(file: Path | None, contests: list[dict[str, Any]], **facts: Any) -> None:
    """Write what was measured, and on which machine."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), **facts, "contests": contests}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(file)
