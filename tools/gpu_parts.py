"""What `gpu_check.py` measures. A part is a function that yields records; each record is one line of its JSON.

    python tools/gpu_parts.py PART DEVICE FOLDER

Writes the records to FOLDER/PART.jsonl as they come. On the CPU all sizes are tiny.
"""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from linknet_fastai.core.device import peak_memory_mib
from linknet_fastai.learner.learner import LinkNetLearner
from linknet_fastai.training import fit as training
from linknet_fastai.training.run_record import Observer

sys.path.append(str(Path(__file__).parent))

from gpu_common import Record, Scale, attempt, scale_of, stems, street, street_learner, train_epochs
from gpu_speed import predict, train
from kill_and_resume import final_weights


def fit(scale: Scale, work: Path) -> Iterator[Record]:
    """`fit street` in every precision: speed, memory, mIoU."""
    variants: list[Record] = [{"precision": "bf16"}]
    if scale.device != "cpu":  # which has no fp16, and takes half a minute to compile
        variants += [{"precision": "fp32"}, {"precision": "fp16"}, {"precision": "bf16", "compile": True}]
    for number, options in enumerate(variants):
        options = {"epochs": scale.epochs, "device": scale.device, "seed": 1, **scale.options, **options}

        def train(number: int = number, options: Record = options) -> Record:
            result = training.fit("street", street(scale, work), options, work / "fit" / str(number))
            seconds = sorted(row["seconds"] for row in result.rows[1:])[len(result.rows[1:]) // 2]
            return {
                "img/s": (scale.splits["train"] + scale.splits["val"]) / seconds,
                "first epoch": result.rows[0]["seconds"],
                "best mIoU": result.best["miou"],
                "MiB": peak_memory_mib(scale.torch_device),
            }

        named = {"precision": options["precision"], "compile": bool(options.get("compile"))}
        yield named | attempt(scale, train)


def deterministic(scale: Scale, work: Path) -> Iterator[Record]:
    """`--deterministic`: the same weights, to the bit, in a second run and in one that is interrupted and resumed."""
    options = {
        "size": "160x120",
        "bs": 8,
        "device": scale.device,
        "deterministic": True,
        **scale.options,
        "epochs": 2,
    }
    options |= {"train_on": stems(scale, work, "train", 40), "epochs": 2}
    options["checkpoint_minutes"] = 1e-9  # one after every batch
    data, folders = street(scale, work), [work / "deterministic" / name for name in ("first", "second", "resumed")]

    class PowerCut(Observer):
        """Ends the training in the middle of its second epoch."""

        def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
            if training and (epoch, done) == (2, 2):
                raise ConnectionAbortedError("power")  # fastai expects an argument

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for folder in folders[:2]:
            training.fit("street", data, options, folder)
    without = {str(warning.message).split(" does not have")[0] for warning in caught if "determinis" in str(warning)}
    yield {"compared": "second run", "same bits": same_weights(*folders[:2]), "without a form": sorted(without)}
    with suppress(ConnectionAbortedError):
        training.fit("street", data, options, folders[2], PowerCut())
    training.resume(folders[2])
    yield {"compared": "resumed run", "same bits": same_weights(folders[0], folders[2]), "without a form": []}


def step(scale: Scale, work: Path) -> Iterator[Record]:
    """What a training step makes the host wait for, and where its time goes."""
    size, bs = scale.train_sizes[0], scale.batches[0]
    for optimizer in ("muon", "adamw"):
        learn = street_learner(scale, work, size, bs, optimizer=optimizer)
        train_epochs(learn, 1)  # builds the cache, and has cuDNN choose its algorithms
        waits = host_waits(learn)
        steps = waits.pop("steps")
        for where, count in sorted(waits.items(), key=lambda item: -item[1]):
            yield {"optimizer": optimizer, "waits a step": count / steps, "where": where}
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] * (scale.device == "cuda")
        with torch.profiler.profile(activities=activities) as profile:
            images, seconds = train_epochs(learn, 1)
        events, steps = profile.key_averages(), images / bs
        on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        yield {
            "optimizer": optimizer,
            "ms a step, profiled": seconds / steps * 1e3,
            "ms busy": sum(event.self_device_time_total for event in on_device) / 1e3 / steps,
            "kernels a step": sum(event.count for event in on_device) / steps,
        }
        for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:12]:
            ms = event.self_cpu_time_total / 1e3 / steps
            yield {"optimizer": optimizer, "host ms a step": ms, "calls a step": event.count / steps, "op": event.key}


PARTS = {part.__name__: part for part in (fit, deterministic, step, train, predict)}


class HostReads(TorchDispatchMode):
    """Counts, on any device, what makes the host wait for a GPU: numbers read, and tensors copied to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in READS:
            self.counts[str(func.overloadpacket)] += 1
        return result


READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)
READS += (torch.ops.aten.equal, torch.ops.aten.bincount)


def host_waits(learn: LinkNetLearner, epochs: int = 1, cbs: Sequence[Callback] = ()) -> Counter[str]:
    """What the host waits for in training steps, by place in the code; on the CPU by kind. And the count of `steps`.

    Not counted: values that `Reading` has brought to the host by then.
    """
    waits: Counter[str] = Counter()
    reads = HostReads()

    class Listen(Callback):
        """Counts the waits of training."""

        order = 100  # begins after all others, and ends after them
        begun = False

        def before_batch(self) -> None:
            """Begin with the first batch: before it torch reads a seed, from the host's own memory."""
            if self.begun or not self.training:
                return
            self.begun = True
            if learn.dls.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            else:
                reads.__enter__()

        def after_batch(self) -> None:
            """Count the step."""
            waits["steps"] += self.training

        def after_train(self) -> None:
            """End."""
            self.begun = False
            if learn.dls.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            else:
                reads.__exit__(None, None, None)

    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(epochs, 1e-3, cbs=[*cbs, Listen()])
    for warning in caught:
        if "synchronizing" in str(warning.message):
            waits[f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}"] += 1
    return waits + reads.counts


def same_weights(first: Path, second: Path) -> bool:
    """Whether the last and the best weights of two runs are the same bits."""
    return all(
        ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        for ours, theirs in zip(final_weights(first), final_weights(second), strict=True)
    )


def main() -> None:
    """Run a part and append its records to its file."""
    part, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with (folder / f"{part}.jsonl").open("w") as file:
        if device == "cuda":
            facts = {"GPU": torch.cuda.get_device_name(), "torch": torch.__version__, "CUDA": torch.version.cuda}
            print(json.dumps(facts), file=file, flush=True)
        for record in PARTS[part](scale_of(device), folder):
            print(json.dumps(record), file=file, flush=True)


if __name__ == "__main__":
    main()
