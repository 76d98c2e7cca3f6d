"""From drawn regions to a proposal: label maps have to be made."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import upright_size
from linknet_fastai.core.parallel import Progress, map_in_threads, usable_cores
from linknet_fastai.labeling.decide import Unlabeled, choose_classes, class_colors, class_name, is_void
from linknet_fastai.labeling.export import Export
from linknet_fastai.labeling.pairs import checked_layout, folder_pattern, split_folders
from linknet_fastai.labeling.proposal import NO_LABEL, Ask, Proposal, Splits, files_decided, recipe_head
from linknet_fastai.labeling.shapes import IGNORED, UNLABELED, Bitmap, Drawn, LabeledImage, draw
from linknet_fastai.labeling.tree import Tree

VOID_ID = 255
MAX_LABELS = 10_000  # far more than classes: many may have no pixel


def propose_from_regions(
    tree: Tree, export: Export, name: str, unlabeled: Unlabeled | None, ask: Ask | None, progress: Progress | None
) -> Proposal:
    """Propose a recipe for an export; see `linknet_fastai.labeling.look.propose`.

    Args:
        tree: the files.
        export: what a reader found in them.
        name: the name of the recipe.
        unlabeled: what the pixels are that nobody labeled, if the user chose.
        ask: asks the user.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UserError: the regions do not fit the images.
    """
    _check_images(tree, export)
    regions = {region.label for image in export.images for region in image.regions}
    labels = [*export.classes, *sorted(regions - set(export.classes))]
    if len(labels) > MAX_LABELS:
        raise UserError(f"{tree.root}: {len(labels):,} different labels; at most {MAX_LABELS:,} are read")
    proposal = Proposal(name, export.tool, tree.root)
    proposal.decisions.append(("recognized", f"{export.tool}: {export.evidence}"))
    sizes, overlaps = _count(proposal, export, labels, progress)
    outlines = [region.outline for image in export.images for region in image.regions]
    drawn = {outline.png for outline in outlines if isinstance(outline, Bitmap) and isinstance(outline.png, Path)}
    unlabeled_images = sorted(set(tree.images) - set(proposal.labels) - drawn) if tree.only is None else []
    files_decided(proposal, len(proposal.labels), unlabeled_images, export.missing)
    total = proposal.total
    chosen, without = choose_classes([label for label in labels if not is_void(label)], total)
    background = proposal.decide_background(chosen, NO_LABEL, unlabeled, ask)
    if background and background not in chosen:
        chosen.insert(0, background)
    _decide_overlaps(proposal, export, overlaps)
    if without:
        proposal.notes.append(f"classes without a pixel, left out: {', '.join(without[:20])}")
    for what, count in export.skipped.items():
        if count:
            proposal.notes.append(f"{what}, left out: {count}")
    parts = {image.image: tree.relative(image.image) for image in export.images}
    layout, splits = _layout(list(parts.values()), tree.root, name)
    checked_layout(tree.root, name, layout["images"], layout["labels"])
    proposal.table = recipe_head(proposal, sizes) | {"layouts": [{"name": name, **layout, "labels_in": "recipe"}]}
    how = "the folders of the images"
    if not splits and set(export.splits) == set(parts) and len(set(export.splits.values())) > 1:
        by_split: dict[str, list[str]] = {}
        for image, split in export.splits.items():
            by_split.setdefault(split, []).append(str(parts[image]))
        splits, how = by_split, f"as in {export.tool}"
    of_image = proposal.split_by(tree, layout["images"], splits, how)
    ids = {label: number for number, label in enumerate(chosen)}
    proposal.table["classes"] = [
        {"id": number, "name": class_name(label), "color": list(color)}
        for (label, number), color in zip(ids.items(), class_colors(chosen, export.classes), strict=True)
    ]
    proposal.table["void"] = {"id": VOID_ID}  # written out, or `fit` asks whether it is meant
    proposal.number_of = {**dict.fromkeys(labels, VOID_ID), **ids}  # also of labels that others cover everywhere
    proposal.number_of[NO_LABEL] = ids[background] if background else VOID_ID
    folder = labels_folder(name)
    proposal.maps = [
        (image, PurePosixPath(folder) / parts[image.image].with_suffix(".png")) for image in export.images
    ]
    proposal.decisions.append(("label maps", f"{len(proposal.maps)}, drawn into {folder}/ beside the recipe"))
    proposal.add_rows(ids, {NO_LABEL: background} if background else {}, of_image)
    return proposal


def labels_folder(name: str) -> str:
    """The folder beside a recipe that has the label maps that were drawn for it."""
    return f"{name}-labels"


def _check_images(tree: Tree, export: Export) -> None:
    if not export.images:
        missing = f", as {export.missing[0]}" if export.missing else ""
        raise UserError(
            f"{tree.root}: {export.tool}'s labels, but none of their images{missing}; name a folder with both"
        )
    seen: dict[Path, LabeledImage] = {}
    for image in export.images:
        if (other := seen.setdefault(image.image, image)) is not image:
            raise UserError(f"{image.origin}: {image.image} is labeled in {other.origin} too; name one of them")


def _count(
    proposal: Proposal, export: Export, labels: list[str], progress: Progress | None
) -> tuple[Counter[tuple[int, int]], Counter[tuple[str, str]]]:
    """Draw every label map once, to count: the pixels of labels go into the proposal.

    Returns:
        How many frames have which size, and how many pixels of which label cover another label.
    """
    numbers = {label: IGNORED if is_void(label) else number for number, label in enumerate(labels)}
    sizes: Counter[tuple[int, int]] = Counter()
    overlaps: Counter[tuple[str, str]] = Counter()

    def count(image: LabeledImage) -> tuple[Counter[str], dict[tuple[int, int], int], tuple[int, int]]:
        size = label_size(image)
        drawn = drawn_labels(image, size, numbers)
        pairs = zip(*np.unique(drawn.labels, return_counts=True), strict=True)
        pixels = {
            NO_LABEL if number == UNLABELED else labels[number]: int(n) for number, n in pairs if number != IGNORED
        }
        return Counter(pixels), drawn.overlaps, size

    results = map_in_threads(count, export.images, usable_cores())
    for done, (image, (pixels, over, size)) in enumerate(zip(export.images, results, strict=True), 1):
        proposal.labels[image.image] = pixels
        sizes[size] += 1
        overlaps.update(
            {(labels[upper], labels[lower]): amount for (upper, lower), amount in over.items() if upper >= 0}
        )
        if progress:
            progress("drawing label maps", done, len(export.images))
    return sizes, overlaps


def drawn_labels(image: LabeledImage, size: tuple[int, int], numbers: dict[str, int]) -> Drawn:
    """As `linknet_fastai.labeling.shapes.draw`; an error names the file.

    Raises:
        UserError: an outline does not fit the image.
    """
    try:
        return draw(image, size, numbers)
    except ValueError as error:
        raise UserError(f"{image.origin}: {image.image.name}: {error}") from None


def label_size(image: LabeledImage) -> tuple[int, int]:
    """The (width, height) of the label map of an image: as the tool has it, which must be that of the image.

    Raises:
        UserError: it is another, whether the image is turned upright or not.
    """
    upright, tag = upright_size(image.image)
    if image.size in (None, upright):
        return upright
    if tag > 4 and image.size == upright[::-1]:
        return image.size
    raise UserError(
        f"{image.origin}: labels for {format_size(image.size or (0, 0))}, but {image.image} is "
        f"{format_size(upright)}; use the image that was labeled"
    )


def _decide_overlaps(proposal: Proposal, export: Export, overlaps: Counter[tuple[str, str]]) -> None:
    total = sum(overlaps.values())
    text = f"{export.tool} draws {export.order}, later over earlier"
    if total:
        most = ", ".join(f"{upper} over {lower} {pixels:,}" for (upper, lower), pixels in overlaps.most_common(3))
        text += f"; {total:,} pixels of another class covered: {most}"
    proposal.decisions.append(("overlaps", text))


def _layout(paths: list[PurePosixPath], root: Path, name: str) -> tuple[dict[str, str], Splits]:
    """The patterns for images at these paths and for their label maps, and the folder of each split."""
    depths = {len(path.parts) for path in paths}
    if len(depths) > 1:
        shallow, deep = (next(path for path in paths if len(path.parts) == depth) for depth in sorted(depths)[:2])
        raise UserError(
            f"{root}: images at different depths, {shallow} and {deep}; put them into folders of one depth"
        )
    folders, fields = folder_pattern([path.parts[:-1] for path in paths])
    endings = {path.suffix for path in paths}
    ending = endings.pop() if len(endings) == 1 else ".*"
    splits = split_folders(fields)
    stem = "/".join([*folders, "{stem}"])
    return {"images": stem + ending, "labels": f"{labels_folder(name)}/{stem}.png"}, splits
