"""`fit --teacher`: the run records it, and a resumed run still learns from it."""

import os
import tomllib
from pathlib import Path

import pytest
import torch

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model
from linknet_fastai.runs.checkpoint import read_checkpoint
from linknet_fastai.training import fit as training
from linknet_fastai.training.run_record import Observer


@pytest.mark.usefixtures("short_end")
def test_a_run_records_its_teacher_and_a_resumed_one_keeps_it(street_data: Path, tmp_path: Path) -> None:
    class PowerCut(Observer):
        def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
            if training and (epoch, done) == (2, 1):
                raise OSError("power")

    torch.manual_seed(7)
    card = ModelCard.of(load_recipe("street"), (64, 48), encoder="test_resnet")
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, tmp_path / "teacher.safetensors")
    options = {"size": "64x48", "bs": 4, "workers": 0, "epochs": 2, "device": "cpu", "encoder": "test_resnet"}
    taught = {**options, "teacher": os.path.relpath(tmp_path / "teacher.safetensors")}
    training.fit("street", street_data, options, tmp_path / "alone")
    training.fit("street", street_data, taught, tmp_path / "whole")
    with pytest.raises(OSError, match="power"):
        training.fit("street", street_data, taught, tmp_path / "cut", PowerCut())
    training.resume(tmp_path / "cut")
    saved = tomllib.loads((tmp_path / "cut" / "run.toml").read_text())["settings"]
    assert saved["teacher"] == str(tmp_path / "teacher.safetensors")
    alone, whole, cut = (read_checkpoint(tmp_path / name)[0]["model"] for name in ("alone", "whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not torch.equal(whole["head.0.weight"], alone["head.0.weight"])
