"""DataLoaders: what a batch contains, and that it depends on seed, epoch and frame alone."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fastai.vision.augment as fastai_augment
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import ItemTransform, Normalize, get_c
from fastai.vision.core import PILImage, PILMask, TensorImage, TensorMask, imagenet_stats
from PIL import Image

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.settings import Settings
from linknet_fastai.core import parallel
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import open_image
from linknet_fastai.data.cache import CachedFrame
from linknet_fastai.data.dataset import Frame
from linknet_fastai.data.loaders import FrameImage, default_workers, segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.distributed import SharedDL

Batch = tuple[torch.Tensor, torch.Tensor]


def street_dls(street_data: Path, **options) -> DataLoaders:
    return segmentation_dls("street", street_data, **({"size": "64x48", "bs": 2, "workers": 0} | options))


def epoch(dls: DataLoaders, number: int = 0) -> list[Batch]:
    dls.train.epoch = number
    return list(dls.train)


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(x1, x2) and torch.equal(y1, y2) for (x1, y1), (x2, y2) in pairs)


@pytest.fixture(scope="module")
def dls(street_data: Path) -> DataLoaders:
    return street_dls(street_data)


def test_a_batch_has_normalized_images_and_label_maps(dls: DataLoaders) -> None:
    images, labels = epoch(dls)[0]
    assert (images.shape, images.dtype) == ((2, 3, 48, 64), torch.float32)
    assert labels.shape == (2, 48, 64)
    assert not labels.is_floating_point()
    assert set(labels.unique().tolist()) <= {*range(11), 255}
    assert images.min() < -0.5
    assert 0.5 < images.max() < 2.7


def test_the_loaders_carry_recipe_size_and_pixel_counts(dls: DataLoaders, street_data: Path) -> None:
    assert dls.recipe.name == "street"
    assert dls.size == (64, 48)
    raw = np.stack([Image.open(file) for file in (street_data / "train" / "labels").glob("*.png")])
    assert dls.class_pixels.tolist() == np.bincount(raw.ravel(), minlength=12)[:11].tolist()
    assert get_c(dls) == 11  # how fastai's own learners ask


def test_validation_sees_whole_frames_and_their_own_label_maps(dls: DataLoaders, street_data: Path) -> None:
    batches = list(dls.valid)
    images, labels = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    dataset = open_dataset("street", street_data)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in imagenet_stats)
    for place, frame in enumerate(dataset.frames("val")):
        assert np.array_equal(labels[place].numpy(), dataset.read_label(frame.label))  # 96x72, not 64x48
        resized = Image.open(frame.image).resize((64, 48), Image.Resampling.BILINEAR)
        expected = (torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255 - mean) / std
        assert torch.allclose(images[place].as_subclass(torch.Tensor), expected, atol=1e-6)
    assert len(labels) == 3
    assert same(batches, list(dls.valid))


def test_the_same_seed_and_epoch_give_the_same_batches_whatever_the_number_of_workers(
    dls: DataLoaders, street_data: Path
) -> None:
    with_worker = street_dls(street_data, workers=1)
    assert same(epoch(dls, 3), epoch(with_worker, 3))


def test_another_epoch_and_another_seed_give_other_batches(dls: DataLoaders, street_data: Path) -> None:
    first = epoch(dls, 0)
    assert same(first, epoch(dls, 0))
    assert not same(first, epoch(dls, 1))
    assert not same(first, epoch(street_dls(street_data, seed=1), 0))


def test_without_relight_a_frame_is_augmented_the_same_in_any_batch(street_data: Path) -> None:
    in_twos, in_fours = (epoch(street_dls(street_data, bs=bs, preset="course"), 2) for bs in (2, 4))
    for part in (0, 1):
        assert torch.equal(torch.cat([b[part] for b in in_twos]), torch.cat([b[part] for b in in_fours]))


def test_with_and_without_cache_the_batches_are_the_same(dls: DataLoaders, street_data: Path) -> None:
    decoded = street_dls(street_data, cache=False)
    assert isinstance(dls.train_ds.items[0], CachedFrame)
    assert not isinstance(decoded.train_ds.items[0], CachedFrame)
    assert same(epoch(dls, 1), epoch(decoded, 1))
    assert same(list(dls.valid), list(decoded.valid))


@pytest.mark.parametrize(
    ("size", "bs", "expected"), [("96x72", 4, 3), ("48x36", 8, 2), ("48x36", 4, 1), ("33x33", 2, 1)]
)
def test_validation_has_no_more_logits_than_training(street_data: Path, size: str, bs: int, expected: int) -> None:
    dls = street_dls(street_data, size=size, bs=bs)  # three label maps of 96x72
    assert max(len(y) for _, y in dls.valid) == expected


def test_validation_of_whole_frames_has_no_more_logits_than_training_on_crops(street_data: Path) -> None:
    dls = street_dls(street_data, size="96x72", crop="48x36", bs=8)
    assert max(len(y) for _, y in dls.valid) == 2


def test_training_cuts_crops_and_validation_sees_all(street_data: Path) -> None:
    dls = street_dls(street_data, size="96x72", crop="48x40")
    assert {tuple(x.shape[2:]) for x, _ in epoch(dls)} == {(40, 48)}
    assert {tuple(y.shape[1:]) for _, y in epoch(dls)} == {(40, 48)}
    assert {tuple(x.shape[2:]) for x, _ in dls.valid} == {(72, 96)}


def test_a_crop_larger_than_the_frames_is_refused(street_data: Path) -> None:
    with pytest.raises(UsageError, match=r"--crop: 96x40 is larger than the frames, 64x48; name a larger --size"):
        street_dls(street_data, crop="96x40")


def test_every_epoch_has_an_order_of_its_own_over_all_frames(dls: DataLoaders) -> None:
    orders = []
    for number in range(4):
        dls.train.epoch = number
        orders.append(dls.train.get_idxs())
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_validation_keeps_its_order(dls: DataLoaders) -> None:
    assert list(dls.valid.get_idxs()) == [0, 1, 2]


def test_a_new_loader_keeps_the_seed(street_data: Path) -> None:
    train = street_dls(street_data, seed=5).train
    assert train.new().get_idxs() == train.get_idxs()
    assert train.new().seed == 5


def test_a_new_loader_does_not_disturb_one_that_is_read(street_data: Path) -> None:
    alone = [batch[0] for batch in street_dls(street_data).train]
    train = street_dls(street_data).train
    with_others = []
    for batch in train:
        list(train.new())
        with_others.append(batch[0])
    assert all(map(torch.equal, alone, with_others))


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere fastai starts no loader processes, or there is no SIGTERM"
)
@pytest.mark.parametrize("shared", [False, True])
def test_nothing_but_the_process_that_trains_ends_a_loader_process(street_data: Path, shared: bool) -> None:
    train = street_dls(street_data, workers=1, cache=False).train
    loader = SharedDL(train, rank=0, world_size=1) if shared else train
    batches = iter(loader)
    next(batches)
    (process,) = multiprocessing.active_children()
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)  # of another process
    assert len(list(batches)) == 3
    batches = iter(loader)
    next(batches)
    (process,) = multiprocessing.active_children()
    process.terminate()
    process.join(timeout=30)
    assert process.exitcode == 0


def test_label_maps_of_several_sizes_are_validated_one_by_one(
    own_recipe: Callable[..., Path], own_tree: Path, save_array: Callable
) -> None:
    for number, (width, height) in enumerate([(64, 48), (80, 40), (50, 70)]):
        for stem in (f"f{number}", f"f{number + 3}"):
            save_array(np.full((height, width, 3), 90, np.uint8), own_tree / "frames" / f"{stem}.png")
            save_array(np.full((height, width), 20, np.uint8), own_tree / "masks" / f"{stem}.png")
    dls = segmentation_dls(own_recipe(), own_tree, validate_on=_list_of(own_tree, "f0", "f1", "f2"), workers=0)
    assert [tuple(y.shape) for _, y in dls.valid] == [(1, 48, 64), (1, 40, 80), (1, 70, 50)]
    assert {tuple(x.shape) for x, _ in dls.valid} == {(1, 3, 48, 64)}
    assert {tuple(y.shape[1:]) for _, y in dls.train} == {(48, 64)}


def _list_of(folder: Path, *stems: str) -> str:
    (file := folder / "list.txt").write_text("\n".join(stems), encoding="utf-8")
    return str(file)


def test_a_batch_is_never_larger_than_the_training_split(own_recipe: Callable[..., Path], own_tree: Path) -> None:
    dls = segmentation_dls(own_recipe(), own_tree, bs=32, workers=0)
    assert [len(x) for x, _ in dls.train] == [6]


def test_gray_and_transparent_images_come_as_rgb(
    own_recipe: Callable[..., Path], own_tree: Path, save_array: Callable
) -> None:
    for number in range(10):
        shape = (48, 64) if number % 2 else (48, 64, 4)
        save_array(np.full(shape, 90, np.uint8), own_tree / "frames" / f"f{number}.png")
    dls = segmentation_dls(own_recipe(), own_tree, workers=0)
    assert {x.shape[1] for x, _ in [*dls.train, *dls.valid]} == {3}


def test_one_frame_is_shown_in_several_augmentations_also_after_an_epoch(street_data: Path) -> None:
    dls = street_dls(street_data)
    expected = epoch(dls)
    dls.train.show_batch(unique=True, max_n=2)
    assert same(epoch(dls), expected)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_show_batch_draws_also_label_maps_larger_than_their_images(dls: DataLoaders, part: str) -> None:
    getattr(dls, part).show_batch(max_n=2)
    drawn = [axes for axes in plt.gcf().axes if axes.images]
    assert len(drawn) == (2 if part == "train" else 1)  # no more fit into a validation batch
    for axes in drawn:
        assert [image.get_array().shape[:2] for image in axes.images] == [(48, 64), (48, 64)]
    plt.close("all")


def test_damage_in_either_split_is_refused_before_training(own_recipe: Callable[..., Path], own_tree: Path) -> None:
    label = open_dataset(own_recipe(), own_tree).frames("val")[0].label
    label.write_bytes(b"")
    with pytest.raises(UserError, match="cannot read this label map") as caught:
        segmentation_dls(own_recipe(), own_tree, workers=0)
    assert str(label) in str(caught.value)


@pytest.mark.parametrize(("argument", "value"), [("size", "64"), ("bs", 0), ("workers", -1), ("seed", -1)])
def test_a_wrong_argument_is_refused_by_name(street_data: Path, argument: str, value: object) -> None:
    with pytest.raises(UsageError, match=argument):
        street_dls(street_data, **{argument: value})


@pytest.mark.parametrize(
    ("device", "cores", "workers"),
    [("cuda", 1, 0), ("cuda", 2, 1), ("cuda", 64, 8), ("cpu", 2, 0), ("cpu", 4, 1), ("cpu", 16, 4), ("cpu", 64, 8)],
)
def test_loader_processes_leave_cores_to_the_network(monkeypatch, device: str, cores: int, workers: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(parallel, "OWN_GROUPS", Path("no-such-file"))  # as without a limit of the machine
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers(cached=False, device=device) == workers
    assert default_workers(cached=True, device=device) == 0


def test_training_turns_a_frame_upright_as_prediction_does(own_tree: Path) -> None:
    file = own_tree / "frames" / "f0.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(file) as image:
        image.convert("RGB").save(file, exif=exif)
    opened = FrameImage()(Frame(file, file, file.stem))
    assert np.array_equal(np.asarray(opened), np.asarray(open_image(file)))
    with Image.open(file) as raw:
        assert np.array_equal(np.asarray(opened), np.asarray(raw.convert("RGB"))[::-1, ::-1])


# Settings by name


def test_every_setting_can_be_given_and_is_carried(street_data: Path, tmp_path: Path) -> None:
    text = """preset=paper epochs=3 size=64x48 fit=pad crop=48x40 bs=4 accumulate=2 lr=0.01 decoder=pixelshuffle
        encoder=resnet34 width=0.5 pretrained=no class_weights=median optimizer=sgd schedule=step weight_decay=0.1
        encoder_lr=0.5 flip=no color=0.1 relight=0.2 precision=fp32 device=cpu seed=3 compile=yes deterministic=yes
        checkpoint_minutes=1 workers=0 train_on=val validate_on=test teacher_share=2 teacher_temperature=4"""
    paths = {"encoder_weights": tmp_path / "weights", "cache_dir": tmp_path / "caches", "teacher": tmp_path / "run"}
    given = Settings(**dict(pair.split("=") for pair in text.split()), scale=(0.5, 1), **paths)
    options = dict(given)
    assert not [name for name, value in Settings() if value == options[name] and name not in ("init_from", "cache")]
    assert segmentation_dls("street", street_data, **options).settings == given


def test_settings_that_are_not_given_or_none_follow_preset_recipe_and_defaults(street_data: Path) -> None:
    dls = segmentation_dls("street", street_data, preset="paper", workers=0, bs=None)
    assert dls.settings == settings_for(dls.recipe, dls.recipe.layouts[0], {"preset": "paper", "workers": 0})[0]


def test_an_unknown_setting_is_refused_with_the_nearest_name(street_data: Path) -> None:
    with pytest.raises(UsageError, match=r"^class_weight: no such setting; did you mean 'class_weights'\?$"):
        street_dls(street_data, class_weight="log")
    with pytest.raises(UsageError, match=r"^zzz: no such setting$"):
        street_dls(street_data, zzz=1)


def test_a_setting_under_its_old_name_is_read_with_a_warning(street_data: Path) -> None:
    with pytest.warns(FutureWarning, match="'colour' is now called 'color'"):
        assert street_dls(street_data, colour=0.1).settings.color == 0.1


def test_a_device_that_this_machine_does_not_have_is_refused(street_data: Path) -> None:
    with pytest.raises(UsageError, match="--device: cuda:99"):
        street_dls(street_data, device="cuda:99")


# Transforms of one's own

PLAIN = {"flip": False, "scale": (1, 1), "color": 0, "device": "cpu"}


class Record(ItemTransform):
    """Keeps the last training and the last validation sample that it gets."""

    def encodes(self, sample):
        self.seen = getattr(self, "seen", {}) | {self.split_idx: sample}
        return sample


class RecordTraining(Record):
    split_idx = 0


class RecordValidation(Record):
    split_idx = 1


@pytest.mark.parametrize("cache", [True, False])
def test_a_fastai_item_transform_follows_the_resize(street_data: Path, cache: bool) -> None:
    plain = street_dls(street_data, **PLAIN)
    flipped = street_dls(street_data, **PLAIN, cache=cache, item_tfms=fastai_augment.FlipItem(p=1))
    for (images, labels), (flipped_images, flipped_labels) in zip(epoch(plain), epoch(flipped), strict=True):
        assert torch.equal(images.flip(-1), flipped_images)
        assert torch.equal(labels.flip(-1), flipped_labels)
    assert same(list(plain.valid), list(flipped.valid))  # FlipItem is for training only


@pytest.mark.parametrize("cache", [True, False])
def test_an_item_transform_gets_pil_images_and_masks(street_data: Path, cache: bool) -> None:
    records = RecordTraining(), RecordValidation()
    dls = street_dls(street_data, cache=cache, item_tfms=records)
    list(dls.train), list(dls.valid)
    for record, label_size in zip(records, ((64, 48), (96, 72)), strict=True):
        image, labels = record.seen[record.split_idx]
        assert (type(image), image.mode, image.size) == (PILImage, "RGB", (64, 48))
        assert (type(labels), labels.mode, labels.size) == (PILMask, "L", label_size)
        assert set(np.unique(labels)) <= {*range(11), 255}


def test_a_fastai_batch_transform_comes_between_augmentation_and_normalization(street_data: Path) -> None:
    plain = street_dls(street_data, **PLAIN)
    bright = street_dls(street_data, **PLAIN, batch_tfms=[fastai_augment.Brightness(p=1, draw=0.8)])
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in imagenet_stats)
    for (images, labels), (bright_images, bright_labels) in zip(epoch(plain), epoch(bright), strict=True):
        pixels = (images.as_subclass(torch.Tensor) * std + mean).clamp(1e-7, 1 - 1e-7)
        expected = (torch.sigmoid(torch.logit(pixels) + torch.logit(torch.tensor(0.8))) - mean) / std
        assert torch.allclose(bright_images.as_subclass(torch.Tensor), expected, atol=1e-3)
        assert torch.equal(labels, bright_labels)
    assert same(list(plain.valid), list(bright.valid))


def test_a_batch_transform_gets_floats_from_0_to_1_and_labels_after_the_augmentation(street_data: Path) -> None:
    records = RecordTraining(), RecordValidation()
    dls = street_dls(street_data, size="96x72", crop="48x40", batch_tfms=records)
    list(dls.train), list(dls.valid)
    for record, shape in zip(records, ((40, 48), (72, 96)), strict=True):
        images, labels = record.seen[record.split_idx]
        assert (type(images), images.dtype, images.shape[1:]) == (TensorImage, torch.float32, (3, *shape))
        assert 0 <= images.min() < 0.3
        assert 0.7 < images.max() <= 1
        assert (type(labels), labels.dtype, labels.shape[1:]) == (TensorMask, torch.int64, shape)


def test_several_transforms_of_one_class_are_all_applied(street_data: Path) -> None:
    plain = street_dls(street_data, **PLAIN)
    twice = [fastai_augment.FlipItem(p=1), fastai_augment.FlipItem(p=1)]
    both = street_dls(street_data, **PLAIN, item_tfms=twice, batch_tfms=[lambda x: x, lambda x: x])
    assert same(epoch(plain), epoch(both))
    assert len(both.train.after_batch.fs) == len(plain.train.after_batch.fs) + 2


def test_a_second_normalization_is_refused(street_data: Path) -> None:
    with pytest.raises(UsageError, match=r"batch_tfms: .*leave Normalize out"):
        street_dls(street_data, batch_tfms=Normalize.from_stats(*imagenet_stats))


def test_the_augmentation_is_the_same_with_transforms_of_ones_own(dls: DataLoaders, street_data: Path) -> None:
    assert same(epoch(dls), epoch(street_dls(street_data, item_tfms=Record(), batch_tfms=Record())))


def test_prediction_applies_the_item_transforms_of_validation(street_data: Path) -> None:
    dls = street_dls(street_data, item_tfms=[record := RecordValidation()])
    file = next((street_data / "test" / "images").glob("*.png"))
    (images,) = next(iter(dls.test_dl([file])))
    assert images.shape == (1, 3, 48, 64)
    assert record.seen[1][0].size == (64, 48)
