"""Label maps and images as other programs write them: each has one right reading, or is refused in one line."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import is_own_png, open_image, opened_image, save_image
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import survey
from linknet_fastai.engines.engine import Engine, predict_file
from linknet_fastai.model.card import ModelCard
from linknet_fastai.scoring.cityscapes import read_truth
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.training.data_check import inspect_data

IDS = np.array([[0, 1, 2, 3, 3, 1], [2, 2, 1, 0, 3, 0], [1, 3, 3, 2, 0, 0], [0, 0, 0, 0, 1, 1]], np.uint8)
COLORS = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)]
RECIPE = """\
name = "four"
title = "Four classes"
source = "painted"

{classes}{void}
[[layouts]]
name = "four"
images = "images/{{stem}}.{image}"
labels = "masks/{{stem}}.{label}"
{mapping}
[splits]
train = {{ fraction = 0.4 }}
val = {{ fraction = 0.6 }}

[training]
size = "64x48"
bs = 2
pretrained = false
"""
ROTATED = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
ROTATED |= {8: Image.Transpose.ROTATE_270}
MIRRORED = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM}
STORED = {1: None, **MIRRORED, **ROTATED}  # how the pixels of an upright image are stored under each orientation
LOSSLESS = {"png": {}, "tif": {}, "webp": {"lossless": True}}

MakeRecipe = Callable[..., Path]
Reader = Callable[..., LabelReader]


@pytest.fixture
def recipe(tmp_path: Path) -> MakeRecipe:
    """Writes a recipe of four classes, whose ids are 0 to 3 and whose colors are `COLORS`; void is 255."""

    def write(
        ids: tuple[int, ...] = (0, 1, 2, 3), image: str = "png", label: str = "png", mapping: str = "", void: str = ""
    ) -> Path:
        classes = "".join(
            f'[[classes]]\nid = {value}\nname = "class {value}"\ncolor = {list(color)}\n'
            for value, color in zip(ids, COLORS, strict=False)
        )
        file = tmp_path / "four.toml"
        file.write_text(
            RECIPE.format(classes=classes, image=image, label=label, mapping=mapping, void=void), encoding="utf-8"
        )
        return file

    return write


@pytest.fixture
def reader(recipe: MakeRecipe) -> Reader:
    """Makes the reader of a recipe; its arguments are those of `recipe`."""

    def make(*args: object, **kwargs: object) -> LabelReader:
        loaded = load_recipe(recipe(*args, **kwargs))
        return LabelReader(loaded, loaded.layouts[0])

    return make


def png(bits: int, kind: int, samples: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of HxW or HxWxC samples of kind 0 (gray), 2 (RGB) or 3 (palette), with chunks around its pixels."""
    height, width = samples.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_palette(colors: list[tuple[int, int, int]], values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([part for color in colors for part in color])
    return image


def stored(image: Image.Image, tag: int) -> Image.Image:
    return image if tag == 1 else image.transpose(STORED[tag])


def exif(tag: int) -> Image.Exif:
    data = Image.Exif()
    data[0x112] = tag
    return data


# Palettes


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "tif"])
@pytest.mark.parametrize("grays", [(3, 1, 0, 2), (0, 1, 2, 3), (3, 2, 1, 0, 99)])
def test_a_gray_label_map_after_a_png_optimizer_keeps_its_values(
    grays: tuple[int, ...], ending: str, reader: Reader, tmp_path: Path
) -> None:
    index_of = np.zeros(4, np.uint8)
    index_of[list(grays[:4])] = range(4)
    with_palette([(gray,) * 3 for gray in grays], index_of[IDS]).save(tmp_path / f"a.{ending}")
    assert np.array_equal(reader()(tmp_path / f"a.{ending}"), IDS)


def test_cityscapes_truth_after_a_png_optimizer_keeps_its_ids(tmp_path: Path) -> None:
    file = tmp_path / "ulm_000000_000019_gtFine_labelIds.png"
    with_palette([(33,) * 3, (7,) * 3, (26,) * 3, (0,) * 3], IDS).save(file)
    with_palette([(1,) * 3, (0,) * 3, (3,) * 3, (2,) * 3], IDS).save(str(file).replace("labelIds", "instanceIds"))
    labels, instances = read_truth(file)
    assert np.array_equal(labels, np.array([33, 7, 26, 0])[IDS])
    assert np.array_equal(instances, np.array([1, 0, 3, 2])[IDS])


