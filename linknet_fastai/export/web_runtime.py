"""ONNX Runtime for browsers: files of the npm package onnxruntime-web, which is downloaded once."""

import hashlib
import tarfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from fastcore.net import urlsave

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import atomic_write, cache_folder

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
TIMEOUT = 60  # seconds without an answer


def runtime_files(names: Sequence[str], archive: Path | None = None) -> dict[str, bytes]:
    """Read files of the package; without an archive it is downloaded into the user's cache folder, once.

    Args:
        names: of files in the package's folder `dist`.
        archive: the package as npm has it, `onnxruntime-web-VERSION.tgz`, for a machine without a network.

    Returns:
        The content of each file.

    Raises:
        UserError: the download failed, or the archive cannot be read or is another one.

    Example::

        (script,) = runtime_files(["ort.wasm.min.mjs"]).values()
    """
    if archive:
        if not _is_pinned(archive):
            raise UserError(f"--runtime: {archive} is not {URL}, whose SHA-512 is known here")
    else:
        archive = cache_folder() / Path(URL).name
        if not archive.is_file() or not _is_pinned(archive):
            _download(archive)
    with tarfile.open(archive) as opened:
        return {name: opened.extractfile(f"package/dist/{name}").read() for name in names}  # type: ignore[union-attr]


def _is_pinned(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha512").hexdigest() == SHA512
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None


def _download(file: Path) -> None:
    with atomic_write(file) as partial:
        try:
            urlsave(URL, partial, timeout=TIMEOUT)
        except (OSError, HTTPException) as error:
            raise UserError(
                f"onnxruntime-web cannot be downloaded ({reason(error)}): get {URL} on a machine with a network, and "
                "give the file with --runtime"
            ) from None
        if not _is_pinned(partial):
            raise UserError(f"{URL}: its SHA-512 is not the one that is known here")
