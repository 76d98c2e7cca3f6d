"""What the package uses of Pillow beyond its public interface still exists and does what is expected."""

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from linknet_fastai.core.pillow_private import PNG, PixelsPng


def test_pillow_still_reads_a_png_with_the_stream_of_a_reader(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("short", "text")
    info.add_text("long", "a" * (2 << 20), zip=True)
    Image.new("L", (3, 2), 7).save(tmp_path / "a.png", pnginfo=info)
    with Image.open(tmp_path / "a.png", formats=[PNG]) as image:
        assert isinstance(image, PixelsPng)
        assert image.format == "PNG"
        assert image.info["short"] == "text"
        assert image.getpixel((0, 0)) == 7, "change core/pillow_private.py"


def test_pillow_itself_still_refuses_long_texts(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("long", "a" * (2 << 20), zip=True)
    Image.new("L", (3, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ValueError, match="too large"):  # otherwise core/pillow_private.py is no longer needed
        Image.open(tmp_path / "a.png")
