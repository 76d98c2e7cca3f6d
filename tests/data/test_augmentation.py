"""The augmentation: image and label map move together, and labels stay labels."""

import random

import numpy as np
import pytest
import torch
from fastai.vision.core import PILImage, PILMask, TensorImage, TensorMask
from PIL import Image

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.images import resize_image, resize_labels
from linknet_fastai.data.augmentation import PADDING, AugmentBatch, ResizeFrame, ResizeImage

SOURCE = (96, 72)
COLORS = np.zeros((256, 3), np.uint8)
COLORS[[0, 3, 7, 255]] = [(250, 10, 10), (10, 250, 10), (10, 10, 250), PADDING]


@pytest.fixture
def labels() -> np.ndarray:
    """A label map of 96x72 in blocks of 12, no two rows or columns alike; values 0, 3, 7 and void."""
    blocks = np.random.default_rng(4).choice([0, 3, 7, 255], (6, 8)).astype(np.uint8)
    return np.kron(blocks, np.ones((12, 12), np.uint8))


def frame(labels: np.ndarray) -> tuple[PILImage, PILMask]:
    """An image that shows its label map in colors, and that label map."""
    return PILImage.create(COLORS[labels]), PILMask.create(labels)


def batch(*frames: np.ndarray) -> tuple[TensorImage, TensorMask]:
    """Images, Bx3xHxW bytes, that show their label maps in colors, and those label maps, BxHxW bytes."""
    labels = torch.from_numpy(np.stack(frames))
    images = torch.from_numpy(COLORS)[labels.long()].permute(0, 3, 1, 2)
    return TensorImage(images), TensorMask(labels)