def test_a_color_palette_that_was_sorted_is_refused_and_read_by_color(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    order = [2, 0, 3, 1]
    with_palette([COLORS[value] for value in order], np.argsort(order).astype(np.uint8)[IDS]).save(file)
    with pytest.raises(
        UserError, match=r"a\.png.*value 0 has the color \(0, 200, 0\) of another class.*layouts\.color"
    ):
        reader()(file)
    names = ", ".join(f'"class {value}" = {list(color)}' for value, color in enumerate(COLORS))
    assert np.array_equal(reader(mapping=f"colors = {{ {names} }}")(file), IDS)


@pytest.mark.parametrize(
    "palette",
    [
        COLORS,
        [*COLORS, (0, 0, 0), (0, 0, 0)],
        [(9, 9, 9), (5, 200, 0), (0, 200, 200), (7, 7, 8)],
        [(0, 200, 0), (0, 0, 200), *((n, 1, 2) for n in range(99))],  # of another program, with colors nobody uses
    ],
)
def test_the_values_of_any_other_palette_are_its_indices(
    palette: list[tuple[int, int, int]], reader: Reader, tmp_path: Path
) -> None:
    with_palette(palette, IDS).save(tmp_path / "a.png", transparency=bytes([0, 9, 255]))
    assert np.array_equal(reader()(tmp_path / "a.png"), IDS)


# Samples


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_values_of_a_gray_png_are_its_samples(bits: int, reader: Reader, tmp_path: Path) -> None:
    values = IDS & (2 ** min(bits, 8) - 1)
    (tmp_path / "a.png").write_bytes(png(bits, 0, values))
    assert np.array_equal(reader()(tmp_path / "a.png"), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_0_and_255_that_an_optimizer_packed_into_few_bits_are_0_and_255(
    bits: int, reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(bits, 0, (IDS & 1) * np.uint8(2**bits - 1)))
    read = reader((0, 255), void="[void]\nid = 254\n")
    assert np.array_equal(read(tmp_path / "a.png"), IDS & 1)


def tiff(bits: int, white: int, order: str = "<") -> bytes:
    """An uncompressed gray TIFF of `IDS`; `white` 1 says that 0 is black, 0 that it is white."""
    data = b"".join(np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in IDS)
    if bits == 16:
        data = IDS.astype(f"{order}u2").tobytes()
    height, width = IDS.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: white, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    tags_at = 8 + len(data)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, tags_at)
    return head + data + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        *((f"{bits}{order}.tif", tiff(bits, 1, order)) for bits in (2, 4, 8, 16) for order in "<>"),
        *((f"{top}.pgm", b"P5 6 4 %d\n" % top + IDS.tobytes()) for top in (3, 11, 254, 255)),
        *((f"{top}.pgm", b"P5 6 4 %d\n" % top + IDS.astype(">u2").tobytes()) for top in (256, 1000, 65535)),
        ("plain.pgm", b"P2 6 4 11\n" + b" ".join(b"%d" % value for value in IDS.flat)),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_the_values_of_tiff_and_pgm_are_the_samples_in_the_file(
    ending: str, content: bytes, reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / ending).write_bytes(content)
    assert np.array_equal(reader()(tmp_path / ending), IDS)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("inverted.tif", tiff(8, 0), "its white is 0"),
        ("inverted4.tif", tiff(4, 0), "its white is 0"),
        ("a.pbm", b"P1 2 1\n0 1", "its white is 0"),
        ("rgb16.png", png(16, 2, np.repeat(IDS[..., None], 3, 2)), "several channels of 16 bits"),
        ("index.png", png(8, 3, IDS, chunk(b"PLTE", bytes(9))), "out of bounds"),
    ],
)
def test_label_maps_whose_values_are_not_clear_are_refused(
    name: str, content: bytes, why: str, reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot read this label map .*{why}"):
        reader()(tmp_path / name)


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_three_equal_channels_are_one(mode: str, reader: Reader, tmp_path: Path) -> None:
    image = Image.fromarray(IDS).convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(reader()(tmp_path / "a.png"), IDS)
    image.putpixel((0, 0), {"LA": (0, 254), "RGB": (0, 1, 0), "RGBA": (0, 0, 0, 0)}[mode])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="mode RGB, but" if mode == "RGB" else "transparent pixels"):
        reader()(tmp_path / "a.png")


