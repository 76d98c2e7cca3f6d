"""A model scored on a recipe with other classes: by name, case apart, or as the user maps them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.model.card import ModelCard
from linknet_fastai.scoring import evaluate as evaluation
from linknet_fastai.scoring.shared_classes import shared_classes

OwnRecipe = Callable[..., Path]
MODEL = [('name = "own"', 'name = "other"'), ('"ground"', '"GROUND"'), ('"wall"', '"brick"'), ('"air"', '"tree"')]


def test_the_scores_are_those_of_the_shared_classes_alone(
    own_recipe: OwnRecipe, own_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard.of(load_recipe(own_recipe(*MODEL, file="other.toml")), (64, 48))
    dataset = open_dataset(own_recipe(), own_tree)  # ground, wall, air
    frames = dataset.frames("val")
    predictions = {
        frame.image: np.random.default_rng(place).integers(0, 3, (48, 64), np.uint8)  # GROUND, brick, tree
        for place, frame in enumerate(frames)
    }
    sure = np.full((48, 64), 255, np.uint8)
    monkeypatch.setattr(evaluation, "predict_file_with_confidence", lambda _, file: (None, (predictions[file], sure)))
    monkeypatch.setattr(evaluation, "frame_threads", lambda engine: 1)
    engine = SimpleNamespace(card=card, size="native", tta=False, has_confidence=True)
    result = evaluation.evaluate(engine, dataset, "val", renamed={"brick": "wall"})

    truth = np.stack([np.asarray(Image.open(frame.label)) for frame in frames])  # 10, 20, 30 and void 99
    predicted = np.stack([predictions[frame.image] for frame in frames])
    counted = truth <= 20  # air and void are not
    assert result.class_names == ["ground", "wall"]
    for place, value in enumerate((10, 20)):
        hit, mine, seen = (truth == value) & (predicted == place), truth == value, counted & (predicted == place)
        assert result.scores.iou[place] == hit.sum() / (mine | seen).sum()
        assert result.scores.accuracy[place] == hit.sum() / mine.sum()
    assert result.scores.pixel_accuracy == (truth == 10 * (predicted + 1))[counted].mean()
    assert result.scores.counts.sum() == counted.sum()
    assert result.scores.counts[:, 2].sum() == (counted & (predicted == 2)).sum()  # trees, which the recipe has not
    assert result.confidence is not None  # the mIoU of all pixels is the same from its counts
    assert result.confidence.most_certain(1) == pytest.approx((1 - result.scores.pixel_accuracy, result.scores.miou))
    assert result.data_notes == [
        "not scored, as the model does not know them: air",
        "errors wherever the model of other predicts them, as own does not know them: tree",
    ]


def test_several_classes_of_a_model_may_be_one_of_the_recipe(own_recipe: OwnRecipe) -> None:
    shared = shared_classes(["brick", "stone", "air"], load_recipe(own_recipe()), {"brick": "wall", "stone": "wall"})
    assert shared is not None
    assert (shared.names, shared.not_scored, shared.unknown) == (["wall", "air"], ["ground"], [])
    assert shared.of_model[:4].tolist() == [0, 0, 1, 2]
    assert shared.of_recipe[[0, 1, 2, 255]].tolist() == [255, 0, 1, 255]


def test_a_recipe_says_what_it_calls_the_classes_of_other_models(own_recipe: OwnRecipe) -> None:
    recipe = load_recipe(own_recipe(("[training]", '[map]\nbrick = "wall"\ntree = "air"\n\n[training]')))
    shared = shared_classes(["brick", "soil"], recipe)
    assert shared is not None
    assert (shared.names, shared.unknown) == (["wall"], ["soil"])
    overruled = shared_classes(["brick", "soil"], recipe, {"brick": "ground"})
    assert overruled is not None
    assert overruled.names == ["ground"]
    with pytest.raises(UsageError, match="map: 'roof' is no class"):
        load_recipe(own_recipe(("[training]", '[map]\nbrick = "roof"\n\n[training]')))


def test_the_same_classes_need_no_mapping_and_no_shared_class_is_an_error(own_recipe: OwnRecipe) -> None:
    recipe = load_recipe(own_recipe())
    assert shared_classes(["ground", "wall", "air"], recipe) is None
    reordered = shared_classes(["wall", "air", "ground"], recipe)
    assert reordered is not None
    assert reordered.of_model[:3].tolist() == [1, 2, 0]
    with pytest.raises(UsageError, match=r"share no class by name.*--map MODELCLASS=RECIPECLASS"):
        shared_classes(["brick", "tree"], recipe)
    with pytest.raises(UsageError, match=r"--map: 'bric' is no class of the model .*did you mean 'brick'"):
        shared_classes(["brick", "tree"], recipe, {"bric": "wall"})
    with pytest.raises(UsageError, match=r"--map: 'wal' is no class of own .*did you mean 'wall'"):
        shared_classes(["brick", "tree"], recipe, {"brick": "wal"})
