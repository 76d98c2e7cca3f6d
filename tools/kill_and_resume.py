"""Kills a short training with SIGKILL at random moments, resumes it, and compares the weights it ends with.

    python tools/kill_and_resume.py [KILLS [DEVICE]]

Each of the KILLS (20) runs is killed once, at a moment between its start and the end of an uninterrupted one, and
then resumed to its end, on DEVICE (cpu). It prints how far the checkpoint was at the kill, and whether all weights
are the same bits.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from linknet_fastai.data.street import write_scenes
from linknet_fastai.runs.checkpoint import read_checkpoint

OPTIONS = ["--size", "64x48", "--bs", "4", "--epochs", "4", "--seed", "1", "--deterministic"]
# A checkpoint about every other batch: most kills then happen in the middle of an epoch.
OPTIONS += ["--no-pretrained", "--set", "checkpoint_minutes=0.01"]


def command(*arguments: str) -> list[str]:
    """The command line of `fit`."""
    return [sys.executable, "-m", "linknet_fastai", "fit", "--quiet", *arguments]


def final_weights(run: Path) -> list[dict[str, torch.Tensor]]:
    """The last and the best weights of a run."""
    state, _ = read_checkpoint(run)
    return [state["model"], load_file(run / "model.safetensors")]


def main() -> None:
    """Run all, print a line each, and exit with 1 if one differs."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    moments = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "street"
        write_scenes(data, splits={"train": 24, "val": 3}, size=(96, 72))
        start = [*command("street", "--data", str(data)), *OPTIONS, "--device", device]
        start += ["--cache-dir", f"{folder}/cache", "--out"]
        begin = time.monotonic()
        subprocess.run([*start, f"{folder}/whole"], check=True)
        seconds, whole = time.monotonic() - begin, final_weights(Path(folder) / "whole")
        differing = 0
        for number in range(1, kills + 1):
            run = Path(folder) / str(number)
            process = subprocess.Popen([*start, str(run)])
            while not (run / "run.toml").is_file():  # before it is written there is nothing to resume
                if process.poll() is not None:
                    sys.exit(f"run {number} ended by itself with {process.returncode}")
                time.sleep(0.01)
            wait = moments.uniform(0, 0.6 * seconds)
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            state = read_checkpoint(run)[0] or {"epochs_done": 0, "batches_done": 0}
            resumed = subprocess.run(command("--resume", str(run)), check=False, capture_output=True, text=True)
            complete = "is complete" in resumed.stderr
            same = all(
                ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
                for ours, theirs in zip(whole, final_weights(run), strict=True)
            )
            differing += not same
            print(
                f"{number:2}: killed {wait:5.1f} s after run.toml, checkpoint at epoch {state['epochs_done']} batch "
                f"{state['batches_done']}{', complete' if complete else ''}: {'same bits' if same else 'DIFFERS'}",
                flush=True,
            )
    print(f"{kills - differing} of {kills} ended with the weights of the uninterrupted run")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
