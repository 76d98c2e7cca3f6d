"""The report of a run: settings, curves, scores and example frames in one self-contained HTML file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.filters import Markup
from matplotlib.figure import Figure
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.files import write_text
from linknet_fastai.core.images import NEAREST, data_url
from linknet_fastai.core.parallel import Progress
from linknet_fastai.core.text import printable
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.engine import Engine, predict_file
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.save_load import load_model
from linknet_fastai.predict.overlay import color_mask
from linknet_fastai.runs.charts import (
    CURVES,
    class_bars,
    confusion_matrix,
    reliability_diagram,
    risk_coverage_curves,
    svg,
    training_curves,
)
from linknet_fastai.runs.compare import comparable_evaluation, summarize
from linknet_fastai.runs.pictures import ShownFrame
from linknet_fastai.scoring.scores import OVERALL_SCORES

REPORT = "report.html"
MAX_WIDTH = 640  # pixels, of frames in the report


def representative_frames(
    mious: Mapping[str, float | None], dataset: Dataset, split: str, engine: Engine
) -> list[ShownFrame]:
    """Predict the best, the median and the worst frame of a split, ranked by the mIoU of each frame.

    Args:
        mious: the mIoU of each frame by its name, as in `Evaluation.frame_mious`; None and nan are skipped.
        dataset: the data set.
        split: a split of it.
        engine: the model.

    Returns:
        Three frames, fewer if less are scored; a single one is the "only scored" one.

    Raises:
        UserError: a frame cannot be read or predicted.

    Example:
        ::

            evaluation = evaluate(engine, dataset, "val")
            shown = representative_frames(evaluation.frame_mious, dataset, "val", engine)
    """
    frames = {dataset.relative_path(frame): frame for frame in dataset.frames(split)}
    scored = {name: miou for name, miou in mious.items() if name in frames and miou is not None and miou == miou}
    ranked = sorted(scored, key=scored.__getitem__, reverse=True)
    if not ranked:
        return []
    shown = []
    ranks = {ranked[0]: "best", ranked[len(ranked) // 2]: "median", ranked[-1]: "worst"}
    for name, rank in ranks.items() if len(ranked) > 1 else [(ranked[0], "only scored")]:
        frame = frames[name]
        image, predicted = predict_file(engine, frame.image)
        labels = dataset.read_label.of_frame(frame, image.size)
        shown.append(ShownFrame(frame.stem, rank, scored[name], image, labels, predicted))
    return shown


def report(folder: Path, data: Path | None = None, progress: Progress | None = None) -> tuple[Path, str | None]:
    """Write the report of a run again, with its best weights.

    Args:
        folder: the run folder.
        data: the folder of its data, if it was moved.
        progress: called with what is done, the number of steps done and the number of all.

    Returns:
        The file, and the reason if it shows no frames.

    Raises:
        UserError: there is no run, or none of its epochs is complete.

    Example:
        ::

            file, why_no_frames = report(Path("runs/camvid"))
    """
    run = summarize(folder)
    model, card = load_model(folder)
    shown: list[ShownFrame] = []
    why_no_frames = None
    try:
        dataset = open_dataset(run.run["recipe"], data or Path(run.run["data"]), progress)
        if scored := comparable_evaluation(run, run.validated_on):
            engine = Predictor(model, card)
            shown = representative_frames(scored["frame_miou"], dataset, run.validated_on, engine)
        if not shown:
            why_no_frames = f"{folder} has no scores of single frames of {run.validated_on} at the training size"
    except UserError as error:
        if data is not None:
            raise
        why_no_frames = f"{error}; if the data was moved, give its folder with --data DIR"
    return write_report(folder, shown, card), why_no_frames


def write_report(folder: Path, shown: Sequence[ShownFrame], card: ModelCard) -> Path:
    """Write `report.html` into a run folder, from its run.toml, metrics.csv and evaluations.

    Args:
        folder: the run folder.
        shown: the frames to show.
        card: the model's card, for names and colors.

    Returns:
        The file.

    Raises:
        UserError: there is no run, none of its epochs is complete, or the file cannot be written.
    """
    run = summarize(folder)
    scored = comparable_evaluation(run, run.validated_on)
    figures = {title: partial(training_curves, run.rows, [title]) for title in CURVES}
    if scored and scored["classes"]:
        ious = {row["name"]: float("nan") if row["iou"] is None else row["iou"] for row in scored["classes"]}
        figures["bars"] = partial(class_bars, ious)
        figures["confusion"] = partial(confusion_matrix, np.array(scored["confusion"]), list(ious))
    if scored and scored["ece"] is not None:
        figures["reliability"] = partial(reliability_diagram, scored["reliability"])
        figures["risk_coverage"] = partial(risk_coverage_curves, scored["risk_coverage"])
    page = render_page(
        REPORT,
        figures,
        run=run,
        scores=OVERALL_SCORES,
        scored=scored,
        curves=list(CURVES),
        changed={name: origin for name, origin in run.origins.items() if origin not in ("default", "preset best")},
        frames=[_pictures(frame, card) for frame in shown],
        classes=card.classes,
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def render_page(template: str, figures: Mapping[str, Callable[[], Figure]], **content: Any) -> str:
    """Fill in a template of a page.

    Args:
        template: its name.
        figures: what draws each chart, by the name that the template has for it.
        content: what else the template shows.
    """
    charts = {
        # Not escaped again: matplotlib escapes the text in its SVG.
        name: {"light": Markup(svg(draw, dark=False)), "dark": Markup(svg(draw, dark=True))}
        for name, draw in figures.items()
    }
    loader = PackageLoader("linknet_fastai.runs")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(charts=charts, **content)


def _pictures(frame: ShownFrame, card: ModelCard) -> dict[str, str]:
    """A frame, its masks and its errors as data URLs, by their name in the template."""
    red = np.zeros((*frame.truth.shape, 4), np.uint8)
    red[frame.wrong] = (213, 0, 0, 255)
    width = min(frame.image.width, MAX_WIDTH)
    size = (width, max(round(frame.image.height * width / frame.image.width), 1))
    masks = {"truth": color_mask(frame.truth, card), "predicted": color_mask(frame.predicted, card), "errors": red}
    return {
        "title": f"{frame.rank} frame: {printable(frame.stem)}, mIoU {frame.miou:.3f}",
        "image": data_url(frame.image.resize(size, Image.Resampling.BOX), "JPEG", quality=88),
        **{name: data_url(Image.fromarray(mask).resize(size, NEAREST), "PNG") for name, mask in masks.items()},
    }
