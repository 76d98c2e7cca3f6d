"""Each private name of fastai that is used still means what it is used for."""

import torch
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImage, TensorMask

from linknet_fastai.core.fastai_private import LabelsAtImageSizeDL, number_of_workers


def test_show_batch_gets_label_maps_at_the_size_of_their_images() -> None:
    assert hasattr(TfmdDL, "_pre_show_batch")
    labels = TensorMask(torch.arange(4 * 6).view(4, 6).repeat_interleave(2, 0).repeat_interleave(2, 1))
    dl = LabelsAtImageSizeDL([(TensorImage(torch.zeros(3, 4, 6)), labels)], bs=1, num_workers=0)
    images, shown, _ = dl.show_batch(show=False)
    assert images.shape == (1, 3, 4, 6)
    assert isinstance(shown, TensorMask)
    assert shown.tolist() == [torch.arange(4 * 6).view(4, 6).tolist()]


def test_the_number_of_loader_processes_is_known() -> None:
    assert [number_of_workers(DataLoader(range(3), num_workers=count)) for count in (0, 2)] == [0, 2]
