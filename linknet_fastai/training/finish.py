"""The end of a run: what is made of its best weights, and the result in run.toml."""

import torch

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.device import peak_memory_mib
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export.export import export_model
from linknet_fastai.model.save_load import RUN_MODEL, load_model, save_model
from linknet_fastai.runs.charts import confusion_matrix, save_figure, training_curves
from linknet_fastai.runs.folder import write_evaluation, write_result
from linknet_fastai.runs.frame_counts import write_frame_counts
from linknet_fastai.runs.metrics import write_metrics
from linknet_fastai.runs.pictures import save_predictions
from linknet_fastai.runs.report import representative_frames, write_report
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.scoring.temperature import fit_temperature
from linknet_fastai.training.run_record import FitResult


def finish_run(dataset: Dataset, settings: Settings, result: FitResult, progress: Progress | None) -> None:
    """Write scores, pictures, the exported learner, the result and the report of a run's best weights."""
    folder = result.folder
    write_metrics(folder, result.rows)  # the run may have been killed between its last checkpoint and this file
    model, card = load_model(folder)
    save_figure(training_curves(result.rows), folder / "curves.png")  # first: it needs no data
    predictor = Predictor(model, card, settings.device, settings.precision)
    # Fitted again after an interruption in what follows: it does not depend on the card's own.
    temperature = fit_temperature(predictor, dataset, settings.validate_on, progress)
    card = predictor.card = card.model_copy(update={"temperature": temperature})
    save_model(model, card, folder / RUN_MODEL)
    export_model(model, card, folder / "export.pkl")
    scored = evaluate(predictor, dataset, settings.validate_on, progress)
    file = write_evaluation(folder, scored.as_json())
    write_frame_counts(scored.frame_counts, file.with_suffix(".npz"))
    save_figure(confusion_matrix(scored.scores.counts, scored.class_names), folder / "confusion.png")
    shown = representative_frames(scored.frame_mious, dataset, settings.validate_on, predictor)
    if shown:
        save_predictions(shown, card, folder / "predictions.png")
    record_result(result, predictor.device)
    write_report(folder, shown, card)


def record_result(result: FitResult, device: torch.device) -> None:
    """Write the table `result` of run.toml."""
    last = result.rows[-1]
    write_result(
        result.folder,
        {
            "epochs_done": last["epoch"],
            "finished": result.finished,
            "best_epoch": result.best["epoch"],
            "best_miou": result.best["miou"],
            "last_miou": last["miou"],
            "seconds": sum(row["seconds"] for row in result.rows),
            "peak_memory_mib": peak_memory_mib(device),
        },
    )
