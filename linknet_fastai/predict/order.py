"""`predict --order uncertain`: which frames a person should label next, as a list."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from linknet_fastai.core.files import check_own, write_text
from linknet_fastai.core.text import printable
from linknet_fastai.predict.inputs import natural_order

ORDER_FILE = "label-next.csv"
COLUMNS = ("frame", "uncertainty", "sequence")
APART = 10  # frames of one sequence on each side of a chosen one, which look much like it


def check_order_file(out: Path) -> Path:
    """The list that `write_order` writes into a folder.

    Raises:
        UsageError: it exists, and no prediction wrote it.
    """
    check_own(file := out / ORDER_FILE, _is_own)
    return file


def _is_own(file: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError), file.open(encoding="utf-8") as opened:
        return opened.readline(100) == ",".join(COLUMNS) + "\n"
    return False


def label_next(uncertainties: Mapping[Path, float]) -> list[Path]:
    """Sort frames by what there is to learn from labeling them, in rounds.

    Each round goes through the frames that are left, the least certain first, and takes those that have no frame of
    this round among the `APART` before and after them in their sequence: the images of one folder whose names differ
    in numbers alone, in the order of these.

    Args:
        uncertainties: the uncertainty of each frame by its file.

    Returns:
        All files, the ones to label first at the beginning.

    Example:
        >>> frames = {Path(f"drive_{n:02}.png"): n / 100 for n in range(30)}
        >>> [path.stem for path in label_next(frames)[:4]]
        ['drive_29', 'drive_18', 'drive_07', 'drive_28']
    """
    sequences = defaultdict(list)
    for path in uncertainties:
        sequences[sequence_of(path)].append(path)
    place = {
        path: (sequence, number)
        for sequence, paths in sequences.items()
        for number, path in enumerate(sorted(paths, key=natural_order))
    }
    waiting = sorted(uncertainties, key=lambda path: (-uncertainties[path], str(path)))
    ordered: list[Path] = []
    while waiting:
        near, later = set(), []
        for path in waiting:
            sequence, number = place[path]
            if (sequence, number) in near:
                later.append(path)
            else:
                ordered.append(path)
                near |= {(sequence, other) for other in range(number - APART, number + APART + 1)}
        waiting = later
    return ordered


def sequence_of(path: Path) -> str:
    """What images of one video have in common: the folder, and the name with `#` for each number.

    Example:
        >>> sequence_of(Path("drive/0006R0_f01260.png"))
        'drive/#R#_f#.png'
    """
    return path.with_name(re.sub(r"\d+", "#", path.stem) + path.suffix).as_posix()


def write_order(file: Path, uncertainties: Mapping[Path, float]) -> None:
    """Write the list of `label_next` as CSV: the frame, its uncertainty, its sequence.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            uncertainties = {}
            predict_images(engine, jobs, out, uncertainties=uncertainties)
            write_order(out / ORDER_FILE, uncertainties)
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path in label_next(uncertainties):
        writer.writerow((printable(str(path)), f"{uncertainties[path]:.4f}", printable(sequence_of(path))))
    write_text(file, text.getvalue())
