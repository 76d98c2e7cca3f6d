"""Presets: what is shipped, what a user's own may contain, and the precedence of settings."""

from pathlib import Path

import pytest
import torch

from linknet_fastai.config.presets import load_preset, preset_names, settings_for
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.augmentation import AugmentBatch
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.learner import linknet_learner
from linknet_fastai.model.linknet import LinkNet


def write(folder: Path, text: str) -> Path:
    (file := folder / "mine.toml").write_text(text)
    return file


def test_the_presets_of_the_paper_the_course_and_ours_are_shipped() -> None:
    assert preset_names() == ["best", "course", "course-modified", "paper"]
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert len(preset.title) > 10


@pytest.mark.parametrize(
    ("name", "optimizer", "schedule", "decoder", "augmented"),
    [
        ("paper", torch.optim.RMSprop, "step", "deconv", False),
        ("course", torch.optim.Adam, "cosine", "deconv", True),
        ("course-modified", torch.optim.AdamW, "one-cycle", "pixelshuffle", True),
    ],
)
def test_a_preset_trains_as_its_source_does(
    name: str, optimizer: type, schedule: str, decoder: str, augmented: bool, street_data: Path
) -> None:
    dls = segmentation_dls("street", street_data, preset=name, size="64x48", bs=2, workers=0, device="cpu")
    assert dls.settings.schedule == schedule
    assert dls.settings.class_weights == "log"
    learn = linknet_learner(dls, pretrained=False)
    learn.create_opt()
    assert type(learn.opt.opt) is optimizer  # Adam is not AdamW: fastai's is
    same = LinkNet(11, decoder=decoder, pretrained=False).state_dict()
    assert {key: value.shape for key, value in learn.model.state_dict().items()} == {
        key: value.shape for key, value in same.items()
    }
    augment = next(transform for transform in dls.train.after_batch.fs if isinstance(transform, AugmentBatch))
    assert augmented == (augment.flip or augment.color > 0 or augment.scale != (1, 1))


def test_the_papers_rate_is_the_authors() -> None:
    assert load_preset("paper").settings["lr"] == 5e-4


def test_an_option_takes_precedence_over_a_named_preset_and_that_over_the_recipe(
    street_data: Path, tmp_path: Path
) -> None:
    dataset = open_dataset("street", street_data)
    mine = write(tmp_path, 'epochs = 5\nlr = 0.5\nclass_weights = "none"\n')
    settings, origins = settings_for(dataset.recipe, dataset.layout, {"preset": str(mine), "lr": 0.25})
    assert (settings.lr, settings.epochs, settings.class_weights) == (0.25, 5, "none")
    assert (settings.pretrained, origins["pretrained"]) == (False, "recipe")
    assert (origins["lr"], origins["epochs"], origins["preset"]) == ("command line", "preset mine", "command line")


def test_the_defaults_are_those_of_best() -> None:
    best = load_preset("best").settings
    assert {"optimizer", "lr", "class_weights", "relight", "encoder_lr"} <= best.keys()
    assert Settings(**best) == Settings()


def test_without_a_named_preset_no_preset_file_is_read(
    street_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = open_dataset("street", street_data)
    monkeypatch.setattr("linknet_fastai.config.presets.preset_folder", lambda: tmp_path)
    settings, origins = settings_for(dataset.recipe, dataset.layout, {"preset": None})
    assert (settings.preset, settings.optimizer, origins["optimizer"]) == ("best", "muon", "default")
    assert (settings.pretrained, origins["pretrained"]) == (False, "recipe")


def test_a_preset_that_the_recipe_names_ranks_below_the_recipes_own_values(street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    recipe = dataset.recipe.model_copy(update={"training": {"preset": "paper", "lr": 0.25}})
    settings, origins = settings_for(recipe, dataset.layout, {})
    assert (settings.preset, settings.lr, settings.optimizer) == ("paper", 0.25, "rmsprop")
    assert (origins["preset"], origins["lr"], origins["optimizer"]) == ("recipe", "recipe", "preset paper")
    settings, origins = settings_for(recipe, dataset.layout, {"preset": "best"})
    assert (settings.lr, origins["lr"]) == (5e-3, "preset best")


def test_naming_best_on_camvid_changes_nothing(segnet_tree: Path) -> None:
    dataset = open_dataset("camvid", segnet_tree)
    unnamed, _ = settings_for(dataset.recipe, dataset.layout, {})
    named, _ = settings_for(dataset.recipe, dataset.layout, {"preset": "best"})
    assert named == unnamed


def test_a_preset_of_ones_own_may_build_on_a_shipped_one(tmp_path: Path) -> None:
    preset = load_preset(write(tmp_path, 'base = "course"\nlr = 0.125\n'))
    assert preset.settings == load_preset("course").settings | {"lr": 0.125}
    assert preset.title == "mine"
    (tmp_path / "best.toml").write_text('base = "best"\nlr = 0.125\n')  # of the same name
    assert load_preset(tmp_path / "best.toml").settings == load_preset("best").settings | {"lr": 0.125}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1", "unknown key 'learning_rate'"),
        ("lr = -1", "lr"),
        ("scale = [2.0, 0.5]", "begin with the smaller"),
        ("scale = [0.0, 1.0]", "scale"),
        ('base = "mine"', "base: 'mine' is not a shipped preset"),
        ("lr = ", "cannot read this preset"),
        ('preset = "best"', "unknown key 'preset'"),
    ],
)
def test_an_invalid_preset_is_reported_by_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_preset(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_reported_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'course'"):
        load_preset("cours")
    with pytest.raises(UsageError, match="shipped are best, course, course-modified, paper"):
        load_preset("xyz")
    with pytest.raises(UsageError, match="no such preset file"):
        load_preset(tmp_path / "gone.toml")