def augmented(labels: np.ndarray, size: tuple[int, int], seed: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """Image HxWx3 and label map HxW after an augmentation."""
    transform = AugmentBatch(size, Settings(**options))
    transform.generators = iter([[random.Random(seed)]])
    images, masks = transform(batch(labels), split_idx=0)
    assert images.dtype == torch.float32
    assert isinstance(images, TensorImage)
    assert isinstance(masks, TensorMask)
    return images[0].permute(1, 2, 0).numpy(), masks[0].numpy()


def inner(labels: np.ndarray) -> np.ndarray:
    """Where the 5x5 pixels around a pixel have one label: there, resampling the image has mixed no colors.

    Not at the border of a crop, where the image's filter sees what lies beyond.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(labels, 2, constant_values=1), (5, 5))
    return (windows == labels[..., None, None]).all((-1, -2))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(96, 72), (48, 64)])
def test_image_and_label_map_move_together(labels: np.ndarray, seed: int, size: tuple[int, int]) -> None:
    image, mask = augmented(labels, size, seed, color=0)
    assert image.shape == (*size[::-1], 3)
    assert mask.shape == size[::-1]
    clear = inner(mask)
    assert clear.mean() > 0.15
    assert np.abs(image[clear] - COLORS[mask][clear]).max() <= 1


def test_labels_keep_their_values(labels: np.ndarray) -> None:
    whole = labels.copy()
    whole[whole == 255] = 3
    for seed in range(10):
        _, mask = augmented(whole, (50, 41), seed)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 3, 7, 255}
        assert len(np.unique(mask)) > 1


def test_without_zoom_a_frame_comes_as_it_is_or_mirrored_both_about_as_often(labels: np.ndarray) -> None:
    mirrored = 0
    for seed in range(40):
        image, mask = augmented(labels, SOURCE, seed, scale=(1, 1), color=0)
        expected = labels[:, ::-1] if (flip := not np.array_equal(mask, labels)) else labels
        assert np.array_equal(mask, expected)
        assert np.array_equal(image, COLORS[expected])
        mirrored += flip
    assert 10 < mirrored < 30


def test_a_frame_smaller_than_the_crop_is_padded_with_void_and_mean_color(labels: np.ndarray) -> None:
    labels[labels == 255] = 0
    places = set()
    for seed in range(10):
        image, mask = augmented(labels, SOURCE, seed, scale=(0.5, 0.5), color=0)
        assert (mask != 255).sum() == 48 * 36
        assert (image[mask == 255] == PADDING).all()
        rows, columns = np.nonzero(mask != 255)
        assert (np.ptp(rows), np.ptp(columns)) == (35, 47)  # in one piece
        places.add((rows[0], columns[0]))
    assert len(places) > 5


def test_a_frame_larger_than_the_crop_is_cropped_at_random_and_never_padded(labels: np.ndarray) -> None:
    labels[labels == 255] = 0
    crops = set()
    for seed in range(10):
        _, mask = augmented(labels, SOURCE, seed, scale=(1.75, 1.75), color=0)
        assert (mask != 255).all()
        crops.add(mask.tobytes())
    assert len(crops) > 5


def test_zooms_lie_between_the_two_scales(labels: np.ndarray) -> None:
    labels[:] = 0
    shares = [(augmented(labels, SOURCE, seed, scale=(0.5, 0.9))[1] == 0).mean() for seed in range(30)]
    assert 0.24 < min(shares) < 0.4
    assert 0.65 < max(shares) < 0.82


def test_color_changes_the_image_alone(labels: np.ndarray) -> None:
    image, mask = augmented(labels, SOURCE, 3, scale=(1, 1), color=0)
    recolored, same_mask = augmented(labels, SOURCE, 3, scale=(1, 1), color=0.3)
    assert np.array_equal(mask, same_mask)
    assert not np.array_equal(image, recolored)
    assert len({augmented(labels, SOURCE, seed, scale=(1, 1))[0].tobytes() for seed in range(6)}) == 6


def test_the_same_random_numbers_give_the_same_frame_and_others_another(labels: np.ndarray) -> None:
    first, again, other = (augmented(labels, (64, 48), seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_colors_spread_and_stay_colors(labels: np.ndarray) -> None:
    labels[:] = 3
    seen = [augmented(labels, SOURCE, seed, scale=(1, 1), color=0.3)[0][0, 0] for seed in range(40)]
    assert (np.ptp(seen, axis=0) > 20).all()
    assert np.min(seen) >= 0
    assert np.max(seen) <= 255
    assert {pixel.argmax() for pixel in seen} == {1}


def test_brightness_contrast_and_saturation_each_change_by_their_share() -> None:
    """Seen on two grays, around mid-gray, and on a color: its distance from gray over the grays' from each other."""
    image = torch.tensor([[100, 100, 100], [150, 150, 150], [150, 120, 110]], dtype=torch.uint8).T.reshape(1, 3, 1, 3)
    images, labels = TensorImage(image.expand(200, -1, 8, -1)), TensorMask(torch.zeros(200, 8, 3, dtype=torch.uint8))
    transform = AugmentBatch((3, 8), Settings(scale=(1, 1), flip=False, relight=0, color=0.3))
    transform.generators = iter([[random.Random(seed) for seed in range(200)]])
    dark, light, colored = transform((images, labels), split_idx=0)[0][:, :, 4].unbind(-1)
    brightness = (dark + light).mean(1) / 250
    contrast = (light - dark).mean(1) / 50 / brightness
    saturation = (colored[:, 0] - colored[:, 2]) / 40 / brightness / contrast
    for change in (brightness, contrast, saturation):
        assert 0.68 < change.min() < 0.75
        assert 1.25 < change.max() < 1.32


def test_gray_stays_gray_whatever_the_saturation() -> None:
    transform = AugmentBatch((4, 4), Settings(scale=(1, 1)))
    images = TensorImage(torch.full((8, 3, 4, 4), 90, dtype=torch.uint8))
    out, _ = transform((images, TensorMask(torch.zeros(8, 4, 4, dtype=torch.uint8))), split_idx=0)
    assert (out.amax(1) - out.amin(1)).max() < 1e-3
    assert len(out[:, 0, 0, 0].unique()) == 8  # but each with a brightness of its own


def test_each_frame_of_a_batch_follows_its_own_generator(labels: np.ndarray) -> None:
    transform = AugmentBatch((64, 48))
    transform.generators = iter([[random.Random(seed) for seed in (1, 2, 1)]])
    images, masks = transform(batch(labels, labels, labels), split_idx=0)
    assert torch.equal(images[0], images[2])
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(images[0], images[1])
    alone, _ = augmented(labels, (64, 48), 2)
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), alone)


def test_two_loops_over_one_loader_are_an_error_and_no_wrong_crop(labels: np.ndarray) -> None:
    transform = AugmentBatch((64, 48))
    for prepared in ([], [[random.Random(1)] * 3]):
        transform.generators = iter(prepared)
        with pytest.raises(RuntimeError, match=r"one loop at a time"):
            transform(batch(labels, labels), split_idx=0)


