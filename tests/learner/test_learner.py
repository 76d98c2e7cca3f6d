"""The library from a notebook: a Learner that behaves as fastai users expect."""

from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from fastai.torch_core import trainable_params
from fastai.vision.core import imagenet_stats
from PIL import Image

from linknet_fastai import Predictor, linknet_learner, segmentation_dls
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.learner import OF_LOADERS, LinkNetLearner, learner_from_settings
from linknet_fastai.learner.optimizers import OPTIMIZERS, Muon
from linknet_fastai.learner.schedules import fit_schedule
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import load_model, save_model

mpl.use("Agg")
TINY_ENCODER = "test_resnet.r160_in1k"


@pytest.fixture
def dls(street_data) -> DataLoaders:
    return segmentation_dls("street", street_data, size="64x48", bs=4, workers=0, device="cpu", encoder=TINY_ENCODER)


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


def test_an_export_from_a_notebook_contains_no_path_of_the_data(dls, street_data, tmp_path):
    learn = linknet_learner(dls, pretrained=False, path=".")
    learn.export((tmp_path / "a.pkl").absolute())
    content = (tmp_path / "a.pkl").read_bytes()
    assert str(street_data).encode() not in content
    assert b"pathlib" not in content, "a path could not be loaded on another system or in another Python"
    assert load_learner(tmp_path / "a.pkl").path == Path()


def test_what_a_user_gives_replaces_what_is_chosen(dls):
    loss = CrossEntropyLossFlat(axis=1, ignore_index=VOID)
    given = {"loss_func": loss, "opt_func": SGD, "moms": (0.9, 0.8, 0.9), "splitter": trainable_params, "lr": 0.5}
    learn = linknet_learner(dls, pretrained=False, **given)
    assert {name: getattr(learn, name) for name in given} == given
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)


class Scaled(Callback):
    """Scales the loss as on a GPU that trains in fp16."""

    order = 11  # after DevicePrecision

    def before_fit(self) -> None:
        self.learn.device_precision.scaler = torch.amp.GradScaler("cpu")


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_fastais_own_optimizers_train_with_a_scaled_loss(dls, optimizer):
    def trained(*callbacks: Callback) -> torch.Tensor:
        torch.manual_seed(0)
        dls.train.epoch = 0
        learn = linknet_learner(dls, pretrained=False, opt_func=optimizer, precision="fp32", lr=1e-3, cbs=callbacks)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
        return learn.model.head[-1].weight.detach()

    torch.testing.assert_close(trained(Scaled()), trained(), rtol=1e-3, atol=1e-5)


def test_accumulation_follows_the_preset_of_the_loaders(street_data, tmp_path):
    (preset := tmp_path / "slow.toml").write_text("accumulate = 3\n")
    dls = segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, device="cpu", preset=preset)
    assert linknet_learner(dls, pretrained=False).accumulate_gradients.batches == 3


def test_images_are_normalized_as_the_weights_that_a_training_starts_from_expect(street_data, tmp_path):
    torch.save(timm.create_model(TINY_ENCODER).state_dict(), tmp_path / "encoder.pth")  # timm's: mean and std of 0.5

    def learner(**settings: object) -> tuple[LinkNetLearner, torch.Tensor]:
        options = {"size": "64x48", "bs": 4, "workers": 0, "device": "cpu", "precision": "fp32", "scale": (0.5, 0.5)}
        dls = segmentation_dls("street", street_data, **options, color=0, relight=0)
        learn = linknet_learner(dls, encoder=TINY_ENCODER, **settings)
        images = dls.train.one_batch()[0]
        assert images[0].flatten(1).mode(1).values.abs().max() < 0.01  # padding, which is 0 to the network
        spread = dls.valid.one_batch()[0].std()
        frame = Image.open(dls.valid_ds.items[0].image).resize((64, 48))
        with learn.no_bar():
            classes, _, _ = learn.predict(np.array(frame))
        assert np.array_equal(classes, Predictor(learn.model, learn.card, "cpu", "fp32").predict_channels(frame))
        return learn, spread

    scratch, wide = learner(pretrained=False)
    assert ([*scratch.card.mean], [*scratch.card.std]) == imagenet_stats
    trained, narrow = learner(encoder_weights=tmp_path / "encoder.pth")
    assert (trained.card.mean, trained.card.std) == ((0.5,) * 3, (0.5,) * 3)
    assert narrow == pytest.approx(float(wide) * 0.226 / 0.5, rel=0.1)
    save_model(trained.model, trained.card, tmp_path / "trained.safetensors")
    continued, _ = learner(init_from=tmp_path / "trained.safetensors")
    assert (continued.card.mean, continued.card.std) == ((0.5,) * 3, (0.5,) * 3)


