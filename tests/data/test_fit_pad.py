"""`fit = "pad"`: frames of several shapes keep their aspect ratio, from the loaders to every engine's class map."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.images import VOID, resize_image, resize_labels
from linknet_fastai.data.augmentation import PADDING
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.export.contracts import Interface, contract_files
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model

# What becomes of frames inside of 96x72; the last is too flat for a network.
SHAPES = {(64, 48): (96, 72), (120, 60): (96, 48), (40, 80): (36, 72), (128, 30): (96, 33)}
UNCHANGED = {"flip": False, "scale": (1, 1), "color": 0, "relight": 0}
COLORS = {10: (200, 0, 0), 20: (0, 200, 0), 30: (0, 0, 200), 99: (90, 90, 90)}


@pytest.fixture
def mixed(own_recipe: Callable[..., Path], tmp_path: Path, save_array: Callable) -> tuple[Path, Path]:
    """A recipe, and twelve frames of four shapes that show their classes in colors."""
    folder = tmp_path / "mixed"
    for number, (width, height) in enumerate([*SHAPES] * 3):
        blocks = np.random.default_rng(number).choice([*COLORS], (3, 4)).astype(np.uint8)
        ids = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))
        save_array(
            np.array([COLORS.get(value, (0, 0, 0)) for value in range(256)], np.uint8)[ids],
            folder / f"frames/{number}.png",
        )
        save_array(ids, folder / f"masks/{number}.png")
    return own_recipe(), folder


@pytest.mark.parametrize("cache", [True, False])
def test_a_training_batch_has_whole_frames_beside_padding_and_void(
    mixed: tuple[Path, Path], tmp_path: Path, cache: bool
) -> None:
    dls = segmentation_dls(
        *mixed, size="96x72", fit="pad", cache=cache, cache_dir=tmp_path / "caches", workers=0, bs=5, **UNCHANGED
    )
    dataset, seen = open_dataset(*mixed), 0
    mean, std = (
        torch.tensor(part).view(3, 1, 1) for part in (ModelCard.of(dls.recipe, dls.size).mean, (0.229, 0.224, 0.225))
    )
    for images, labels in dls.train:
        assert images.shape[2:] == labels.shape[1:] == (72, 96)
        for image, truth in zip(images, labels, strict=True):
            frame = dls.train_ds.items[dls.train.order[seen]]
            original, labeled = Image.open(frame.image), dataset.read_label(frame.label)
            width, height = SHAPES[original.size]
            shown = ((image * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()
            padding = (shown == PADDING).all(-1)
            rows, columns = np.nonzero(~padding.all(1))[0], np.nonzero(~padding.all(0))[0]
            place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert np.array_equal(shown[place], np.asarray(resize_image(original, (width, height))))
            assert np.array_equal(truth[place], resize_labels(labeled, (width, height)))
            outside = np.ones_like(padding)
            outside[place] = False
            assert padding[outside].all()
            assert (truth.numpy()[outside] == VOID).all()
            seen += 1
    assert seen == 5  # of seven, as the last batch of two is incomplete


def test_validation_sees_the_frame_alone(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    dls = segmentation_dls(*mixed, fit="pad", size="96x72", cache_dir=tmp_path / "caches", workers=0)
    for (images, labels), frame in zip(dls.valid, dls.valid_ds.items, strict=True):
        size = Image.open(frame.image).size
        assert (labels.shape[:0:-1], images.shape[:1:-1]) == (size, SHAPES[size])


def test_a_prediction_is_of_the_frame_alone_and_has_its_size(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LinkNet(3, "test_resnet", pretrained=False).eval()
    card = ModelCard.of(load_recipe(mixed[0]), (96, 72), fit="pad", encoder="test_resnet")
    save_model(model, card, file := tmp_path / "model.safetensors")
    engine = open_engine(file, precision="fp32", device="cpu")
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (card.mean, card.std))
    for frame in open_dataset(*mixed).frames("val")[:4]:
        image = Image.open(frame.image)
        pixels = torch.from_numpy(np.array(resize_image(image, SHAPES[image.size]))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            logits = model((pixels - mean) / std)
        resized = torch.nn.functional.interpolate(logits, image.size[::-1], mode="bilinear")
        assert (engine.predict_channels(image) == resized.argmax(1)[0].numpy()).mean() > 0.99
    native = open_engine(file, precision="fp32", device="cpu", size="native")
    assert native.seen(image).shape[1::-1] == image.size


def test_files_for_fixed_size_graphs_say_how_to_pad_before_them() -> None:
    card = ModelCard.of(load_recipe("street"), (480, 360))
    interface = Interface((480, 360), output="probabilities")
    squished, padded = (contract_files(each, interface) for each in (card, card.model_copy(update={"fit": "pad"})))
    assert "the aspect ratio is not kept" in squished["preprocess.json"]
    assert "with the color [124, 116, 104], and cut it off the outputs" in padded["preprocess.json"]
    assert "maintain-aspect-ratio=0" in squished["nvinfer.txt"]
    assert "maintain-aspect-ratio=1" in padded["nvinfer.txt"]
    assert "-vf scale=480:360 -pix_fmt" in squished["example.cpp"]
    assert "decrease,pad=480:360:0:0:0x7c7468 -pix_fmt" in padded["example.cpp"]
    assert "pad them before it" in padded["isaac_ros.yaml"]
