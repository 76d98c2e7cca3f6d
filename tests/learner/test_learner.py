"""The library from a notebook: a Learner that behaves as fastai users expect."""

from pathlib import Path
from unittest.mock import Mock

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import trainable_params
from PIL import Image

from linknet_fastai import linknet_learner, segmentation_dls
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.data.dataset import open_dataset
from linknet_fastai.learner.callbacks import AccumulateGradients, SkipVoidBatches
from linknet_fastai.learner.learner import compile_network, learner_from_settings
from linknet_fastai.learner.optimizers import OPTIMIZERS, Muon
from linknet_fastai.learner.schedules import fit_schedule
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import save_model

mpl.use("Agg")


@pytest.fixture
def dls(street_data) -> DataLoaders:
    return segmentation_dls("street", street_data, size="64x48", bs=4, workers=0, device="cpu")


def test_a_notebook_session_works_from_data_to_export(dls, street_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = linknet_learner(dls, pretrained=False)
    assert isinstance(dls, DataLoaders)
    assert isinstance(learn, Learner)
    assert learn.path != street_data
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with learn.no_bar():
        suggestion = learn.lr_find(num_it=20, show_plot=False)
        assert 1e-7 < suggestion.valley < 10
        after = learn.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), "lr_find must restore the weights"
        learn.fit_one_cycle(2, 1e-3)
    assert learn.recorder.metric_names == [
        "epoch",
        "train_loss",
        "valid_loss",
        "miou",
        "mean_accuracy",
        "pixel_accuracy",
        "time",
    ]
    assert len(learn.recorder.values) == 2
    plt.close("all")
    learn.show_results(max_n=2)
    assert [len(plt.figure(number).axes) for number in plt.get_fignums()] == [2]  # truth and prediction
    dls.show_batch(max_n=2)
    learn.export()
    loaded = load_learner(tmp_path / "export.pkl")
    frame = next((street_data / "val" / "images").glob("*.png"))
    with learn.no_bar(), loaded.no_bar():
        mask, channels, probabilities = learn.predict(frame)
        loaded_mask = loaded.predict(frame)[0]
    assert tuple(mask.shape) == (48, 64)
    assert tuple(probabilities.shape) == (11, 48, 64)
    assert torch.equal(torch.as_tensor(np.asarray(mask)), torch.as_tensor(np.asarray(loaded_mask)))
    assert set(np.unique(np.asarray(channels))) <= set(range(11))


def test_an_export_from_a_notebook_holds_no_path_of_the_data(dls, street_data, tmp_path):
    learn = linknet_learner(dls, pretrained=False, path=".")
    learn.export((tmp_path / "a.pkl").absolute())
    content = (tmp_path / "a.pkl").read_bytes()
    assert str(street_data).encode() not in content
    assert b"pathlib" not in content, "another system or Python could not load it"
    assert load_learner(tmp_path / "a.pkl").path == Path()


def test_what_a_user_gives_the_learner_goes_before_what_is_chosen_for_him(dls):
    loss = CrossEntropyLossFlat(axis=1, ignore_index=VOID)
    given = {"loss_func": loss, "opt_func": SGD, "moms": (0.9, 0.8, 0.9), "splitter": trainable_params, "lr": 0.5}
    learn = linknet_learner(dls, pretrained=False, **given)
    assert {name: getattr(learn, name) for name in given} == given
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)


def test_loaders_bring_their_accumulation(street_data, tmp_path):
    (preset := tmp_path / "slow.toml").write_text("accumulate = 3\n")
    dls = segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, device="cpu", preset=preset)
    assert linknet_learner(dls, pretrained=False).accumulate_gradients.n_acc == 6


def test_two_sources_of_the_encoders_weights_are_refused(street_data):
    dls = segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, device="cpu")
    with pytest.raises(UsageError, match="--init-from"):
        linknet_learner(dls, init_from="run", encoder_weights="weights.pth")


def test_validation_scores_at_the_label_maps_own_size(dls):
    learn = linknet_learner(dls, pretrained=False)
    with learn.no_bar():
        learn.validate()
    counted = int(learn.metrics[0].matrix.counts.sum())
    labels = [np.asarray(Image.open(item.label)) for item in dls.valid_ds.items]
    assert counted == sum(int((label != 11).sum()) for label in labels)


def test_class_weights_come_from_the_training_label_maps(dls):
    learn = linknet_learner(dls, pretrained=False, class_weights="log")
    share = dls.class_pixels / dls.class_pixels.sum()
    expected = (1 / torch.log(1.02 + share.double())).float()
    torch.testing.assert_close(learn.loss_func.func.weight, expected)
    assert linknet_learner(dls, pretrained=False, class_weights="none").loss_func.func.weight is None


@pytest.mark.parametrize(
    ("name", "kind", "decay"),
    [
        ("adamw", torch.optim.AdamW, 0.01),
        ("adam", torch.optim.Adam, 0),
        ("rmsprop", torch.optim.RMSprop, 0),
        ("sgd", torch.optim.SGD, 0),
        ("muon", Muon, 0.01),
    ],
)
def test_each_optimizer_is_what_its_name_says(dls, name, kind, decay):
    learn = linknet_learner(dls, pretrained=False, optimizer=name)
    learn.create_opt()
    assert type(learn.opt.opt) is kind
    assert all(group["weight_decay"] == decay for group in learn.opt.opt.param_groups)
    with learn.no_bar():
        fit_schedule(learn, "one-cycle", 1, 1e-3)
    assert all(group["weight_decay"] == decay for group in learn.opt.opt.param_groups)
    assert set(OPTIMIZERS) == {"muon", "adamw", "adam", "rmsprop", "sgd"}


