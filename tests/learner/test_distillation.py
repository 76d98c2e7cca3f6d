"""Soft targets of a teacher: their loss, what the teacher sees, and that nothing of it stays in the learner."""

from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import load_learner
from torch import Tensor

from linknet_fastai import linknet_learner, segmentation_dls
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.learner.distillation import soft_target_loss
from linknet_fastai.learner.learner import LinkNetLearner
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose images are normalized otherwise, and whose head is not that of a network that learns from it."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    card = ModelCard.of(load_recipe("street"), (96, 72), encoder="test_resnet", decoder="pixelshuffle")
    card = card.model_copy(update={"mean": HALF, "std": HALF})
    save_model(LinkNet(11, "test_resnet", "pixelshuffle", pretrained=False), card, file)
    return file


@pytest.fixture(scope="module")
def dls(street_data: Path) -> DataLoaders:
    return segmentation_dls("street", street_data, size="64x48", bs=4, workers=0, device="cpu")


def learner(dls: DataLoaders, **settings: object) -> LinkNetLearner:
    torch.manual_seed(0)
    return linknet_learner(dls, encoder="test_resnet", pretrained=False, precision="fp32", lr=1e-3, **settings)


def trained_head(learn: LinkNetLearner, *callbacks: Callback) -> Tensor:
    dls = learn.dls
    learn.epoch_seed.epochs_before = dls.train.epoch = 0
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=callbacks)
    return learn.model.head[-1].weight.detach().clone()


def test_the_loss_is_the_weighted_divergence_of_softened_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, soft = torch.randn(2, 2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = VOID
    weight, temperature, total, weights = torch.tensor([1.0, 2.0, 5.0]), 3.0, 0.0, 0.0
    for frame, row, column in (labels != VOID).nonzero().tolist():
        p = (logits[frame, :, row, column] / temperature).softmax(0)
        q = (soft[frame, :, row, column] / temperature).softmax(0)
        pixel = weight[labels[frame, row, column]]
        total += pixel * (q * (q / p).log()).sum()
        weights += pixel
    expected = temperature**2 * total / weights
    measured = soft_target_loss(logits, soft, labels, weight, temperature)
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=1e-6)
    assert soft_target_loss(soft, soft, labels, weight).item() == pytest.approx(0, abs=1e-6)
    assert soft_target_loss(logits, soft, torch.full_like(labels, VOID)).item() == 0


def test_the_teacher_sees_the_same_images_in_its_own_normalization(dls: DataLoaders, teacher: Path) -> None:
    learn, seen = learner(dls, teacher=teacher), []
    learn.soft_targets.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images, added = [], []

    def note(callback: Callback) -> None:
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (learn.card.mean, learn.card.std))
        images.append(learn.x.as_subclass(Tensor) * std + mean)

    def note_loss(callback: Callback) -> None:
        labels, weight = learn.y.as_subclass(Tensor), learn.loss_func.func.weight
        with torch.no_grad():
            soft = learn.soft_targets.teacher((images[-1] - 0.5) / 0.5)
        seen.pop()
        plain = learn.loss_func(learn.pred.detach(), learn.y)
        apart = soft_target_loss(learn.pred.detach().as_subclass(Tensor), soft, labels, weight)
        added.append((learn.loss.item(), (plain + learn.soft_targets.share * apart).item()))

    class Notes(Callback):
        order, run_valid = 20, False

    trained_head(learn, Notes(before_batch=note, after_loss=note_loss))
    assert len(seen) == len(images) == 2
    for given, image in zip(seen, images, strict=True):
        torch.testing.assert_close(given, (image - 0.5) / 0.5)
    for recorded, expected in added:
        assert recorded == pytest.approx(expected, rel=1e-4)


def test_soft_targets_change_what_is_learned_by_their_share(dls: DataLoaders, teacher: Path) -> None:
    alone = trained_head(learner(dls))
    assert torch.equal(trained_head(learner(dls, teacher=teacher, teacher_share=0)), alone)
    warm = learner(dls, teacher=teacher, teacher_temperature=4.0)
    assert (warm.soft_targets.share, warm.soft_targets.temperature) == (0.5, 4)
    learn = learner(dls, teacher=teacher)
    before = {name: value.clone() for name, value in learn.soft_targets.teacher.state_dict().items()}
    assert not torch.equal(trained_head(learn), alone)
    after = learn.soft_targets.teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_exported_learner_is_without_its_teacher(dls: DataLoaders, teacher: Path, tmp_path: Path) -> None:
    with_teacher, alone = learner(dls, teacher=teacher), learner(dls)
    for name, learn in {"with": with_teacher, "alone": alone}.items():
        learn.path = tmp_path
        learn.export(f"{name}.pkl")
    sizes = [(tmp_path / f"{name}.pkl").stat().st_size for name in ("with", "alone")]
    assert sizes[0] - sizes[1] < 5000
    assert load_learner(tmp_path / "with.pkl").soft_targets.teacher is None


def test_a_teacher_of_other_classes_is_refused(dls: DataLoaders, tmp_path: Path) -> None:
    card = ModelCard.of(load_recipe("cityscapes"), (64, 48), encoder="test_resnet")
    save_model(LinkNet(19, "test_resnet", pretrained=False), card, tmp_path / "model.safetensors")
    message = r"^--teacher: .*model\.safetensors has the 19 classes of cityscapes, not the 11 of street; .*$"
    with pytest.raises(UsageError, match=message):
        learner(dls, teacher=tmp_path / "model.safetensors")
