"""LinkNet is the paper's network, at any size, with any fitting timm encoder."""

from typing import get_args

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from linknet_fastai.config.settings import Decoder
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.model.linknet import DECODERS, LinkNet


class PlainLinkNet(nn.Module):
    """LinkNet with resnet18 and transposed convolutions, written a second time without timm or this package."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [64, 64, 128, 256, 512]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                [BasicBlock(widths[i], widths[i + 1], 2 if i else 1), BasicBlock(widths[i + 1], widths[i + 1], 1)]
            )
            for i in range(4)
        )
        self.decoders = nn.ModuleList(
            self.decoder(m, n, m > 64 or i > 0)
            for i, (m, n) in enumerate([(64, 64), (128, 64), (256, 128), (512, 256)])
        )
        self.full1 = nn.ConvTranspose2d(64, 32, 3, 2, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.full3 = nn.ConvTranspose2d(32, n_classes, 2, 2)

    @staticmethod
    def decoder(m: int, n: int, up: bool) -> nn.ModuleList:
        q = m // 4
        middle = nn.ConvTranspose2d(q, q, 3, 2, 1, 1, bias=False) if up else nn.Conv2d(q, q, 3, 1, 1, bias=False)
        return nn.ModuleList(
            [
                nn.Conv2d(m, q, 1, bias=False),
                nn.BatchNorm2d(q),
                middle,
                nn.BatchNorm2d(q),
                nn.Conv2d(q, n, 1, bias=False),
                nn.BatchNorm2d(n),
            ]
        )

    @staticmethod
    def decode(parts: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(parts[::2], parts[1::2], strict=True):
            x = F.relu(norm(convolution(x)))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def fit(up: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
            return up[:, :, : to.shape[2], : to.shape[3]]

        image, pooled = x, self.stem(x)
        e = [pooled]
        for first, second in self.stages:
            e.append(second(first(e[-1])))
        d4 = fit(self.decode(self.decoders[3], e[4]), e[3]) + e[3]
        d3 = fit(self.decode(self.decoders[2], d4), e[2]) + e[2]
        d2 = fit(self.decode(self.decoders[1], d3), e[1]) + e[1]
        d1 = self.decode(self.decoders[0], d2) + pooled
        y = F.relu(self.norm1(self.full1(d1)))
        y = F.relu(self.norm2(self.conv2(y)))
        return fit(self.full3(y), image)


class BasicBlock(nn.Module):
    def __init__(self, m: int, n: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(m, n, 3, stride, 1, bias=False), nn.BatchNorm2d(n)
        self.conv2, self.norm2 = nn.Conv2d(n, n, 3, 1, 1, bias=False), nn.BatchNorm2d(n)
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(nn.Conv2d(m, n, 1, stride, bias=False), nn.BatchNorm2d(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


def randomized(model: nn.Module) -> nn.Module:
    """All weights and statistics random, so that no zero hides a wrong connection."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def linknet() -> LinkNet:
    torch.manual_seed(0)
    return randomized(LinkNet(11, pretrained=False)).eval()


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_the_table_has_a_line_for_every_decoder_of_the_settings():
    assert tuple(DECODERS) == get_args(Decoder)


def test_an_unknown_decoder_is_an_error_that_lists_the_decoders():
    with pytest.raises(UsageError, match="--decoder: 'unpool' is not one of deconv, pixelshuffle"):
        LinkNet(3, decoder="unpool", pretrained=False)


def test_has_the_papers_number_of_parameters(linknet):
    assert round(parameters(linknet) / 1e6, 2) == 11.53


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_deconv_equals_an_independent_transcription_with_the_same_weights(linknet, size):
    plain = PlainLinkNet(11).eval()
    assert parameters(plain) == parameters(linknet)
    # Both list their layers in the order of the paper, blocks from 1 to 4, so weights are copied one by one.
    ours = [value for name, value in linknet.state_dict().items() if "num_batches" not in name]
    names = [name for name in plain.state_dict() if "num_batches" not in name]
    plain.load_state_dict(dict(zip(names, ours, strict=True)), strict=False)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(plain(image), linknet(image), rtol=1e-4, atol=1e-4)


def test_shapes_inside_match_the_papers_table(linknet):
    shapes = {}
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
        for name, module in [
            ("stem", linknet.encoder.conv1),
            ("pooled", linknet.encoder.maxpool),
            *((f"encoder{i}", getattr(linknet.encoder, f"layer{i}")) for i in range(1, 5)),
            *((f"decoder{i}", linknet.blocks[i - 1]) for i in range(1, 5)),
            *((f"head{i}", linknet.head[j]) for i, j in enumerate((0, 3, 6), 1)),
        ]
    ]
    with torch.no_grad():
        linknet(torch.zeros(1, 3, 256, 512))
    for hook in hooks:
        hook.remove()
    assert shapes == {
        "stem": (64, 128, 256),
        "pooled": (64, 64, 128),
        "encoder1": (64, 64, 128),
        "encoder2": (128, 32, 64),
        "encoder3": (256, 16, 32),
        "encoder4": (512, 8, 16),
        "decoder4": (256, 16, 32),
        "decoder3": (128, 32, 64),
        "decoder2": (64, 64, 128),
        "decoder1": (64, 64, 128),
        "head1": (32, 128, 256),
        "head2": (32, 128, 256),
        "head3": (11, 256, 512),
    }


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(33, 33), (360, 480), (65, 97), (127, 34)])
def test_logits_have_the_size_of_any_input(decoder, size):
    model = LinkNet(5, decoder=decoder, pretrained=False).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_reach_every_parameter(decoder):
    torch.manual_seed(0)
    model = randomized(LinkNet(4, decoder=decoder, pretrained=False)).train()
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_take_both_signs(decoder):
    torch.manual_seed(0)
    model = LinkNet(11, decoder=decoder, pretrained=False).train()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64))
    assert logits.min() < 0 < logits.max()


