"""What Pillow does not document: its reader of PNGs, so that unusual metadata is no reason not to read the pixels."""

from PIL import Image, ImageFile, PngImagePlugin

PNG = "PNG-PIXELS"  # the format that `Image.open(file, formats=[PNG])` reads with `PixelsPng`
NEEDED = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}  # the only chunks that a reader may ignore and pixels depend on


class PixelsPng(PngImagePlugin.PngImageFile):
    """A PNG of which metadata is left out where Pillow's own reader raises an error.

    Pillow limits the size of texts and profiles against decompression bombs, and refuses the whole file above it.

    Example:
        ::

            Image.open("frame.png", formats=[PNG])
    """

    @property
    def png(self) -> PngImagePlugin.PngStream | None:
        """What reads the chunks of the file, None after the pixels are read."""
        return self._stream

    @png.setter
    def png(self, stream: PngImagePlugin.PngStream | None) -> None:
        self._stream = stream and _PixelsStream(stream.fp)  # type: ignore[arg-type]


class _PixelsStream(PngImagePlugin.PngStream):
    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if not _is_metadata(cid):
            return super().call(cid, pos, length)
        # Above the limit Pillow raises an error only after it has stored one more text.
        if self.text_memory <= PngImagePlugin.MAX_TEXT_MEMORY:
            try:
                return super().call(cid, pos, length)
            except Exception:  # too long, damaged, or of a kind that Pillow does not know
                self.fp.seek(pos)  # type: ignore[union-attr]
        return ImageFile._safe_read(self.fp, length)  # type: ignore[arg-type] # noqa: SLF001

    def crc(self, cid: bytes, data: bytes) -> None:
        (self.crc_skip if _is_metadata(cid) else super().crc)(cid, data)


def _is_metadata(cid: bytes) -> bool:
    return cid[:1].islower() and cid not in NEEDED  # a small letter says that a reader may ignore a chunk


# Not by `register_open`, which would have every `Image.open` of a program use it too.
Image.OPEN[PNG] = (PixelsPng, lambda prefix: prefix.startswith(b"\x89PNG\r\n\x1a\n"))
