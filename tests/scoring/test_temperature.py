"""The temperature is the one that the labels were drawn with, and only depends on weights and data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save
from torch import nn

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import ModelCard
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.scoring.temperature import fit_temperature

IDS, TOO_CERTAIN = np.uint8([10, 20, 30]), 2.5


class Overconfident(nn.Module):
    """Scores three classes by red, green and blue, `TOO_CERTAIN` times as high as the labels of `data` are drawn."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * TOO_CERTAIN * images


@pytest.fixture
def data(own_recipe: Callable[..., Path], tmp_path: Path) -> Dataset:
    """Frames of noise, whose labels are drawn with the probabilities of a softmax of twice the normalized colors."""
    recipe = load_recipe(own_recipe())
    mean, std = np.float32(ModelCard.of(recipe, (64, 48)).mean), np.float32(ModelCard.of(recipe, (64, 48)).std)
    for number in range(10):
        rng = np.random.default_rng(number)
        frame = rng.integers(0, 256, (48, 64, 3), np.uint8)
        scores = np.exp(2 * (frame / 255 - mean) / std)
        drawn = (rng.random((48, 64, 1)) > (scores / scores.sum(-1, keepdims=True)).cumsum(-1)[..., :2]).sum(-1)
        labels = IDS[drawn]
        labels[:4] = 99
        save(frame, tmp_path / "own" / "frames" / f"f{number}.png")
        save(labels, tmp_path / "own" / "masks" / f"f{number}.png")
    return open_dataset(recipe, tmp_path / "own")


def test_the_temperature_undoes_what_makes_a_model_too_certain(data: Dataset) -> None:
    card = ModelCard.of(data.recipe, (64, 48))
    predictor = Predictor(Overconfident(), card, "cpu", "fp32")
    temperature = fit_temperature(predictor, data, "val")
    assert temperature == pytest.approx(TOO_CERTAIN, rel=0.05)
    fitted = Predictor(Overconfident(), card.model_copy(update={"temperature": temperature}), "cpu", "fp32")
    before, after = (evaluate(each, data, "val") for each in (predictor, fitted))
    assert np.array_equal(before.scores.counts, after.scores.counts)
    assert before.confidence.ece > 0.1
    assert after.confidence.ece < 0.02
    assert after.as_json()["temperature"] == temperature
    # What is fitted does not depend on the model's own, so a run that is finished twice gets the same.
    assert fit_temperature(fitted, data, "val") == temperature


def test_frames_that_are_all_void_leave_the_temperature_at_one(data: Dataset) -> None:
    for frame in data.frames("val"):
        save(np.full((48, 64), 99, np.uint8), frame.label)
    predictor = Predictor(Overconfident(), ModelCard.of(data.recipe, (64, 48)), "cpu", "fp32")
    assert fit_temperature(predictor, data, "val") == 1.0