# Lossy formats


LOSSY = {
    "a.jpg": {"quality": 100},
    "a.webp": {"quality": 100},
    "with_exif.webp": {"quality": 100, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"},
    "a.jp2": {"irreversible": True},
    "a.j2k": {"irreversible": True},
    "a.tif": {"compression": "jpeg"},
}


@pytest.mark.parametrize("mapping", ["", 'colors = { "class 0" = [0, 0, 0] }'], ids=["values", "colors"])
@pytest.mark.parametrize("name", LOSSY)
def test_a_lossy_label_map_is_refused(name: str, mapping: str, reader: Reader, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / name, **LOSSY[name])
    (tmp_path / name).rename(tmp_path / "mask.png")  # the content decides
    with pytest.raises(UserError, match=r"mask\.png.*label maps must be lossless; export it as PNG"):
        reader(mapping=mapping)(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.webp", {"lossless": True}),
        ("with_exif.webp", {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
        ("a.jp2", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
    ],
)
def test_a_lossless_label_map_of_the_same_formats_is_read(
    name: str, options: dict, reader: Reader, tmp_path: Path
) -> None:
    Image.fromarray(np.kron(IDS, np.ones((8, 8), np.uint8))).convert("RGB").save(tmp_path / name, **options)
    assert np.array_equal(reader()(tmp_path / name)[::8, ::8], IDS)


# Orientation: the image of a frame shows the ids of its label map, in red


class SeesRed(Engine):
    """Sees the class that an image shows."""

    name = "red"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(ModelCard.of(dataset.recipe, (64, 48)), "fp32", "native")

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return ((pixels[..., 0].astype(int) + 32) // 64).astype(np.uint8)


def without_equal_frames(notes: list[str]) -> list[str]:
    """Notes but for that of frames with the same pixels, as those of `turned_frames` are."""
    return [note for note in notes if "have the same pixels as" not in note]


def turned_frames(folder: Path, tag: int, upright: np.ndarray, ending: str, label: str) -> None:
    """Four frames of an orientation; the label maps have it as well, or none: `label` is own, raw or upright."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image = stored(Image.fromarray(np.repeat(upright[..., None] * np.uint8(64), 3, 2)), tag)
    for number in range(4):
        options = {"quality": 95} if ending == "jpg" else LOSSLESS[ending]
        image.save(folder / f"images/{number}.{ending}", exif=exif(tag), **options)
        kind = "png" if ending == "jpg" else ending
        mask = Image.fromarray(upright) if label == "upright" else stored(Image.fromarray(upright), tag)
        mask = mask.convert("RGB") if kind == "webp" else mask
        own = {"exif": exif(tag)} if label == "own" else {}
        mask.save(folder / f"masks/{number}.{kind}", **own, **LOSSLESS[kind])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("tag", STORED)
def test_image_and_label_map_are_turned_together(tag: int, ending: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    upright = np.kron(IDS, np.ones((16, 16), np.uint8))
    file = recipe(image=ending, label="png" if ending == "jpg" else ending)
    for label in ("own", "upright", *(["raw"] if tag in ROTATED else [])):  # for others raw and turned size are equal
        turned_frames(tmp_path / "data", tag, upright, ending, label)
        dataset = open_dataset(file, tmp_path / "data")
        frame = dataset.frames("val")[0]
        assert predict_file(SeesRed(dataset), frame.image)[0].size == upright.shape[::-1]
        assert np.array_equal(dataset.read_label.of_frame(frame), upright)
        scores = evaluate(SeesRed(dataset), dataset).scores
        assert scores.counts.sum() == 2 * upright.size
        assert scores.miou > (0.9 if ending == "jpg" else 0.999999)


@pytest.mark.parametrize("cache", [True, False])
def test_training_turns_image_and_label_map_together(cache: bool, recipe: MakeRecipe, tmp_path: Path) -> None:
    upright = np.kron(IDS, np.ones((16, 16), np.uint8))
    turned_frames(tmp_path / "data", 6, upright, "png", "raw")
    dls = segmentation_dls(
        recipe(), tmp_path / "data", device="cpu", workers=0, size="96x64", cache=cache, cache_dir=tmp_path / "cache",
        flip=0, scale=(1, 1), color=0, relight=0,
    )  # fmt: skip
    for loader in (dls.train, dls.valid):
        images, labels = loader.one_batch()
        assert np.array_equal(labels[0].numpy(), upright)
        red = images[0, 0].numpy()
        assert [len(np.unique(red[upright == value].round(2))) for value in range(4)] == [1] * 4
    assert without_equal_frames(dls.notes) == []


def test_images_that_are_turned_without_their_label_maps_are_in_a_note(recipe: MakeRecipe, tmp_path: Path) -> None:
    for name, tag, ids in (("half", 3, IDS), ("square", 6, IDS[:, :4])):
        upright = np.kron(ids, np.ones((16, 16), np.uint8))
        turned_frames(tmp_path / name, tag, upright, "png", "upright")
        found = inspect_data(open_dataset(recipe(), tmp_path / name), tmp_path / "batch.png")
        assert found.notes[0].startswith("train: 2 images are turned upright by their EXIF orientation; their label")
        assert found.notes[1].startswith("val: 2 images")
        dls = segmentation_dls(recipe(), tmp_path / name, device="cpu", workers=0, cache=False)
        assert without_equal_frames(dls.notes) == found.notes
        turned_frames(tmp_path / name, tag, upright, "png", "own")
        assert survey(open_dataset(recipe(), tmp_path / name), dls.train.items).turned == 0


# Sizes and metadata


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20_000, 3)])  # outside of what --size accepts
def test_frames_of_any_size_are_checked_trained_on_and_scored(
    size: tuple[int, int], recipe: MakeRecipe, tmp_path: Path
) -> None:
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("L", size).save(tmp_path / f"data/{part}/{number}.png")
    dls = segmentation_dls(recipe(), tmp_path / "data", device="cpu", workers=0, cache=False)
    assert dls.valid.one_batch()[1].shape == (1, *size[::-1])
    dataset = open_dataset(recipe(), tmp_path / "data")
    assert survey(dataset, dataset.frames("val")).sizes == {f"{size[0]}x{size[1]}": 1}
    assert evaluate(SeesRed(dataset), dataset).scores.counts.sum() == size[0] * size[1]


LONG = zlib.compress(bytes(3 << 20))  # Pillow's limit for a text or profile is 1 MiB
MEGABYTE = zlib.compress(bytes(1 << 20))
METADATA = {
    "profile": chunk(b"iCCP", b"p\0\0" + LONG),
    "damaged profile": chunk(b"iCCP", b"p\0\7" + LONG),
    "cut profile": chunk(b"iCCP", b"p\0"),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "text": chunk(b"zTXt", b"k\0\0" + LONG),
    "wrong checksum": chunk(b"tEXt", b"k\0v")[:-4] + bytes(4),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "damaged EXIF": chunk(b"eXIf", b"no TIFF"),
    "bombs": b"".join(chunk(b"zTXt", b"%d\0\0" % n + MEGABYTE) for n in range(99)),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", METADATA)
def test_a_png_is_read_whatever_its_metadata(kind: str, place: str, reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(8, 0, IDS, **{place: METADATA[kind]}))
    assert np.array_equal(reader()(file), IDS)
    assert np.array_equal(np.asarray(open_image(file))[..., 0], IDS)
    with opened_image(file, "this image") as image:
        image.load()
        assert sum(len(value) for value in image.info.values()) < 70 << 20


def test_a_mask_of_our_own_is_known_by_its_metadata(tmp_path: Path) -> None:
    save_image(Image.fromarray(IDS), tmp_path / "a.png")
    assert is_own_png(tmp_path / "a.png")
