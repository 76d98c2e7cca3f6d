"""folds.json: how the folds of `fit --folds` were cut, and their scores."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from linknet_fastai.config.settings import Text
from linknet_fastai.core.errors import UserError, explain, reason
from linknet_fastai.core.files import MAX_LIST_BYTES, parse_json, read_text
from linknet_fastai.core.text import Name

FOLDS_FILE = "folds.json"
Share = Annotated[float, Field(ge=0, le=1)]


class Fold(BaseModel, frozen=True):
    """A fold: what is left out of a training, and the scores on it.

    Attributes:
        name: of its run folder.
        groups: the groups that are left out, or in a recipe without groups none.
        train_frames: how many frames are trained on.
        frames: how many are left out, and scored.
        last_miou: the mIoU after the last epoch; None while the run is not finished.
        best_miou: the mIoU of the best epoch, which was chosen on these frames.
    """

    name: Name
    groups: list[Text]
    train_frames: int
    frames: int
    last_miou: Share | None = None
    best_miou: Share | None = None


class Folds(BaseModel):
    """The content of folds.json: how the folds were cut, how they are trained, and the result.

    Attributes:
        recipe: the name of a shipped recipe, or a file.
        data: the data folder.
        options: the settings that were given.
        folds: the folds in the order of training.
        mean: the mean of `last_miou`, once all folds are done.
        spread: its standard deviation over the folds.
        worst: the name of the fold with the lowest.
    """

    recipe: Text
    data: Text
    options: dict[str, Any]
    folds: list[Fold] = Field(min_length=2)
    mean: float | None = None
    spread: float | None = None
    worst: str | None = None


def read_folds(folder: Path) -> Folds:
    """Read folds.json.

    Raises:
        UserError: it is missing or damaged.

    Example:
        ::

            {fold.name: fold.last_miou for fold in read_folds(Path("runs/drives")).folds}
    """
    file = folder / FOLDS_FILE
    try:
        return Folds.model_validate(parse_json(read_text(file, MAX_LIST_BYTES)))
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
