"""Pre-annotations: predictions as shapes in the files that label tools import, to be corrected by a person."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.core.files import check_own, check_writable, write_text
from linknet_fastai.core.images import VOID
from linknet_fastai.core.parallel import Progress
from linknet_fastai.engines.engine import Engine
from linknet_fastai.predict.images import predict_each, without_uncertain
from linknet_fastai.predict.inputs import Job, collect_jobs
from linknet_fastai.predict.label_files import (
    FILE_TEXTS,
    FRAME_TEXTS,
    LABEL_TEXTS,
    SIGNATURES,
    LabeledFrame,
    LabelFormat,
    labelme_file,
)
from linknet_fastai.predict.outlines import find_pieces

WITH_SCORE = ("coco", "label-studio")  # the formats that have a place for it
LABELME_FOLDER = "labelme"
BACKGROUND = "background"  # the class of pixels without a label: it has no shapes


def annotation_jobs(inputs: Sequence[Path], out: Path, format: LabelFormat) -> list[Job]:
    """Find the images to annotate. The target of a job is its path in the input folder; of labelme that of its JSON.

    Args:
        inputs: images and folders of images.
        out: the folder for the annotations.
        format: the label tool.

    Raises:
        UsageError: there are no images, two of them would have the same name, or a file that no prediction wrote
            would be overwritten.
        UserError: an input is missing, or a folder cannot be read.
    """
    if format == "labelme":
        jobs = collect_jobs(inputs, out, lambda image: f"{image.stem}.json", written=())
        files = [annotations_of(out, format) / job.target for job in jobs]
    else:
        jobs = collect_jobs(inputs, out, lambda image: image.name, written=())
        files = [out / texts[format][0] for texts in (FILE_TEXTS, LABEL_TEXTS) if format in texts]
    for file in files:
        check_own(file, is_own_annotation)
    return jobs


def annotations_of(out: Path, format: LabelFormat) -> Path:
    """The file that a label tool imports; of labelme the folder with one for each image.

    Example:
        >>> annotations_of(Path("predicted"), "coco").as_posix()
        'predicted/coco.json'
    """
    return out / (LABELME_FOLDER if format == "labelme" else FILE_TEXTS[format][0])


def is_own_annotation(file: Path) -> bool:
    """Whether this program wrote a file of annotations and no label tool has saved it since."""
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(100).startswith(tuple(signature.encode() for signature in SIGNATURES))
    return False


def annotate_images(
    engine: Engine,
    jobs: Sequence[Job],
    out: Path,
    format: LabelFormat,
    tolerance: float = 1,
    min_pixels: int = 20,
    below: float | None = None,
    progress: Progress | None = None,
    uncertainties: dict[Path, float] | None = None,
) -> list[str]:
    """Write pre-annotations of images.

    Each connected piece of a class becomes a polygon; one with holes becomes a mask in the tool's own form, as these
    polygons have no holes. Void is left without a label.

    Args:
        engine: the model.
        jobs: the images, see `annotation_jobs`.
        out: the folder to write into: `coco.json`, `labelme/STEM.json` for each image, `cvat.xml` with
            `cvat-labels.json`, or `label-studio.json` with `label-studio-labels.xml`.
        format: the label tool.
        tolerance: how far a polygon may be from the border of its piece, in pixels.
        min_pixels: pixels of the smallest piece and of the smallest hole.
        below: pixels with a lower confidence than this, 0 to 1, get no label; None keeps all.
        progress: called with what is done, the number of frames done and the number of all.
        uncertainties: see `predict_each`.

    Returns:
        A message for each image that could not be read, predicted or written; the others are done.

    Raises:
        UserError: nothing can be written into `out`.

    Example:
        ::

            jobs = annotation_jobs([Path("drive")], Path("out"), "coco")
            annotate_images(open_engine(Path("runs/yard")), jobs, Path("out"), "coco")
    """
    card = engine.card
    texts: dict[Job, object] = {}
    background = [channel for channel, name in enumerate(card.class_names) if name.casefold() == BACKGROUND]

    def write(job: Job, frame: Image.Image, channels: np.ndarray, confidence: np.ndarray | None) -> None:
        score = None if confidence is None else float(confidence.mean() / 255)
        if confidence is not None:
            channels = without_uncertain(channels, confidence, below)
        if background:
            channels = np.where(np.isin(channels, background), np.uint8(VOID), channels)
        pieces = find_pieces(channels, len(card.classes), min_pixels, confidence)
        labeled = LabeledFrame(job.image, job.target.as_posix(), frame.size, pieces, score)
        if format == "labelme":
            file = annotations_of(out, format) / job.target
            write_text(file, labelme_file(labeled, card.class_names, tolerance, file.parent))
        else:
            texts[job] = FRAME_TEXTS[format](labeled, card.class_names, tolerance)

    def write_all() -> None:
        if texts:
            text_of = FILE_TEXTS[format][1]
            write_text(annotations_of(out, format), text_of([texts[job] for job in jobs if job in texts], card))

    check_writable(out)
    if format in LABEL_TEXTS:
        name, labels_of = LABEL_TEXTS[format]
        write_text(out / name, labels_of(card))
    scored = format in WITH_SCORE and engine.has_confidence  # an older export of a model has none
    try:
        failures = predict_each(engine, jobs, out, write, scored or below is not None, progress, uncertainties)
    except KeyboardInterrupt:  # what is done, as of the formats with a file for each image
        write_all()
        raise
    write_all()
    return failures