def test_two_sources_of_the_encoders_weights_are_refused(street_data):
    dls = segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, device="cpu")
    with pytest.raises(UsageError, match="--init-from"):
        linknet_learner(dls, init_from="run", encoder_weights="weights.pth")


def test_validation_scores_at_the_label_maps_own_size(dls):
    learn = linknet_learner(dls, pretrained=False)
    with learn.no_bar():
        learn.validate()
    counted = int(learn.metrics[0].counts.sum())
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
    assert learn.opt.opt.param_groups[0].get("momentum") == {"sgd": 0.9, "rmsprop": 0}.get(name)
    with learn.no_bar():
        fit_schedule(learn, "one-cycle", 1, 1e-3)
    assert name != "rmsprop" or learn.opt.opt.param_groups[0]["momentum"] == 0  # a schedule would turn it on
    assert all(group["weight_decay"] == decay for group in learn.opt.opt.param_groups)
    assert set(OPTIMIZERS) == {"muon", "adamw", "adam", "rmsprop", "sgd"}


def test_freezing_leaves_decoder_and_head_to_train(dls):
    learn = linknet_learner(dls, pretrained=False)
    first = next(learn.model.encoder.parameters())
    encoder, head = first.detach().clone(), learn.model.head[-1].weight.detach().clone()
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    assert torch.equal(first, encoder)
    assert not torch.equal(learn.model.head[-1].weight, head)
    assert all(weight.requires_grad for weight in learn.model.head.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fine_tune_trains_the_encoder_last_and_more_slowly(dls, optimizer):
    learn, noted = linknet_learner(dls, pretrained=False, optimizer=optimizer), []

    def note(callback: Callback) -> None:
        if callback.training:
            noted.append(
                (next(learn.model.encoder.parameters()).requires_grad, [group["lr"] for group in learn.opt.hypers])
            )

    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1, 5e-3, lr_mult=10, cbs=Callback(after_batch=note))
    assert [trains for trains, _ in noted] == [False] * len(dls.train) + [True] * len(dls.train)
    encoder, rest = np.array([rates for trains, rates in noted if trains]).T
    assert np.allclose(encoder, rest / 10)


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


