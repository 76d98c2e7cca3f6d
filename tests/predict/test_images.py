"""Prediction: masks have the size of the frame and the recipe's ids; model files are checked when they are read."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import open_image, save_image
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.engines.engine import NATIVE
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.predict.images import predict_images
from linknet_fastai.predict.inputs import Job, collect_clips, collect_jobs, find_images

IDS = (7, 40, 200)
SaveArray = Callable[[np.ndarray, Path], Path]


class StrongestColor(nn.Module):
    """Scores three classes by red, green and blue: what comes out is known for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return images


@pytest.fixture(scope="module")
def card() -> ModelCard:
    colors = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    classes = [
        {"id": class_id, "name": name, "color": color}
        for class_id, name, color in zip(IDS, ("red", "green", "blue"), colors, strict=True)
    ]
    return ModelCard(recipe="colors", classes=classes, void={"id": 9}, size=(64, 48))


@pytest.fixture(scope="module")
def network() -> LinkNet:
    torch.manual_seed(0)
    return LinkNet(3, pretrained=False).eval()


@pytest.fixture(scope="module")
def model_file(network: LinkNet, card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(network, card, file)
    return file


@pytest.fixture
def predictor(card: ModelCard) -> Predictor:
    return Predictor(StrongestColor(), card, "cpu", "fp32")


def striped(width: int, height: int) -> np.ndarray:
    """A frame whose left half is red, its right half green above and blue below."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, width // 2 :, 2] = 255
    return frame


def truth(width: int, height: int) -> np.ndarray:
    """The ids of `striped`."""
    return np.array(IDS, np.uint8)[striped(width, height).argmax(-1)]


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


# Masks and overlays


@pytest.mark.parametrize("size", [(64, 48), (128, 96), (37, 21), (1, 1)])
def test_a_mask_has_the_frames_own_size_one_channel_and_the_recipes_ids(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path, size: tuple[int, int]
) -> None:
    source = save_array(striped(*size), tmp_path / "frame.png")
    assert predict_images(predictor, collect_jobs([source], tmp_path / "out"), tmp_path / "out") == []
    with Image.open(tmp_path / "out/masks/frame.png") as mask:
        assert (mask.mode, mask.size) == ("L", size)
        assert set(np.unique(mask)) <= set(IDS)
    with Image.open(tmp_path / "out/overlays/frame.png") as drawn:
        assert (drawn.mode, drawn.size) == ("RGB", size)


def test_a_mask_has_the_predicted_class_of_each_pixel(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path
) -> None:
    source = save_array(striped(64, 48), tmp_path / "frame.png")
    predict_images(predictor, collect_jobs([source], tmp_path / "out"), tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out/masks/frame.png"), truth(64, 48))


def test_confidence_is_a_map_of_its_own_and_what_is_below_becomes_void(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path
) -> None:
    frame = striped(64, 48)
    frame[:10] //= 8  # darker, so less certain
    source, out = save_array(frame, tmp_path / "frame.png"), tmp_path / "out"
    certain = predictor.predict_with_confidence(source)[1]
    assert certain[:10].max() < certain[10:].min()
    assert predict_images(predictor, [Job(source, Path("frame.png"))], out, confidence=True) == []
    assert np.array_equal(read(out / "confidence/frame.png"), certain)
    assert set(np.unique(read(out / "masks/frame.png"))) <= set(IDS)
    below = (int(certain[:10].max()) + 0.5) / 255
    predict_images(predictor, collect_jobs([source], out), out, below=below)
    mask = read(out / "masks/frame.png")
    assert (mask[:10] == 9).all()  # the id of void
    assert np.array_equal(mask[10:], truth(64, 48)[10:])
    assert np.array_equal(read(out / "overlays/frame.png")[:9], frame[:9])  # void is not colored
    assert [job.image for job in collect_jobs([tmp_path], out)] == [source]  # what was written is no input


def test_the_network_sees_the_training_size_and_its_logits_are_resampled(predictor: Predictor) -> None:
    channels = predictor.predict_channels(Image.fromarray(striped(128, 192)))
    assert predictor.model.seen == [(1, 3, 48, 64)]
    assert channels.shape == (192, 128)
    wrong = channels != striped(128, 192).argmax(-1)
    assert wrong.mean() < 0.03
    rows, columns = np.nonzero(wrong)
    assert all(abs(row - 96) <= 4 or abs(column - 64) <= 4 for row, column in zip(rows, columns, strict=True))


@pytest.mark.parametrize(("size", "seen"), [(NATIVE, (1, 3, 21, 37)), ((40, 50), (1, 3, 50, 40))])
def test_another_size_may_be_given(card: ModelCard, size: object, seen: tuple) -> None:
    predictor = Predictor(StrongestColor(), card, "cpu", "fp32", size)
    assert predictor(Image.fromarray(striped(37, 21))).shape == (21, 37)
    assert predictor.model.seen == [seen]


def test_a_network_gives_masks_of_ids_at_any_size(network: LinkNet, card: ModelCard) -> None:
    predictor = Predictor(network, card, "cpu", "fp32", NATIVE)
    ids = predictor(Image.fromarray(striped(70, 41)))
    assert ids.shape == (41, 70)
    assert set(np.unique(ids)) <= set(IDS)


def test_the_network_gets_what_the_validation_loader_gives(street_data: Path) -> None:
    dls = segmentation_dls("street", street_data, size="64x48", bs=3, workers=0)
    images = torch.cat([batch for batch, _ in dls.valid])
    model = StrongestColor()
    seen: list[Tensor] = []
    model.forward = lambda batch: seen.append(batch) or batch
    predictor = Predictor(model, ModelCard.of(dls.recipe, dls.size), "cpu", "fp32")
    for place, file in enumerate(sorted((street_data / "val" / "images").glob("*.png"))):
        predictor(open_image(file))
        assert torch.equal(seen[place][0], images[place].as_subclass(Tensor))


def test_masks_only_writes_no_overlays(predictor: Predictor, save_array: SaveArray, tmp_path: Path) -> None:
    source = save_array(striped(64, 48), tmp_path / "frame.png")
    predict_images(predictor, collect_jobs([source], tmp_path / "out"), tmp_path / "out", masks_only=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK"])
def test_images_of_other_modes_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("frame.tif" if mode == "CMYK" else "frame.png")
    Image.fromarray(striped(64, 48)).convert(mode).save(file)
    image = open_image(file)
    assert (image.mode, image.size) == ("RGB", (64, 48))


def test_a_frame_turned_by_exif_is_predicted_upright(predictor: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was upright: turn by 90 degrees clockwise
    turned = Image.fromarray(striped(48, 64)).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "frame.jpg", quality=100, subsampling=0, exif=exif)
    predictor.size = NATIVE
    predict_images(predictor, collect_jobs([tmp_path / "frame.jpg"], tmp_path / "out"), tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out/masks/frame.png"), truth(48, 64))


# Inputs


def test_subfolders_are_mirrored_and_other_files_are_skipped(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "deep/er/b.JPG", "deep/a.bmp"):
        save_array(striped(64, 48), folder / name)
    (folder / "notes.txt").write_text("no image")
    predict_images(predictor, collect_jobs([folder], tmp_path / "out"), tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    names = ("a.png", "deep/er/b.png", "deep/a.png")
    assert written == {f"{kind}/{name}" for kind in ("masks", "overlays") for name in names}
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_file_is_written_under_its_own_name_wherever_it_is_stored(save_array: SaveArray, tmp_path: Path) -> None:
    source = save_array(striped(64, 48), tmp_path / "x/y/frame.v2.jpg")
    assert collect_jobs([source], tmp_path / "out") == [Job(source, Path("frame.v2.png"))]


@pytest.mark.parametrize("names", [("a.png", "a.jpg"), ("sub/a.png", "sub/a.bmp")])
def test_two_images_of_a_folder_that_would_write_one_mask_are_refused(
    save_array: SaveArray, tmp_path: Path, names: tuple[str, str]
) -> None:
    files = [save_array(striped(8, 8), tmp_path / "in" / name) for name in names]
    with pytest.raises(UsageError) as caught:
        collect_jobs([tmp_path / "in"], tmp_path / "out")
    assert all(str(file) in str(caught.value) for file in files)


@pytest.mark.parametrize("video", [(), ("--video",)])
def test_what_an_earlier_prediction_wrote_is_no_input(
    command: Callable[..., int], model_file: Path, save_array: SaveArray, tmp_path: Path, video: tuple[str, ...]
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "sub/b.ppm"):
        save_array(striped(64, 48), folder / name)
    assert command("predict", model_file, folder, "--out", folder / "out") == 0
    assert (folder / "out" / "legend.png").is_file()
    before = sorted(path for path in (folder / "out").rglob("*.png"))
    assert len(before) == 5
    assert command("predict", model_file, folder, "--out", folder / "out", *video) == 0
    assert sorted(path for path in (folder / "out").rglob("*.png")) == before
    for clip in (folder / "out").rglob("*.mp4"):
        with av.open(str(clip)) as container:
            assert len(list(container.decode(video=0))) == 2


@pytest.mark.parametrize("option", ["--confidence", "--masks-only"])
def test_what_a_prediction_into_another_folder_wrote_is_no_frame_either(
    command: Callable[..., int], model_file: Path, save_array: SaveArray, tmp_path: Path, option: str
) -> None:
    frames = [save_array(striped(64, 48), tmp_path / "in" / name) for name in ("a.png", "sub/b.png")]
    assert command("predict", model_file, tmp_path / "in", "--out", tmp_path / "in/first", option) == 0
    assert find_images(tmp_path / "in") == frames  # as for the calibration of int8
    assert [job.image for job in collect_jobs([tmp_path / "in"], tmp_path / "second")] == frames
    own = save_array(striped(64, 48), tmp_path / "in/overlays/c.png")  # a folder of the user
    assert find_images(tmp_path / "in") == sorted([*frames, own])


def test_the_video_of_an_earlier_prediction_is_no_input_either(
    command: Callable[..., int], model_file: Path, save_array: SaveArray, tmp_path: Path
) -> None:
    save_array(striped(64, 48), tmp_path / "in/1.png")
    assert command("predict", model_file, tmp_path / "in", "--video", "--out", tmp_path / "in/first") == 0
    assert (tmp_path / "in/first/overlays/in.mp4").is_file()
    assert collect_clips([tmp_path / "in"], tmp_path / "second") == ([], [tmp_path / "in"])


def test_a_label_map_that_was_drawn_by_hand_is_not_overwritten(
    command: Callable[..., int],
    model_file: Path,
    save_array: SaveArray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_array(striped(64, 48), tmp_path / "yard" / "images" / "a.png")
    drawn = save_array(np.ones((48, 64), np.uint8), tmp_path / "yard" / "masks" / "a.png")
    before = drawn.read_bytes()
    assert command("predict", model_file, tmp_path / "yard" / "images", "--out", tmp_path / "yard") == 2
    assert f"{drawn}: already exists" in capsys.readouterr().err
    assert drawn.read_bytes() == before
    assert not (tmp_path / "yard" / "overlays").exists()


@pytest.mark.skipif(os.name == "nt", reason="links take a right there")
def test_links_to_folders_are_followed_once(save_array: SaveArray, tmp_path: Path) -> None:
    save_array(striped(8, 8), tmp_path / "in" / "a.png")
    save_array(striped(8, 8), tmp_path / "elsewhere" / "b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    jobs = collect_jobs([tmp_path / "in"], tmp_path / "out")
    assert [job.target.as_posix() for job in jobs] == ["a.png", "link/b.png"]


def test_a_folder_that_cannot_be_read_is_named(
    save_array: SaveArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_array(striped(8, 8), tmp_path / "in" / "a.png")
    save_array(striped(8, 8), tmp_path / "in" / "closed" / "b.png")
    scandir = os.scandir

    def refused(folder: str) -> object:  # root may look into everything
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    for collect in (collect_jobs, collect_clips):
        with pytest.raises(UserError, match="closed: this folder cannot be read"):
            collect([tmp_path / "in"], tmp_path / "out")


def test_a_mask_that_is_open_elsewhere_is_one_failure(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        save_array(striped(64, 48), tmp_path / "in" / f"{name}.png")
    jobs = collect_jobs([tmp_path / "in"], tmp_path / "out")
    replace = Path.replace

    def refused(self: Path, target: Path) -> Path:  # as Windows does where a viewer has the file open
        if target.name == "a.png":
            raise PermissionError(errno.EACCES, "in use", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    (tmp_path / "out").mkdir()
    (failure,) = predict_images(predictor, jobs, tmp_path / "out")
    assert "a.png: cannot be written" in failure
    assert (tmp_path / "out" / "masks" / "b.png").is_file()


def test_two_inputs_that_would_write_one_mask_are_refused(save_array: SaveArray, tmp_path: Path) -> None:
    files = [save_array(striped(8, 8), tmp_path / side / "a.png") for side in ("left", "right")]
    for inputs in (files, [file.parent for file in files], [files[0], files[1].parent], [files[0], files[0]]):
        with pytest.raises(UsageError, match=r"would both write a\.png"):
            collect_jobs(inputs, tmp_path / "out")


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder") as caught:
        collect_jobs([tmp_path / "gone.png"], tmp_path / "out")
    assert str(tmp_path / "gone.png") in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        collect_jobs([tmp_path], tmp_path / "out")


def test_an_image_that_cannot_be_read_is_reported_and_the_others_are_done(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for number in range(8):
        file = save_array(striped(64, 48), folder / f"{number}.png")
        if number in (0, 3, 7):
            file.write_bytes(file.read_bytes()[:-60] if number == 3 else b"")
    steps: list[tuple] = []
    failures = predict_images(
        predictor,
        collect_jobs([folder], tmp_path / "out"),
        tmp_path / "out",
        progress=lambda *step: steps.append(step),
    )
    assert [Path(line.split(":")[0]).name for line in failures] == ["0.png", "3.png", "7.png"]
    assert sorted(path.stem for path in (tmp_path / "out/masks").iterdir()) == ["1", "2", "4", "5", "6"]
    assert steps[-1] == ("predicting", 8, 8)


def test_a_place_that_cannot_be_written_is_a_one_line_error(
    predictor: Predictor, save_array: SaveArray, tmp_path: Path
) -> None:
    source = save_array(striped(64, 48), tmp_path / "frame.png")
    (tmp_path / "out").write_text("a file, no folder")
    with pytest.raises(UserError, match="cannot be written"):
        predict_images(predictor, collect_jobs([source], tmp_path / "out"), tmp_path / "out")


def test_an_image_that_fails_to_write_leaves_nothing_half_written(tmp_path: Path) -> None:
    (target := tmp_path / "mask.png").mkdir()
    with pytest.raises(UserError, match=r"mask\.png: cannot be written"):
        save_image(Image.new("L", (4, 4)), target)
    assert list(tmp_path.iterdir()) == [target]


# Model files


def test_a_saved_model_comes_back_with_its_card_and_scores(
    network: LinkNet, card: ModelCard, model_file: Path
) -> None:
    loaded, loaded_card = load_model(model_file)
    assert loaded_card == card
    assert not loaded.training
    image = Image.fromarray(striped(70, 41))
    assert np.array_equal(
        Predictor(loaded, loaded_card, "cpu", "fp32")(image), Predictor(network, card, "cpu", "fp32")(image)
    )
    assert [path.name for path in model_file.parent.iterdir()] == ["model.safetensors"]


def test_a_run_folder_is_a_model(model_file: Path, card: ModelCard) -> None:
    assert load_model(model_file.parent)[1] == card


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors in this folder") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.safetensors: no such model"):
        load_model(tmp_path / "gone.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"a model is a run folder, a \.safetensors or a \.pkl"):
        load_model(file)


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.9999])
def test_a_damaged_model_is_refused_by_name(model_file: Path, tmp_path: Path, share: float) -> None:
    data = model_file.read_bytes()
    (file := tmp_path / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="damaged, or not a safetensors file") as caught:
        load_model(file)
    assert str(file) in str(caught.value)


def test_a_safetensors_of_others_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not written by linknet-fastai"):
        load_model(file)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"size": "wide"},
        {"decoder": "nosuch"},
        {"licence": "MIT"},
        {"mean": [0.5]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_metadata_that_do_not_fit_are_refused_by_key(card: ModelCard, tmp_path: Path, change: dict) -> None:
    metadata = json.dumps(card.model_dump(mode="json") | change)
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "m.safetensors", metadata={METADATA_KEY: metadata})
    with pytest.raises(UserError, match=next(iter(change))) as caught:
        load_model(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", '"text"'])
def test_metadata_that_are_no_table_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "m.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(UserError, match=r"m\.safetensors"):
        load_model(file)


def test_an_encoder_in_the_metadata_that_timm_does_not_have_is_refused(card: ModelCard, tmp_path: Path) -> None:
    metadata = card.model_copy(update={"encoder": "resnet1800"}).model_dump_json()
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "m.safetensors", metadata={METADATA_KEY: metadata})
    with pytest.raises(UserError, match="resnet1800"):
        load_model(file)


def test_weights_that_do_not_fit_the_metadata_are_refused(card: ModelCard, tmp_path: Path) -> None:
    save_file(
        {"weight": torch.zeros(3)},
        file := tmp_path / "m.safetensors",
        metadata={METADATA_KEY: card.model_dump_json()},
    )
    with pytest.raises(UserError, match="weights and metadata do not fit"):
        load_model(file)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_a_pickle_is_not_opened_without_trust(tmp_path: Path) -> None:
    (file := tmp_path / "export.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UsageError, match=r"runs any code.*--trust-pickle"):
        load_model(file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"model": 1})])
def test_a_trusted_pickle_that_is_no_learner_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "export.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"export\.pkl: not a learner exported by linknet-fastai"):
        load_model(file, trust_pickle=True)
