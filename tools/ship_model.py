"""Put a trained network into this package, in half precision: `python tools/ship_model.py RUN NAME`.

Its page, NAME.md beside it, is written by hand: the commands, the data and its terms, the scores, what it is not for.
"""

import sys

import torch

from linknet_fastai.model.named import model_folder
from linknet_fastai.model.save_load import load_model, save_model


def main(run: str, name: str) -> None:
    model, card = load_model(run)
    model.half()
    if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
        raise SystemExit(f"{run}: has values that half precision cannot hold")
    file = model_folder() / f"{name}.safetensors"
    save_model(model, card, file)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
