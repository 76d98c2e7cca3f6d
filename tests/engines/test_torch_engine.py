"""The torch engine's network is the model with its batch norms folded away, and the model itself stays as it is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines.torch_engine import Predictor, best_classes, classes_and_confidence
from linknet_fastai.model.batch_norm import fold_batch_norms
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet

SIZE = (96, 72)


def seen_frames(model: nn.Module) -> nn.Module:
    """Let the batch norms see frames, so that folding them changes every weight."""
    frames = np.stack([draw_scene(seed, SIZE)[0] for seed in range(4)])
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LinkNet:
    torch.manual_seed(0)
    return seen_frames(LinkNet(11, pretrained=False))


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return ModelCard.of(load_recipe("street"), SIZE)


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("decoder", ["deconv", "pixelshuffle"])
@pytest.mark.parametrize(
    ("encoder", "left"), [("resnet18", 0), ("mobilenetv3_small_100", 0), ("regnety_002", 0), ("convnext_atto", 0)]
)
def test_folded_networks_give_the_same_logits(encoder: str, left: int, decoder: str) -> None:
    torch.manual_seed(0)
    network = seen_frames(LinkNet(5, encoder, decoder, pretrained=False))
    folded = fold_batch_norms(network)
    after_shuffles = 5 if decoder == "pixelshuffle" else 0  # a batch norm after a shuffle follows no convolution
    assert batch_norms(folded) <= left + after_shuffles < batch_norms(network)
    images = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected, given = network(images), folded(images)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_batch_norm_that_follows_no_convolution_directly_is_left(model: LinkNet) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.norm(self.first(images).relu())

    assert batch_norms(fold_batch_norms(Odd())) == 1


def test_a_network_that_would_not_be_the_same_is_left_as_it_is() -> None:
    class Branching(nn.Module):
        """Uses a convolution's output twice: with batch norm and bare."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            nn.init.constant_(self.norm.bias, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            feature = self.first(images)
            return self.norm(feature) - feature

    network = Branching()
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(fold_batch_norms(network)(images), network.eval()(images))


def test_class_maps_are_those_of_the_bare_network(model: LinkNet, card: ModelCard) -> None:
    predictor = Predictor(model, card, "cpu", "fp32")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
    for seed in range(4):
        frame = draw_scene(seed, SIZE)[0]
        batch = (torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None] / 255 - mean) / std
        with torch.no_grad():
            expected = model(batch).argmax(1)[0].numpy()
        assert (predictor(frame) == expected).mean() >= 0.999


def test_the_model_stays_as_it_is(model: LinkNet, card: ModelCard) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Predictor(model, card, "cpu", "bf16")(draw_scene(0, SIZE)[0])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_are_cast_once(model: LinkNet, card: ModelCard) -> None:
    predictor = Predictor(model, card, "cpu", "bf16")
    assert {parameter.dtype for parameter in predictor.model.parameters()} == {torch.bfloat16}
    exact = Predictor(model, card, "cpu", "fp32")
    frame = draw_scene(0, SIZE)[0]
    assert (predictor(frame) == exact(frame)).mean() > 0.95


@pytest.mark.parametrize("classes", [2, 12, 13, 34])
def test_the_best_class_at_another_size_is_that_of_all_classes_together(classes: int) -> None:
    logits = torch.randn(2, classes, 6, 9, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, (13, 20), mode="bilinear").argmax(1)
    assert torch.equal(best_classes(logits, (13, 20)), expected)
    assert torch.equal(best_classes(logits, (6, 9)), logits.argmax(1))
    assert not best_classes(torch.zeros(1, classes, 3, 4), (7, 9)).any()  # of equal ones the first


@pytest.mark.parametrize("classes", [2, 12, 13, 34])
@pytest.mark.parametrize("size", [(13, 20), (6, 9)])
@pytest.mark.parametrize("temperature", [0.3, 1, 2.5])
def test_the_confidence_is_the_probability_of_the_best_class(
    classes: int, size: tuple[int, int], temperature: float
) -> None:
    logits = 9 * torch.randn(2, classes, 6, 9, generator=torch.Generator().manual_seed(0)) - 20
    resized = F.interpolate(logits, size, mode="bilinear")
    best, confidence = classes_and_confidence(logits, size, temperature)
    assert torch.equal(best, resized.argmax(1))
    expected = 255 * (resized.double() / temperature).softmax(1).max(1).values
    assert (confidence - expected).abs().max() < 0.501


def test_asking_for_the_confidence_changes_no_class(model: LinkNet, card: ModelCard) -> None:
    frame = draw_scene(0, (131, 97))[0]
    for tta in (False, True):
        engine = Predictor(model, card, "cpu", tta=tta)
        channels, confidence = engine.predict_with_confidence(frame)
        assert np.array_equal(channels, engine.predict_channels(frame))
        assert (confidence.shape, confidence.dtype) == ((97, 131), np.uint8)
        assert confidence.min() >= 255 // 11
        cooler = Predictor(model, card.model_copy(update={"temperature": 0.2}), "cpu", tta=tta)
        assert cooler.predict_with_confidence(frame)[1].mean() > confidence.mean() + 5


def test_tta_averages_the_softmax_over_flips_and_scales(model: LinkNet, card: ModelCard) -> None:
    image = draw_scene(3, SIZE)[0]
    engine = Predictor(model, card, "cpu", "fp32", tta=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
    batch = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - mean) / std
    total = 0
    with torch.no_grad():
        for width, height in ((72, 54), (96, 72), (120, 90)):
            scaled = F.interpolate(batch, (height, width), mode="bilinear", antialias=True)
            for flip in (False, True):
                logits = model(scaled.flip(-1) if flip else scaled)
                scores = F.interpolate(logits, SIZE[::-1], mode="bilinear").softmax(1)
                total = total + (scores.flip(-1) if flip else scores)
    best = total.topk(2, 1).values[0]
    sure = ((best[0] - best[1]) > 1e-4).numpy()
    predicted = engine(image)
    assert sure.mean() > 0.9
    assert np.array_equal(predicted[sure], total.argmax(1)[0].numpy()[sure])
    assert not np.array_equal(predicted, Predictor(model, card, "cpu", "fp32")(image))
    assert "flips and scales" in str(engine)


def test_a_mirrored_frame_gives_the_mirrored_classes_with_tta(model: LinkNet, card: ModelCard) -> None:
    image = draw_scene(4, SIZE)[0]
    engine = Predictor(model, card, "cpu", "fp32", tta=True)
    mirrored = engine(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert (engine(image)[:, ::-1] == mirrored).mean() > 0.999


@pytest.mark.parametrize("size", [(33, 33), (301, 203)])
def test_tta_takes_any_size(size: tuple[int, int], model: LinkNet, card: ModelCard) -> None:
    engine = Predictor(model, card, "cpu", size="native", tta=True)
    assert engine(draw_scene(5, size)[0]).shape == size[::-1]
