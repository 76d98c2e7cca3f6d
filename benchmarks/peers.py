"""What LinkNet here is measured against: the peers' networks and loops, as their users would write them."""

import random
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import resnet18
from torchvision.transforms import functional as transforms

VOID = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CamVidFrames(Dataset):
    """CamVid in the SegNet layout as plain torch code reads it: PIL, a random scale, crop and flip, a color change.

    Gives images, 3xHxW normalised floats, and labels, HxW integers with 255 for void.

    Args:
        folder: the data folder, with train/ and trainannot/.
        names: the frames' file names.
        size: (width, height) of what comes out; what is beyond the frame is void.
    """

    def __init__(self, folder: Path, names: list[str], size: tuple[int, int]) -> None:
        self.folder, self.names, self.size = folder, names, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name = self.names[index]
        image = Image.open(self.folder / "train" / name).convert("RGB")
        label = Image.open(self.folder / "trainannot" / name)
        zoom = random.uniform(0.75, 1.75)
        scaled = [round(zoom * side) for side in image.size[::-1]]
        image = transforms.resize(image, scaled)
        label = transforms.resize(label, scaled, transforms.InterpolationMode.NEAREST)
        pad = [max(wanted - have, 0) for wanted, have in zip(self.size, image.size, strict=True)]
        image = transforms.pad(image, [0, 0, *pad])
        label = transforms.pad(label, [0, 0, *pad], fill=11)
        top = random.randint(0, image.size[1] - self.size[1])
        left = random.randint(0, image.size[0] - self.size[0])
        image = transforms.crop(image, top, left, self.size[1], self.size[0])
        label = transforms.crop(label, top, left, self.size[1], self.size[0])
        if random.random() < 0.5:
            image, label = transforms.hflip(image), transforms.hflip(label)
        image = transforms.adjust_brightness(image, random.uniform(0.7, 1.3))
        image = transforms.adjust_contrast(image, random.uniform(0.7, 1.3))
        image = transforms.adjust_saturation(image, random.uniform(0.7, 1.3))
        labels = torch.from_numpy(np.array(label)).long()
        labels[labels == 11] = VOID
        return transforms.normalize(transforms.to_tensor(image), MEAN, STD), labels


def fastai_camvid(folder: Path, names: list[str], size: tuple[int, int], bs: int) -> DataLoaders:
    """fastai's own loaders over training frames, with aug_transforms; they validate on a single frame."""
    from fastai.vision.all import SegmentationDataLoaders, aug_transforms

    return SegmentationDataLoaders.from_label_func(
        folder,
        [*(folder / "train" / name for name in names), next((folder / "val").glob("*.png"))],
        lambda file: file.parents[1] / f"{file.parent.name}annot" / file.name,
        splitter=lambda files: (list(range(len(names))), [len(names)]),
        codes=np.array([*map(str, range(12))]),
        bs=bs,
        num_workers=1,
        batch_tfms=aug_transforms(size=size[::-1]),
    )


def smp_linknet() -> nn.Module:
    """segmentation_models_pytorch's Linknet with resnet18, 11 classes, from scratch."""
    import segmentation_models_pytorch as smp

    return smp.Linknet("resnet18", encoder_weights=None, classes=11)


class CourseLinkNet(nn.Module):
    """The course project's network, transcribed: torchvision's resnet18, deconvolutions, a 3x3 last layer."""

    def __init__(self, n_classes: int = 11) -> None:
        super().__init__()
        self.encoder = resnet18(weights=None)
        self.decoders = nn.ModuleList(
            self._decoder(m, n, stride) for m, n, stride in [(512, 256, 2), (256, 128, 2), (128, 64, 2), (64, 64, 1)]
        )
        self.head = nn.Sequential(
            *self._upsample(64, 32, 2),
            *self._layer(nn.Conv2d(32, 32, 3, padding=1), 32),
            nn.ConvTranspose2d(32, n_classes, 3, stride=2, padding=1, output_padding=1),
        )

    @staticmethod
    def _layer(convolution: nn.Module, channels: int) -> list[nn.Module]:
        return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]

    @classmethod
    def _upsample(cls, m: int, n: int, stride: int) -> list[nn.Module]:
        return cls._layer(nn.ConvTranspose2d(m, n, 3, stride, padding=1, output_padding=stride - 1), n)

    @classmethod
    def _decoder(cls, m: int, n: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *cls._layer(nn.Conv2d(m, m // 4, 1), m // 4),
            *cls._upsample(m // 4, m // 4, stride),
            *cls._layer(nn.Conv2d(m // 4, n, 1), n),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Score Bx3xHxW, sides multiples of 32; Bx11xHxW."""
        encoder = self.encoder
        feature = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images))))
        features = [feature]
        for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            features.append(stage(features[-1]))
        decoded = features.pop()
        for decoder in self.decoders:
            decoded = decoder(decoded) + features.pop()
        return self.head(decoded)


Loss = Literal["dice", "cross-entropy"]


def segmentation_loss(kind: Loss) -> nn.Module:
    """smp's documentation trains with its Dice loss, the course project and the tuned loop with cross-entropy."""
    if kind == "dice":
        import segmentation_models_pytorch as smp

        return smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=VOID)
    return nn.CrossEntropyLoss(torch.ones(11), ignore_index=VOID)


def pad_to_32(images: Tensor) -> Tensor:
    """Pad BxCxHxW at the right and bottom: smp refuses sides that are no multiples of 32."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % 32, 0, -height % 32))
