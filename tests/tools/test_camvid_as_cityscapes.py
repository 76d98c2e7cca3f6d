"""The script that writes CamVid in the layout of Cityscapes: names, label ids, instances from components."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import VOID
from linknet_fastai.data.open import open_dataset
from linknet_fastai.scoring.cityscapes import read_truth


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module; `tools` is not a package."""
    file = Path(__file__).parents[2] / "tools" / "camvid_as_cityscapes.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_instances_are_the_components_from_the_largest_down(script: ModuleType) -> None:
    names = load_recipe("camvid").class_names
    channels = np.full((40, 40), names.index("Road"), np.uint8)
    channels[2:7, 2:7] = names.index("Car")
    channels[10:20, 10:20] = channels[20:25, 20:25] = names.index("Car")  # one: they meet at a corner
    channels[30:33, 30:33] = names.index("Car")  # too small for an instance
    channels[35:] = VOID
    label_ids, instance_ids = script.label_and_instance_ids(channels, names)
    assert instance_ids.dtype == np.uint16
    assert label_ids[[0, 3, 39], [0, 3, 0]].tolist() == [7, 26, 0]
    places = [0, 15, 22, 3, 31, 39]
    assert instance_ids[places, places].tolist() == [7, 26000, 26000, 26001, 26, 0]


def test_a_camvid_tree_becomes_one_that_the_recipe_reads(
    script: ModuleType, save_array: Callable[[np.ndarray, Path], Path], tmp_path: Path
) -> None:
    camvid, out = tmp_path / "camvid", tmp_path / "out"
    classes = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((8, 8), np.uint8))
    for split, stem in (("train", "0006R0_f00930"), ("val", "0016E5_07959")):
        save_array(np.zeros((*classes.shape, 3), np.uint8), camvid / split / f"{stem}.png")
        save_array(classes, camvid / f"{split}annot" / f"{stem}.png")
    script.main([str(camvid), str(out)])
    dataset = open_dataset("cityscapes", out)
    (frame,) = dataset.frames("train")
    assert frame.stem == "0006R0_000000_000930"
    label_ids, instance_ids = read_truth(frame.label)
    assert np.unique(instance_ids[instance_ids > 1000]).tolist() == [24000, 25000, 26000]
    assert ((dataset.read_label(frame.label) == VOID) == (label_ids == 0)).all()
    assert dataset.frames("val")[0].stem == "0016E5_000000_007959"
    with pytest.raises(SystemExit):
        script.main([str(camvid), str(out)])  # an existing folder is left as it is


def test_a_frame_of_another_data_set_is_refused(script: ModuleType) -> None:
    assert script.cityscapes_stem("Seq05VD_f05100") == "Seq05VD_000000_005100"
    with pytest.raises(UserError, match="not the name of a CamVid frame"):
        script.cityscapes_stem("aachen_000000_000019")
