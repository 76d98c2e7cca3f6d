"""What this package uses of fastai beyond its public interface; no other file uses a private name of fastai."""

import torch.nn.functional as F
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader


class LabelsAtImageSizeDL(TfmdDL):
    """A `TfmdDL` whose `show_batch` also draws label maps of another size than their images.

    fastai draws a label map over its image pixel for pixel. `_pre_show_batch` decodes a batch for `show_batch`.
    """

    def _pre_show_batch(self, b: tuple, max_n: int = 9) -> tuple:
        images, *labels = b
        size = images.shape[-2:]
        shown = [F.interpolate(y[:, None].float(), size)[:, 0].to(y.dtype).as_subclass(type(y)) for y in labels]
        return super()._pre_show_batch((images, *shown), max_n)


def number_of_workers(dl: DataLoader) -> int:
    """How many loader processes a fastai DataLoader starts; `fake_l` is the torch DataLoader inside it."""
    return dl.fake_l.num_workers