def test_a_narrow_model_is_loaded_as_it_was_saved_and_starts_none_of_another_width(dls, tmp_path):
    narrow = linknet_learner(dls, encoder="resnet18", width=0.25, pretrained=False)
    save_model(narrow.model, narrow.card, file := tmp_path / "narrow.safetensors")
    loaded, card = load_model(file)
    assert card == narrow.card
    assert all(torch.equal(a, b) for a, b in zip(narrow.model.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(UsageError, match=r"--init-from: .*narrow\.safetensors has the width 0\.25, this model 0\.5"):
        linknet_learner(dls, encoder="resnet18", width=0.5, init_from=file)


class NotePrecision(Callback):
    """Notes the types of the network's output, of what the loss and the scores get, and where autocast is on."""

    def __init__(self) -> None:
        self.computed, self.passed_on, self.losses, self.autocast = set(), set(), set(), set()

    def after_create(self) -> None:
        self.learn.model.head[-1].register_forward_hook(lambda _, __, logits: self.computed.add(logits.dtype))

    def after_pred(self) -> None:
        self.passed_on.add((self.training, self.pred.dtype))
        self._note_autocast()

    def after_loss(self) -> None:
        self.losses.add(self.loss.dtype)

    def _note_autocast(self) -> None:
        self.autocast.add(torch.is_autocast_enabled("cpu"))

    before_step = after_batch = _note_autocast


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_alone_computes_in_the_precision_that_was_chosen(dls, precision, dtype):
    note = NotePrecision()
    learn = linknet_learner(dls, pretrained=False, precision=precision, cbs=[note])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    assert note.computed == {dtype}
    assert note.passed_on == {(True, dtype), (False, torch.float32)}  # SegmentationLoss converts logits itself
    assert note.losses == {torch.float32}
    assert note.autocast == {False}
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in learn.model.parameters())


def test_another_loss_gets_logits_in_fp32(dls):
    note, loss = NotePrecision(), CrossEntropyLossFlat(axis=1, ignore_index=VOID)
    learn = linknet_learner(dls, pretrained=False, precision="bf16", loss_func=loss, cbs=[note])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    assert note.computed == {torch.bfloat16}
    assert note.passed_on == {(True, torch.float32), (False, torch.float32)}


@pytest.mark.parametrize("use", ["get_preds", "predict", "validate", "show_results"])
def test_precision_holds_outside_of_fit(dls, street_data, use):
    note = NotePrecision()
    learn = linknet_learner(dls, pretrained=False, precision="bf16", cbs=[note])
    arguments = [next((street_data / "val" / "images").glob("*.png"))] if use == "predict" else []
    with learn.no_bar():
        result = getattr(learn, use)(*arguments)
    plt.close("all")
    assert note.computed == {torch.bfloat16}
    assert note.passed_on == {(False, torch.float32)}
    assert not torch.is_autocast_enabled("cpu")
    if use == "get_preds":
        result[1][result[1] == VOID] = 0  # may be changed in place
        assert result[0].dtype == torch.float32


def test_an_interrupted_batch_does_not_leave_autocast_on(dls):
    learn = linknet_learner(dls, pretrained=False, precision="bf16")

    def interrupt(*_: object) -> None:
        assert torch.is_autocast_enabled("cpu")
        raise KeyboardInterrupt

    learn.model.head.register_forward_pre_hook(interrupt)
    with learn.no_bar(), pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")


def test_a_compiled_network_trains_as_a_plain_one(street_data, monkeypatch):
    graphs, losses = [], []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        """Run what torch.compile captured as it is: the C++ of its own backend takes a minute to compile."""
        graphs.append(graph)
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile_module, backend=backend))

    def end_after_two_batches(callback: Callback) -> None:
        losses.append(callback.loss.item())
        if callback.iter == 1:
            raise CancelFitException

    def train(**options: object) -> LinkNetLearner:
        settings = Settings(
            size="64x48", bs=4, pretrained=False, encoder=TINY_ENCODER, device="cpu", workers=0, precision="fp32"
        )
        learn = learner_from_settings(open_dataset("street", street_data), settings.model_copy(update=options))
        with learn.no_bar():
            learn.fit(1, 1e-3, cbs=Callback(after_batch=end_after_two_batches))
        return learn

    plain = train()
    assert not graphs
    compiled = train(compile=True)
    assert len(graphs) == 1, "the network is not captured as a whole"
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-5)
    assert losses[0] != losses[1]
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_every_setting_can_be_given_by_name(dls, street_data):
    same = {name: getattr(dls.settings, name) for name in OF_LOADERS}
    others = {
        "encoder": "resnet18",
        "width": 0.25,
        "decoder": "pixelshuffle",
        "pretrained": False,
        "class_weights": "sqrt",
        "optimizer": "sgd",
        "lr": 0.01,
        "weight_decay": 0.2,
        "accumulate": 2,
        "precision": "fp32",
        "schedule": "cosine",
        "epochs": 3,
        "encoder_lr": 0.5,
        "compile": False,
        "deterministic": False,
        "checkpoint_minutes": 1,
        "encoder_weights": None,
        "init_from": None,
        "teacher": None,
        "teacher_share": 0.5,
        "teacher_temperature": 3.0,
    }
    assert same.keys() | others.keys() == Settings.model_fields.keys()
    learn = linknet_learner(dls, **same, **others)
    assert learn.lr == 0.01
    assert learn.precision == "fp32"
    assert (learn.card.decoder, learn.card.width) == ("pixelshuffle", 0.25)
    assert learn.model.head[1].num_features == 8
    assert learn.accumulate_gradients.batches == 2
    learn.create_opt()
    assert {group["weight_decay"] for group in learn.opt.opt.param_groups} == {0.2}
    given = {name: value for name, value in others.items() if value is not None}
    assert learn.settings == dls.settings.model_copy(update=given)


def test_a_seed_decides_the_weights_that_a_run_starts_from(street_data):
    def first_weights(seed: int) -> torch.Tensor:
        settings = Settings(size="64x48", pretrained=False, encoder=TINY_ENCODER, device="cpu", workers=0, seed=seed)
        return learner_from_settings(open_dataset("street", street_data), settings).model.head[-1].weight

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


def test_a_setting_of_the_loaders_is_refused_where_it_comes_too_late(dls):
    for name, value in {"size": "96x72", "bs": 2, "color": 0.0, "preset": "paper"}.items():
        with pytest.raises(UsageError, match=rf"^{name}: .* segmentation_dls"):
            linknet_learner(dls, pretrained=False, **{name: value})


@pytest.mark.parametrize(("name", "hint"), [("optimiser", "optimizer"), ("loss_fun", "loss_func"), ("zzz", None)])
def test_a_name_that_is_no_setting_and_no_argument_is_refused(dls, name, hint):
    with pytest.raises(UsageError, match=rf"^{name}: .*" + (f"did you mean '{hint}'" if hint else "Learner$")):
        linknet_learner(dls, **{name: 1})
    with pytest.raises(UsageError, match="optimizer"):
        linknet_learner(dls, optimizer="adamax")