def test_freezing_leaves_decoder_and_head_to_train(dls):
    learn = linknet_learner(dls, pretrained=False)
    learn.freeze()
    assert not any(weight.requires_grad for weight in learn.model.encoder.conv1.parameters())
    assert all(weight.requires_grad for weight in learn.model.head.parameters())


def test_a_batch_that_is_all_void_changes_no_weight(dls):
    learn = linknet_learner(dls, pretrained=False)
    learn.create_opt()
    before = learn.model.head[-1].weight.clone()

    def make_void(callback: Callback) -> None:
        callback.learn.yb = (torch.full_like(callback.learn.y, VOID),)

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=Callback(before_batch=make_void))
        assert torch.equal(before, learn.model.head[-1].weight)
        learn.remove_cb(SkipVoidBatches)
        learn.fit(1, 1e-2, cbs=Callback(before_batch=make_void))
    assert not torch.equal(before, learn.model.head[-1].weight), "weight decay alone moves them: the test is alive"


def test_init_from_takes_everything_or_all_but_the_head(dls, tmp_path):
    first = linknet_learner(dls, pretrained=False)
    save_model(first.model, first.card, tmp_path / "same.safetensors")
    second = linknet_learner(dls, init_from=tmp_path / "same.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    classes = tuple(entry.model_copy(update={"name": f"other {entry.name}"}) for entry in first.card.classes)
    other: ModelCard = first.card.model_copy(update={"classes": classes})
    save_model(first.model, other, tmp_path / "other.safetensors")
    third = linknet_learner(dls, init_from=tmp_path / "other.safetensors")
    assert torch.equal(first.model.blocks[0][0].weight, third.model.blocks[0][0].weight)
    assert not torch.equal(first.model.head[-1].weight, third.model.head[-1].weight)


def test_validation_and_predictions_run_in_inference_mode_and_training_does_not(dls):
    learn, modes = linknet_learner(dls, pretrained=False), set()

    def note(callback: Callback) -> None:
        modes.add((callback.learn.training, torch.is_inference_mode_enabled()))

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=Callback(after_pred=note))
        learn.get_preds(dl=dls.valid)
        learn.fit(1, 1e-3)  # what inference mode has left behind hinders no further training
    assert modes == {(True, False), (False, True)}
    assert not torch.is_inference_mode_enabled()


def test_accumulated_batches_make_one_step_like_one_large_batch(street_data):
    """Without batch norm's batch statistics two batches of 4 must move the weights as one of 8 does."""

    def trained(bs: int, batches: int) -> torch.Tensor:
        dls = segmentation_dls("street", street_data, size="64x48", bs=bs, workers=0, device="cpu")
        torch.manual_seed(0)
        learn = linknet_learner(dls, pretrained=False, precision="fp32", optimizer="sgd", class_weights="none")
        learn.add_cb(AccumulateGradients(batches, bs))
        learn.add_cb(Callback(before_batch=lambda callback: callback.learn.model.eval()))
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 0.1)
        return learn.model.head[-1].weight.detach().flatten()

    one_step = trained(8, 1)
    assert (trained(4, 2) - one_step).abs().max() < 1e-4
    assert (trained(4, 1) - one_step).abs().max() > 4e-4, "two steps end elsewhere: the test is alive"


def test_what_get_preds_gives_may_be_changed_in_place(dls):
    learn = linknet_learner(dls, pretrained=False)
    with learn.no_bar():
        predictions, targets = learn.get_preds(dl=dls.valid)
    targets[targets == VOID] = 0
    predictions += 1


def test_an_interrupted_batch_leaves_no_autocast_behind(dls):
    learn = linknet_learner(dls, pretrained=False, precision="bf16")

    def interrupt(*_: object) -> None:
        assert torch.is_autocast_enabled("cpu")
        raise KeyboardInterrupt

    learn.model.head.register_forward_pre_hook(interrupt)
    with learn.no_bar(), pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")


@pytest.fixture
def compiled_settings() -> Settings:
    return Settings(size="64x48", bs=4, pretrained=False, compile=True, device="cpu", lr=1e-3, workers=0)


def test_compile_keeps_the_weights_their_names_and_statistics(street_data, compiled_settings, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    learn = learner_from_settings(open_dataset("street", street_data), compiled_settings)
    plain = compiled_settings.model_copy(update={"compile": False})
    reference = learner_from_settings(open_dataset("street", street_data), plain)
    assert compiled == ["LinkNet"]
    assert learn.notes == []
    for name, value in reference.model.state_dict().items():
        assert torch.equal(value, learn.model.state_dict()[name]), name
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in learn.model.parameters())


def test_a_network_is_compiled_on_the_device_that_it_trains_on(street_data, compiled_settings, monkeypatch):
    learn = learner_from_settings(
        open_dataset("street", street_data), compiled_settings.model_copy(update={"compile": False})
    )
    learn.dls.device = torch.device("meta")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    moved = Mock(side_effect=RuntimeError("enough"))
    monkeypatch.setattr(type(learn.model), "to", moved)
    with pytest.raises(RuntimeError, match="enough"):
        compile_network(learn, (64, 48))
    assert moved.call_args.args == (torch.device("meta"),)


def test_compile_that_fails_leaves_the_network_as_it_is_and_says_why(street_data, compiled_settings, monkeypatch):
    def fail(module: torch.nn.Module) -> None:
        module._compiled_call_impl = Mock(side_effect=RuntimeError("no compiler here\nand more"))

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    learn = learner_from_settings(open_dataset("street", street_data), compiled_settings)
    assert learn.notes == ["--compile: trains without, torch.compile does not work here (no compiler here)"]
    assert learn.model._compiled_call_impl is None
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
