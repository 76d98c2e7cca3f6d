"""Exported learners load with plain fastai, predict the run's masks, and carry nothing of the machine along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from linknet_fastai import LinkNet, load_recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import open_image
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export.export import export_run
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import load_model, save_model

SIZE = (96, 72)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("machine-path") / "run"
    folder.mkdir()
    save_model(LinkNet(11, pretrained=False), ModelCard.of(load_recipe("street"), SIZE), folder / "model.safetensors")
    return folder


def test_a_pkl_predicts_the_runs_mask_in_a_fresh_process(run, street_data, tmp_path):
    file = export_run(run, "pkl", tmp_path / "street.pkl").file
    frame = next((street_data / "val" / "images").glob("*.png"))
    code = (
        "import sys, numpy as np; from fastai.learner import load_learner;"
        "learn = load_learner(sys.argv[1]); np.save(sys.argv[3], np.asarray(learn.predict(sys.argv[2])[0]))"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", code, file, frame, tmp_path / "mask.npy"]
    subprocess.run(arguments, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    expected = Predictor(*load_model(run), device="cpu")(open_image(frame))
    # In bf16 fastai's learner rounds where autocast does, the predictor where its cast weights do.
    assert (np.load(tmp_path / "mask.npy") == expected).mean() > 0.995


def test_a_pkl_holds_no_path_and_no_user_of_the_machine(run, tmp_path):
    content = export_run(run, "pkl", tmp_path / "a.pkl").file.read_bytes()
    for text in (str(run), str(tmp_path), str(Path.home()), os.getcwd(), "site-packages", "pathlib"):
        assert text.encode() not in content, text
    assert b"_make_function" not in content, "code by value would load in this version of Python only"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pkl"]


def test_a_pkl_is_a_model_for_those_who_trust_it(run, street_data, tmp_path):
    file = export_run(run, "pkl", tmp_path / "a.pkl").file
    with pytest.raises(UsageError, match="--trust-pickle"):
        load_model(file)
    model, card = load_model(file, trust_pickle=True)
    assert card == load_model(run)[1]
    for ours, theirs in zip(model.parameters(), load_model(run)[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_safetensors_carry_all_that_prediction_needs(run, tmp_path):
    file = export_run(run, "safetensors", tmp_path / "street").file
    assert file.name == "street.safetensors"
    model, card = load_model(file)
    assert card.class_names == load_recipe("street").class_names
    assert (card.size, card.encoder, card.decoder) == (SIZE, "resnet18", "deconv")
    assert card.mean == pytest.approx((0.485, 0.456, 0.406))
    assert not model.training
    json.loads(card.model_dump_json())
