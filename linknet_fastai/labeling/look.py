"""`recipes --from` as plain functions: look at an export, and write the recipe with all that belongs to it."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image, ImageDraw

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.files import write_text
from linknet_fastai.core.images import is_own_png, open_image, resize_image, resize_labels, save_image
from linknet_fastai.core.parallel import Progress, map_in_threads, usable_cores
from linknet_fastai.core.text import printable
from linknet_fastai.data.match import Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.labeling.decide import Unlabeled
from linknet_fastai.labeling.export import Export
from linknet_fastai.labeling.from_masks import propose_from_masks, propose_shipped, shipped_dataset
from linknet_fastai.labeling.from_regions import drawn_labels, label_size, labels_folder, propose_from_regions
from linknet_fastai.labeling.json_exports import JSON_READERS
from linknet_fastai.labeling.masks import MASK_READERS, plain
from linknet_fastai.labeling.proposal import NO_LABEL, Ask, Proposal
from linknet_fastai.labeling.shapes import IGNORED, UNLABELED, LabeledImage
from linknet_fastai.labeling.text_exports import TEXT_READERS
from linknet_fastai.labeling.tree import Tree
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.overlay import legend, overlay

READERS: tuple[Callable[[Tree], Export | None], ...] = (*JSON_READERS, *TEXT_READERS)
SHOWN = 6  # frames in the picture
SHOWN_WIDTH = 480


def propose(
    path: Path,
    name: str,
    unlabeled: Unlabeled | None = None,
    ask: Ask | None = None,
    progress: Progress | None = None,
) -> Proposal:
    """Look at an export of a label tool, or at a folder of images and label maps, and describe it by a recipe.

    Args:
        path: a folder, or an annotation file with its images in the same folder.
        name: the name of the recipe.
        unlabeled: what the pixels are that nobody labeled.
        ask: asks the user that, if there are many; None where nobody can be asked.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UsageError: there is no such path, or `unlabeled` is needed.
        UserError: the files cannot be read, or do not fit together.

    Example:
        ::

            proposal = propose(Path("labelme-export"), "yard")
            write_proposal(proposal, Path("yard.toml"))
    """
    tree = Tree(path)
    found = [export for reader in READERS if (export := reader(tree)) is not None]
    if len(found) > 1:
        raise UsageError(
            f"--from: {path}: exports of {' and of '.join(e.tool for e in found)}; name the files of one"
        )
    if found:
        return _with_two_classes(propose_from_regions(tree, found[0], name, unlabeled, ask, progress))
    if tree.only:
        raise UsageError(f"--from: {path}: no export of a label tool that is known; name its folder")
    if (dataset := shipped_dataset(tree)) is not None:
        return propose_shipped(dataset, name)
    masks = next((masks for reader in MASK_READERS if (masks := reader(tree)) is not None), None) or plain(tree)
    return _with_two_classes(propose_from_masks(tree, masks, name, unlabeled, ask, progress))


def _with_two_classes(proposal: Proposal) -> Proposal:
    """Raise UserError for one class alone, which no recipe may have."""
    if len(proposal.classes) < 2:
        why = f"one class alone ({proposal.classes[0].name}), and a network needs two"
        if proposal.total[NO_LABEL]:
            why += "; --unlabelled background makes one of the pixels that nobody labeled"
        raise UserError(f"{proposal.folder}: {why}")
    return proposal


def write_proposal(proposal: Proposal, file: Path, progress: Progress | None = None) -> Path:
    """Write a recipe, its lists of frames and its label maps, and draw a picture to check them.

    Args:
        proposal: what `propose` returned.
        file: the .toml file; everything else is written beside it.
        progress: called with what is being done, how many are done and of how many.

    Returns:
        The picture.

    Raises:
        UsageError: the recipe or a list exists already, a PNG that this program did not write is in its place or
            among its label maps, or another recipe reads these.
        UserError: a file cannot be written.

    Example:
        ::

            picture = write_proposal(propose(Path("labelme-export"), "yard"), Path("yard.toml"))
    """
    check_new(file)
    lists = {file.parent / name: entries for name, entries in proposal.lists.items()}
    for other in lists:
        check_new(other)
    picture = file.with_name(f"{file.stem}-check.png")
    maps = [(image, file.parent / path) for image, path in proposal.maps]
    folder = labels_folder(proposal.name)
    drawn_before = {*(file.parent / folder).rglob("*.png")} if maps else set()
    for other in file.parent.glob("*.toml") if drawn_before else ():
        if re.search(rf"[\"']{re.escape(folder)}/", other.read_text(encoding="utf-8", errors="replace")):
            raise UsageError(f"--from: {other} reads the label maps in {folder}/; name another recipe file")
    for png in (picture, *drawn_before, *(path for _, path in maps)):
        if os.path.lexists(png) and not is_own_png(png):
            raise UsageError(f"--from: {png} was not written by linknet-fastai; name another recipe file to keep it")
    table = np.full(1 << 16, 255, np.uint8)  # of int16 labels as indices: negative ones count from the end
    labels = list(proposal.number_of)
    numbers = {label: number for number, label in enumerate(labels)}
    table[: len(labels)] = [proposal.number_of[label] for label in labels]
    if labels:
        table[UNLABELED], table[IGNORED] = proposal.number_of[NO_LABEL], 255

    def write_map(pair: tuple[LabeledImage, Path]) -> None:
        drawn = drawn_labels(pair[0], label_size(pair[0]), numbers)
        save_image(Image.fromarray(table[drawn.labels]), pair[1])

    for done, _ in enumerate(map_in_threads(write_map, maps, usable_cores()), 1):
        if progress:
            progress("writing label maps", done, len(maps))
    for stale in drawn_before - {path for _, path in maps}:  # with the ids of an earlier try, of images left out now
        stale.unlink()
    for other, entries in lists.items():
        write_text(other, "".join(f"{entry}\n" for entry in entries))
    head = f"# Written by linknet-fastai recipes --from, for {printable(str(proposal.folder))} ({proposal.tool}).\n"
    body = re.sub(r"\[\n((?: +\d+,\n){3})\]", _in_one_line, tomli_w.dumps(proposal.table))
    write_text(file, head + body)  # last, so that it never exists without the others
    _draw_picture(proposal, file, picture)
    return picture


def _in_one_line(color: re.Match[str]) -> str:
    return f"[{', '.join(re.findall(r'[0-9]+', color[1]))}]"


def check_new(file: Path) -> None:
    """Raise UsageError if a file exists: a second run changes nothing."""
    if file.exists():
        raise UsageError(f"--from: {file} exists already; name another file, or delete it")


def _draw_picture(proposal: Proposal, file: Path, picture: Path) -> None:
    """Draw six frames with the colors of their classes over them, and the legend."""
    dataset = open_dataset(file, proposal.folder)
    frames: dict[Path, Frame] = {}
    for split in {split for row in proposal.classes for split in row.of_split}:  # a base may have more
        frames |= {frame.image.resolve(): frame for frame in dataset.frames(split)}
    chosen = [frames[image.resolve()] for image in most_telling(proposal.labels) if image.resolve() in frames]
    card = ModelCard.of(load_recipe(file), (SHOWN_WIDTH, SHOWN_WIDTH))
    read_label, drawn = dataset.read_label, []
    for frame in chosen[:SHOWN]:
        image = open_image(frame.image)
        labels = read_label.of_frame(frame, image.size)
        size = SHOWN_WIDTH, max(round(SHOWN_WIDTH * image.height / image.width), 1)
        shown = overlay(resize_image(image, size), resize_labels(labels, size), card)
        ImageDraw.Draw(shown).text((6, 4), dataset.relative_path(frame), "white", stroke_width=2, stroke_fill="black")
        drawn.append(shown)
    names = legend(card)
    columns = min(3, len(drawn))
    heights = [
        max(image.height for image in drawn[start : start + columns]) for start in range(0, len(drawn), columns)
    ]
    whole = Image.new("RGB", (columns * SHOWN_WIDTH + names.width, max(sum(heights), names.height)), "white")
    for number, image in enumerate(drawn):
        whole.paste(image, (number % columns * SHOWN_WIDTH, sum(heights[: number // columns])))
    whole.paste(names, (columns * SHOWN_WIDTH, 0))
    save_image(whole, picture)


def most_telling(labels: dict[Path, Counter[str]]) -> list[Path]:
    """Images in an order in which the first ones show all classes, each with as many pixels as may be."""
    total: Counter[str] = sum(labels.values(), Counter())
    shown: set[str] = set()
    order: list[Path] = []
    left = dict(labels)
    while left and len(order) < SHOWN:
        new = {image: _share_of_new(pixels, total, shown) for image, pixels in left.items()}
        best = max(new, key=lambda image: new[image])
        if not new[best]:
            break
        shown |= set(+left.pop(best))
        order.append(best)
    rest = sorted(left)
    return [*order, *rest[:: max(len(rest) // SHOWN, 1)]]


def _share_of_new(pixels: Counter[str], total: Counter[str], shown: set[str]) -> float:
    """How much of the classes that are not shown yet an image has."""
    return sum(count / total[label] for label, count in pixels.items() if label and label not in shown)
