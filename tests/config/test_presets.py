"""Presets: what is shipped, what one of a user's own may say, and what goes before what."""

from pathlib import Path

import pytest
import torch

from linknet_fastai.config.presets import load_preset, preset_names, settings_for
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.augmentation import AugmentBatch
from linknet_fastai.data.dataset import open_dataset
from linknet_fastai.data.loaders import segmentation_dls
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


def test_what_is_said_goes_before_a_named_preset_and_that_before_the_recipe(
    street_data: Path, tmp_path: Path
) -> None:
    dataset = open_dataset("street", street_data)
    mine = write(tmp_path, 'epochs = 5\nlr = 0.5\nclass_weights = "none"\n')
    settings, origins = settings_for(dataset.recipe, dataset.layout, {"preset": str(mine), "lr": 0.25})
    assert (settings.lr, settings.epochs, settings.class_weights) == (0.25, 5, "none")
    assert (settings.pretrained, origins["pretrained"]) == (False, "recipe")
    assert (origins["lr"], origins["epochs"], origins["preset"]) == ("command line", "preset mine", "command line")


def test_the_preset_nobody_names_is_best_and_stands_behind_the_recipe(street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    settings, origins = settings_for(dataset.recipe, dataset.layout, {})
    best = load_preset("best").settings
    assert settings.preset == "best"
    assert (settings.pretrained, origins["pretrained"]) == (False, "recipe")
    assert {"optimizer", "lr"} <= best.keys()
    for name in best.keys() - dataset.recipe.training.keys():
        assert origins[name] == "preset best"
        assert settings.model_dump()[name] == Settings(**best).model_dump()[name]


def test_naming_best_on_camvid_changes_nothing(segnet_tree: Path) -> None:
    dataset = open_dataset("camvid", segnet_tree)
    unnamed, _ = settings_for(dataset.recipe, dataset.layout, {})
    named, _ = settings_for(dataset.recipe, dataset.layout, {"preset": "best"})
    assert named == unnamed


def test_a_preset_of_ones_own_may_stand_on_a_shipped_one(tmp_path: Path) -> None:
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
        ('base = "mine"', "base: 'mine' is no shipped preset"),
        ("lr = ", "cannot read this preset"),
        ('preset = "best"', "unknown key 'preset'"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused_by_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_preset(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_preset_that_is_not_there_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'course'"):
        load_preset("cours")
    with pytest.raises(UsageError, match="shipped are best, course, course-modified, paper"):
        load_preset("xyz")
    with pytest.raises(UsageError, match="no such preset file"):
        load_preset(tmp_path / "gone.toml")
