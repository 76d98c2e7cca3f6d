"""Settings: how they are read, which values are errors, which layer wins, and what describes them."""

import typing
import warnings
from pathlib import Path

import pytest

from linknet_fastai.config.layers import check_training_table, resolve_settings
from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.settings import FIRST_OF_GROUP, Settings, group_of
from linknet_fastai.config.size import format_size, parse_size
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.open import open_dataset


@pytest.mark.parametrize(
    ("text", "size"), [("480x360", (480, 360)), ("33x16384", (33, 16384)), ((96, 72), (96, 72)), ([96, 72], (96, 72))]
)
def test_a_size_is_width_by_height(text: object, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "480", "480x", "x360", "480X360", "480 x 360", "480x360x3", "-480x360", "4.8e2x360", "480,360"),
        *(480, None, (480,), (480, 360, 3), ("a", "b")),
        *("32x480", "480x32", "16385x480", "0x0"),
    ],
)
def test_what_is_not_a_size_is_an_error(text: object) -> None:
    with pytest.raises(ValueError, match=r"WIDTHxHEIGHT|between 33 and 16384"):
        parse_size(text)


@pytest.mark.parametrize(("text", "example"), [("640", "640x480"), (512, "512x384"), ("wide", "480x360")])
def test_a_side_alone_is_answered_by_a_size(text: object, example: str) -> None:
    with pytest.raises(ValueError, match=f"write WIDTHxHEIGHT, as in {example}$"):
        parse_size(text)


def test_a_size_is_written_as_it_is_read() -> None:
    assert format_size((480, 360)) == "480x360"
    assert Settings(size="480x360").model_dump()["size"] == "480x360"


def test_a_later_layer_wins_and_every_value_has_its_origin() -> None:
    settings, origins = resolve_settings(
        ("recipe", {"lr": 0.1, "bs": 4, "epochs": 7}),
        ("preset", {"lr": 0.2, "bs": 6}),
        ("command line", {"lr": 0.3}),
    )
    assert (settings.lr, settings.bs, settings.epochs, settings.seed) == (0.3, 6, 7, 0)
    expected = {"lr": "command line", "bs": "preset", "epochs": "recipe", "seed": "default"}
    assert {name: origins[name] for name in expected} == expected
    assert set(origins) == set(Settings.model_fields)


def test_none_means_not_given_but_false_and_zero_are_values() -> None:
    settings, origins = resolve_settings(
        ("recipe", {"pretrained": True, "lr": 0.1, "workers": 4}),
        ("command line", {"pretrained": False, "lr": None, "workers": 0}),
    )
    assert (settings.pretrained, settings.lr, settings.workers) == (False, 0.1, 0)
    assert (origins["pretrained"], origins["lr"], origins["workers"]) == ("command line", "recipe", "command line")


def test_the_size_of_the_layout_takes_precedence_over_the_recipes(segnet_tree: Path, fastai_tree: Path) -> None:
    sizes = {}
    for tree in (segnet_tree, fastai_tree):
        dataset = open_dataset("camvid", tree)
        settings, origins = settings_for(dataset.recipe, dataset.layout, {})
        sizes[tree.name] = (settings.size, origins["size"])
    assert sizes == {"segnet": ((480, 360), "recipe's layout"), "camvid": ((768, 576), "recipe")}


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("epochs", 0, "--epochs"),
        ("epochs", 1.5, "--epochs"),
        ("size", "480", "--size"),
        ("bs", 1, "--bs"),
        ("lr", 0, "--lr"),
        ("lr", -1.0, "--lr"),
        ("lr", "fast", "--lr"),
        ("lr", float("nan"), "--lr"),
        ("lr", float("inf"), "--lr"),
        ("decoder", "nosuch", "--decoder"),
        ("class_weights", "all", "--class-weights"),
        ("optimizer", "lion", "--optimizer"),
        ("schedule", "linear", "--schedule"),
        ("precision", "fp8", "--precision"),
        ("device", "tpu", "--device"),
        ("device", "cuda:", "--device"),
        ("seed", -1, "--seed"),
        ("seed", 2**32, "--seed"),
        ("workers", -1, "--workers"),
    ],
)
def test_an_invalid_value_is_reported_by_option_and_origin(name: str, value: object, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(("recipe", {"bs": 4}), ("command line", {name: value}))
    message = str(caught.value)
    assert message.startswith(f"{option} (from the command line): {name}")
    assert "\n" not in message


def test_the_error_of_a_learning_rate_names_valid_ones() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(("command line", {"lr": "fast"}))
    assert "constrained" not in str(caught.value)  # pydantic's name for the branch of the union, not the user's
    assert "auto" in str(caught.value)


def test_the_origin_of_an_invalid_value_is_the_layer_that_has_it() -> None:
    with pytest.raises(UsageError, match="from the recipe"):
        resolve_settings(("recipe", {"bs": 1}), ("command line", {"lr": 0.1}))


@pytest.mark.parametrize("lr", ["auto", "0.01", 0.01])
def test_the_learning_rate_is_a_number_or_auto(lr: object) -> None:
    settings, _ = resolve_settings(("command line", {"lr": lr}))
    assert settings.lr == ("auto" if lr == "auto" else 0.01)


def test_an_unknown_setting_in_a_recipe_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown key 'learning_rate'"):
        check_training_table({"learning_rate": 0.1})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().lr = 1.0


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_in_one_line_that_names_its_choices(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert "\n" not in field.description
    assert len(field.description) < 130
    if typing.get_origin(field.annotation) is typing.Literal:
        assert all(choice in field.description for choice in typing.get_args(field.annotation))


def test_every_setting_is_in_a_group() -> None:
    groups = ["Data", "Network", "Training", "Augmentation", "Machine"]
    assert [*dict.fromkeys(group_of(name) for name in Settings.model_fields)] == groups == [*FIRST_OF_GROUP.values()]
    assert [group_of(name) for name in ("workers", "bs", "crop")] == [groups[4], groups[2], groups[0]]


@pytest.mark.parametrize(("given", "device"), [("0", "cuda:0"), (1, "cuda:1"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_a_device_may_be_the_number_of_a_gpu(given: object, device: str) -> None:
    assert Settings(device=given).device == device


def test_the_old_name_of_a_setting_is_read_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="'colour' is now called 'color'"):
        settings, origins = resolve_settings(("recipe", {"colour": 0.125}))
    assert (settings.color, origins["color"]) == (0.125, "recipe")
    with pytest.warns(FutureWarning, match="'colour' is now called 'color'"):
        check_training_table({"colour": 0.125})
    with warnings.catch_warnings(action="error"):
        assert Settings(colour=0.125).color == 0.125  # as in the run.toml of an older version
