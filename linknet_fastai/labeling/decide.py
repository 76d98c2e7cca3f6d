"""What a recipe says about labels: which are classes, which are void, and what the pixels are that nobody labeled."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from colorsys import hsv_to_rgb
from typing import Literal

from linknet_fastai.config.classes import MAX_CLASSES, Color
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.text import printable

Unlabeled = Literal["void", "background"]

VOID_NAMES = {
    "void",
    "__ignore__",
    "ignore",
    "ignored",
    "ignore_label",
    "unlabeled",
    "unlabelled",
    "dontcare",
    "don't care",
}
BACKGROUND_NAMES = {"background", "_background_", "__background__", "bg"}
MUCH = 0.05  # share of the pixels without a label above which it is asked what they are
BACKGROUND_COLOR = (60, 60, 60)


def class_name(label: str) -> str:
    """A label as the name of a class: a name may have no slash, and at most 64 characters."""
    return printable(label.strip().replace("/", "-").replace("\\", "-"))[:64] or "unnamed"


def is_void(label: str) -> bool:
    """Whether a label means void by its name."""
    return label.strip().lower() in VOID_NAMES


def decide_unlabeled(
    share: float, labels: Sequence[str], option: Unlabeled | None, ask: Callable[[str], Unlabeled] | None
) -> tuple[Unlabeled, str]:
    """What the pixels are that nobody labeled.

    Args:
        share: their share of all pixels, 0 to 1.
        labels: the classes that were labeled.
        option: what the user chose.
        ask: asks the user; None where nobody can be asked.

    Returns:
        The choice, and why.

    Raises:
        UsageError: the user has to choose.
    """
    if option:
        return option, f"{option} (--unlabelled {option})"
    if named := next((label for label in labels if label.lower() in BACKGROUND_NAMES), None):
        return "background", f"background, as there is a class {named!r}"
    if len(labels) < 2:
        return "background", "background: there is one class alone, and a network needs two"
    if share <= MUCH:
        return "void", "void, as they are few (--unlabelled background makes them a class)"
    question = (
        f"{share:.1%} of the pixels have no label: void leaves them out of training and scores, background makes "
        "them a class"
    )
    if ask:
        choice = ask(question)
        return choice, f"{choice} (your choice)"
    raise UsageError(f"--unlabelled is needed: {question}")


def choose_classes(labels: Iterable[str], pixels: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Divide labels into classes and those without a pixel, which are left out.

    Raises:
        UserError: there are none, or too many.
    """
    labels = list(labels)
    chosen = [label for label in labels if pixels.get(label)]
    if not chosen:
        raise UserError("no pixel of any class is labeled")
    if len(chosen) > MAX_CLASSES:
        raise UserError(f"{len(chosen)} classes; at most {MAX_CLASSES} can be told apart")
    if repeated := [name for name, count in Counter(map(class_name, chosen)).items() if count > 1]:
        raise UserError(f"two labels have the name {repeated[0]!r}, but for characters that a recipe cannot have")
    return chosen, [label for label in labels if label not in chosen]


def class_colors(labels: Sequence[str], known: Mapping[str, Color | None]) -> list[Color]:
    """A color for each class: its own, unless it has none or another class has the same."""
    made = iter(palette(2 * MAX_CLASSES + 2))
    used: set[Color] = {(0, 0, 0)}
    colors: list[Color] = []
    for label in labels:
        color = known.get(label) or (BACKGROUND_COLOR if label.lower() in BACKGROUND_NAMES else None)
        while color is None or color in used:
            color = next(made)
        used.add(color)
        colors.append(color)
    return colors


def palette(count: int) -> list[Color]:
    """So many colors, of which neighbors are easy to tell apart: hues a golden angle apart, in three brightnesses.

    Example:
        >>> palette(2)
        [(255, 38, 38), (26, 71, 178)]
    """
    colors: list[Color] = []
    for number in range(count):
        parts = hsv_to_rgb(number * 0.618034 % 1, 0.85, (1, 0.7, 0.45)[number % 3])
        red, green, blue = (int(255 * part) for part in parts)
        colors.append((red, green, blue))
    return colors