def test_sub_pixel_decoder_starts_without_checkerboard():
    """ICNR: each output pixel of a 2x2 cell starts equal."""
    torch.manual_seed(0)
    upsampling = LinkNet(11, decoder="pixelshuffle", pretrained=False).head[0].eval()
    for bias in (layer.bias for layer in upsampling.modules() if isinstance(layer, nn.Conv2d)):
        bias.data.zero_()
    with torch.no_grad():
        cells = F.pixel_unshuffle(upsampling(torch.randn(1, 64, 4, 4)), 2).view(1, 32, 4, 4, 4)
    torch.testing.assert_close(cells, cells[:, :, :1].expand_as(cells))


@pytest.mark.parametrize("encoder", ["resnet50", "mobilenetv3_small_050"])
def test_other_encoders_fit_with_and_without_a_pooled_stem(encoder):
    model = LinkNet(3, encoder=encoder, pretrained=False).eval()
    assert model.has_pooled_stem == (encoder == "resnet50")
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 65, 97)).shape == (1, 3, 65, 97)


@pytest.mark.parametrize(("encoder", "last"), [("resnet18", 128), ("resnet50", 512)])
def test_width_is_a_factor_of_all_channels_and_the_stem_is_three_small_convolutions(encoder, last):
    model = LinkNet(3, encoder=encoder, pretrained=False, width=0.25).eval()
    stem = [layer for layer in model.encoder.conv1 if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size) for layer in stem] == [(8, (3, 3)), (8, (3, 3)), (16, (3, 3))]
    assert model.blocks[-1][0].in_channels == last
    assert [layer.out_channels for layer in model.head if isinstance(layer, nn.Conv2d)] == [8]
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 65, 97)).shape == (1, 3, 65, 97)
    full, quarter = (
        sum(p.numel() for p in LinkNet(3, encoder, "deconv", False, width=w).parameters()) for w in (1, 0.25)
    )
    assert quarter < full / 14


def test_a_width_that_an_encoder_or_its_weights_do_not_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--width: .*mobilenetv3_small_050.*only ResNets"):
        LinkNet(3, encoder="mobilenetv3_small_050", pretrained=False, width=0.5)
    for weights in ({"pretrained": True}, {"pretrained": False, "encoder_weights": tmp_path / "resnet18.pth"}):
        if file := weights.get("encoder_weights"):
            torch.save(timm.create_model("resnet18").state_dict(), file)
        with pytest.raises(UsageError, match=r"--width: .*weights of resnet18.*--no-pretrained"):
            LinkNet(3, width=0.5, **weights)


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "resnet8000"])
def test_an_encoder_that_does_not_fit_is_refused_by_name(encoder):
    with pytest.raises(UsageError, match=encoder):
        LinkNet(3, encoder=encoder, pretrained=False)


def test_probing_the_encoder_leaves_its_statistics_alone():
    model = LinkNet(3, pretrained=False)
    assert model.training
    assert not model.encoder.bn1.running_mean.any()


def test_missing_pretrained_weights_are_reported_with_the_alternatives(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(UserError, match=r"resnet18.*--no-pretrained.*--encoder-weights FILE"):
        LinkNet(3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_encoder_weights_come_from_a_local_timm_checkpoint(tmp_path, suffix):
    torch.manual_seed(5)
    state = timm.create_model("resnet18").state_dict()
    file = tmp_path / f"resnet18{suffix}"
    torch.save(state, file) if suffix == ".pth" else save_file(state, file)
    model = LinkNet(3, encoder_weights=file)
    torch.testing.assert_close(model.encoder.layer4[1].conv2.weight.data, state["layer4.1.conv2.weight"])


def test_encoder_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet34").state_dict() | {"layer1.0.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"other\.pth lacks 1 of .*layer1\.0\.conv1\.weight"):
        LinkNet(3, encoder_weights=file)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pth"):
        LinkNet(3, encoder_weights=tmp_path / "text.pth")


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_from_scratch_every_residual_branch_is_active(encoder: str) -> None:
    model = LinkNet(3, encoder, pretrained=False)
    assert all((module.weight == 1).all() for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_a_checkpoints_batch_norms_stay_as_they_are(tmp_path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    model = LinkNet(3, pretrained=False, encoder_weights=tmp_path / "resnet18.pth")
    assert not model.encoder.state_dict()["layer1.0.bn2.weight"].any()  # as timm initializes it


@pytest.mark.parametrize(("encoder", "decoder"), [("test_resnet", "deconv"), ("test_efficientnet", "pixelshuffle")])
def test_torch_compile_gets_the_whole_network_as_one_graph(encoder: str, decoder: str) -> None:
    network = LinkNet(3, encoder, decoder, pretrained=False).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)  # raises an error where the graph breaks
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))
