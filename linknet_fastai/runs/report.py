"""A run as one page: settings, curves, scores, and the frames that tell most, in a file that needs nothing else."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.files import write_text
from linknet_fastai.core.images import data_url
from linknet_fastai.core.parallel import Progress
from linknet_fastai.core.text import printable
from linknet_fastai.data.dataset import Dataset, open_dataset
from linknet_fastai.engines.engine import Engine, predict_file
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import load_model
from linknet_fastai.predict.overlay import color_mask
from linknet_fastai.runs.charts import CURVES, class_bars, confusion_matrix, svg, training_curves
from linknet_fastai.runs.compare import comparable_evaluation, summarize
from linknet_fastai.runs.pictures import ShownFrame

REPORT = "report.html"
SHOWN_WIDTH = 640  # of the frames on the page


def representative_frames(
    mious: Mapping[str, float | None], dataset: Dataset, split: str, engine: Engine
) -> list[ShownFrame]:
    """The best, the middle and the worst frame of a split, by their own mIoU, predicted.

    Args:
        mious: the mIoU of each frame, as `Evaluation.frame_mious` has it; None and nan are passed by.
        dataset: the frames.
        split: the split that they are of.
        engine: what predicts them.
    """
    here = {dataset.relative_path(frame): frame for frame in dataset.frames(split)}
    scored = {name: miou for name, miou in mious.items() if name in here and miou is not None and miou == miou}
    ranked = sorted(scored, key=scored.__getitem__, reverse=True)
    if not ranked:
        return []
    shown = []
    for name, rank in {ranked[0]: "best", ranked[len(ranked) // 2]: "median", ranked[-1]: "worst"}.items():
        frame = here[name]
        image, predicted = predict_file(engine, frame.image)
        labels = dataset.read_label(frame.label)
        shown.append(ShownFrame(frame.stem, rank, scored[name], image, labels, predicted))
    return shown


def report(folder: Path, data: Path | None = None, progress: Progress | None = None) -> tuple[Path, str | None]:
    """Write the report of a run anew.

    Args:
        folder: the run folder.
        data: where its data lies now, if it has moved.
        progress: told how far it is.

    Returns:
        The file, and why it shows no frames, where it does not.

    Raises:
        UserError: there is no run, or not one epoch of it has ended.
    """
    run = summarize(folder)
    model, card = load_model(folder)
    shown: list[ShownFrame] = []
    why_not = None
    try:
        dataset = open_dataset(run.run["recipe"], data or Path(run.run["data"]), progress)
        if scored := comparable_evaluation(run, run.settings["validate_on"]):
            engine = Predictor(model, card)
            shown = representative_frames(scored["frame_miou"], dataset, run.settings["validate_on"], engine)
    except UserError as error:
        if data is not None:
            raise
        why_not = f"{error}; --data DIR says where the data lies now"
    return write_report(folder, shown, card), why_not


def write_report(folder: Path, shown: Sequence[ShownFrame], card: ModelCard) -> Path:
    """Write `report.html` into a run folder.

    Args:
        folder: the run folder, with run.toml, metrics.csv and what `evaluate` left.
        shown: frames to show.
        card: the model's card, for names and colors.

    Returns:
        The file.
    """
    run = summarize(folder)
    scored = comparable_evaluation(run, run.settings["validate_on"])
    charts = {title: partial(training_curves, run.rows, [title]) for title in CURVES}
    if scored and scored["classes"]:
        ious = {row["name"]: float("nan") if row["iou"] is None else row["iou"] for row in scored["classes"]}
        charts["bars"] = partial(class_bars, ious)
        charts["confusion"] = partial(confusion_matrix, np.array(scored["confusion"]), list(ious))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("linknet_fastai.runs").joinpath("templates", REPORT).read_text("utf-8"))
    page = template.render(
        run=run,
        scored=scored,
        # Drawn here, not text from elsewhere: matplotlib escapes what it writes.
        charts={
            name: {theme: jinja2.filters.Markup(svg(draw, theme == "dark")) for theme in ("light", "dark")}
            for name, draw in charts.items()
        },
        curves=list(CURVES),
        changed={
            name: (run.settings.get(name), origin)
            for name, origin in run.origins.items()
            if origin not in ("default", "preset best")
        },
        frames=[_pictures(frame, card) for frame in shown],
        legend=[(entry.name, entry.css_color) for entry in card.classes],
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def _pictures(frame: ShownFrame, card: ModelCard) -> dict[str, str]:
    """A frame, its masks and its errors as data URLs."""
    red = np.zeros((*frame.truth.shape, 4), np.uint8)
    red[frame.wrong] = (213, 0, 0, 255)
    size = frame.image.size
    if size[0] > SHOWN_WIDTH:
        size = (SHOWN_WIDTH, max(round(size[1] * SHOWN_WIDTH / size[0]), 1))
    masks = {
        "truth": Image.fromarray(color_mask(frame.truth, card)),
        "predicted": Image.fromarray(color_mask(frame.predicted, card)),
        "errors": Image.fromarray(red),
    }
    return {
        "title": f"{frame.rank}: {printable(frame.stem)}, mIoU {frame.miou:.3f}",
        "image": data_url(frame.image.resize(size, Image.Resampling.BOX), "JPEG", quality=88),
        **{name: data_url(mask.resize(size, Image.Resampling.NEAREST), "PNG") for name, mask in masks.items()},
    }