def test_a_crop_smaller_than_the_frame_keeps_the_scale(labels: np.ndarray) -> None:
    _, mask = augmented(labels, (48, 36), 1, scale=(1, 1), color=0)
    both = np.stack([labels, labels[:, ::-1]])
    windows = np.lib.stride_tricks.sliding_window_view(both, (36, 48), axis=(1, 2))
    assert (windows == mask).all((-1, -2)).any()


def test_validation_batches_are_not_augmented(labels: np.ndarray) -> None:
    images, masks = batch(labels)
    same_images, same_masks = AugmentBatch((64, 48))((images, masks), split_idx=1)
    assert same_images is images
    assert same_masks is masks


def test_validation_resizes_the_image_and_leaves_the_label_map(labels: np.ndarray) -> None:
    image, mask = ResizeImage((48, 36))(frame(labels), split_idx=1)
    assert image.size == (48, 36)
    assert np.array_equal(np.asarray(mask), labels)
    assert np.array_equal(image, resize_image(frame(labels)[0], (48, 36)))


def test_training_resizes_the_label_map_to_the_nearest_pixel_too(labels: np.ndarray) -> None:
    image, mask = ResizeFrame((48, 36))(frame(labels), split_idx=0)
    assert np.array_equal(image, resize_image(frame(labels)[0], (48, 36)))
    assert np.array_equal(np.asarray(mask), resize_labels(labels, (48, 36)))
    assert np.array_equal(np.asarray(mask), labels[1::2, 1::2])
    assert resize_labels(labels, SOURCE) is labels


@pytest.mark.parametrize(("transform", "other_part"), [(ResizeFrame, 1), (ResizeImage, 0)])
def test_resizing_skips_the_other_part_of_the_data(labels: np.ndarray, transform: type, other_part: int) -> None:
    assert transform((48, 36))(frame(labels), split_idx=other_part)[0].size == SOURCE


def test_shrinking_averages_and_the_right_size_is_untouched() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 200], np.uint8), (8, 32))).convert("RGB")
    small = np.asarray(resize_image(stripes, (16, 8)))
    assert np.abs(small[:, 2:-2].astype(int) - 100).max() <= 2  # without antialiasing: 0 or 200
    assert resize_image(stripes, stripes.size) is stripes


def test_relight_gives_frames_the_mean_and_spread_of_others_of_their_batch() -> None:
    rng = np.random.default_rng(0)
    dark = rng.integers(20, 60, (3, 48, 64)).astype(np.uint8)
    light = rng.integers(120, 240, (3, 48, 64)).astype(np.uint8)
    images = TensorImage(torch.from_numpy(np.stack([dark, light] * 8)))
    labels = TensorMask(torch.zeros(16, 48, 64, dtype=torch.uint8))
    transform = AugmentBatch((64, 48), Settings(scale=(1, 1), color=0, flip=False, relight=1))
    transform.generators = iter([[random.Random(frame) for frame in range(16)]])
    relit, masks = transform((images, labels), split_idx=0)
    assert torch.equal(masks, labels)
    means, spreads = relit.mean((2, 3)), relit.std((2, 3))
    assert means.min() > 38
    assert means.max() < 182
    darks, lights = means[0::2, 0], means[1::2, 0]
    assert darks.max() > 80  # some dark frames have become lighter
    assert lights.min() < 140
    # Light and spread come together, as in the frame that they are of: both lie as far along the way.
    share = (darks - 39.5) / (179.5 - 39.5)
    assert torch.allclose(spreads[0::2, 0], 11.5 + share * (34.9 - 11.5), atol=2)
    # What is in a frame stays: the pixels' order of brightness in each channel.
    for before, after in zip(images.float(), relit, strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.999


def test_relight_of_0_and_of_a_single_frame_change_nothing() -> None:
    images = TensorImage(torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8))
    labels = TensorMask(torch.zeros(2, 48, 64, dtype=torch.uint8))
    plain = AugmentBatch((64, 48), Settings(scale=(1, 1), color=0, flip=False))
    assert torch.equal(plain((images, labels), split_idx=0)[0], images.float())
    alone = AugmentBatch((64, 48), Settings(scale=(1, 1), color=0, flip=False, relight=1))
    relit, _ = alone((images[:1], labels[:1]), split_idx=0)
    assert torch.allclose(relit, images[:1].float(), atol=0.01)
