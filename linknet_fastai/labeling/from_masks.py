"""From label maps that are there to a proposal: their values or colors get names."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from linknet_fastai.config.classes import Color
from linknet_fastai.config.recipe import load_recipe, recipe_names
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import upright_size
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.match import Frame, match_frames
from linknet_fastai.data.open import open_dataset
from linknet_fastai.labeling.decide import Unlabeled, choose_classes, class_colors, class_name, is_void
from linknet_fastai.labeling.export import MaskFolder
from linknet_fastai.labeling.masks import Counts, count_values, name_values
from linknet_fastai.labeling.proposal import Ask, Proposal, files_decided, recipe_head
from linknet_fastai.labeling.tree import Tree


def propose_from_masks(
    tree: Tree, found: MaskFolder, name: str, unlabeled: Unlabeled | None, ask: Ask | None, progress: Progress | None
) -> Proposal:
    """Propose a recipe for label maps; see `linknet_fastai.labeling.look.propose`.

    Args:
        tree: the files.
        found: the patterns and names that a reader found.
        name: the name of the recipe.
        unlabeled: what the pixels are that nobody labeled, if the user chose.
        ask: asks the user.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UserError: the label maps cannot be read, or their values have no names.
    """
    proposal = Proposal(name, found.tool, tree.root)
    proposal.decisions.append(("recognized", f"{found.tool}: {found.evidence}"))
    folders = [value for value in found.splits.values() if isinstance(value, str)] or [""]
    matches = [match_frames(tree.root, found.layout, folder) for folder in folders]
    frames = [frame for match in matches for frame in match.frames]
    if not frames:
        raise UserError(
            f"{tree.root}: no image has a label map; looked for {found.layout.images} with {found.layout.labels}"
        )
    files_decided(
        proposal,
        len(frames),
        [frame.image for match in matches for frame in match.unlabeled],
        [path for match in matches for path in match.unused],
    )
    proposal.decisions.append(("patterns", f"{found.layout.images} with {found.layout.labels}"))
    proposal.notes += [
        f"images with another ending, left out: {len(m.other_endings)}" for m in matches if m.other_endings
    ]
    counts = count_values(found, [frame.label for frame in frames], progress)
    names = name_values(found, counts)
    proposal.notes += found.notes
    for frame in frames:
        pixels: Counter[str] = Counter()
        for value, amount in counts.pixels[frame.label].items():
            pixels[names[value]] += amount
        proposal.labels[frame.image] = pixels
    kind = "colors" if counts.by_color else "values"
    origin = f"named by {tree.relative(found.legend)}" if found.legend else "named by the format"
    if not found.legend and not found.names:
        origin = "no list of names: edit the names in the recipe"
    proposal.decisions.append((kind, f"{len(names)}: {origin}"))
    _describe(proposal, tree, found, frames, counts, names, unlabeled, ask)
    return proposal


def _describe(
    proposal: Proposal,
    tree: Tree,
    found: MaskFolder,
    frames: list[Frame],
    counts: Counts,
    names: dict[int, str],
    unlabeled: Unlabeled | None,
    ask: Ask | None,
) -> None:
    folders = [folder for folder in found.splits.values() if isinstance(folder, str)]
    total = proposal.total
    void = {label for label in names.values() if is_void(label) and label != found.unlabeled}
    labeled = [label for label in dict.fromkeys(names.values()) if label not in void and label != found.unlabeled]
    chosen, _ = choose_classes(labeled, total)
    if without := [name for name in found.names.values() if not total[name] and not is_void(name)]:
        proposal.notes.append(f"names without a pixel, left out: {', '.join(without[:20])}")
    if found.unlabeled and total[found.unlabeled]:
        if proposal.decide_background(chosen, found.unlabeled, unlabeled, ask):
            chosen.insert(0, found.unlabeled)
        else:
            void.add(found.unlabeled)
    sizes = Counter(upright_size(frame.image)[0] for frame in frames[:100])
    layout: dict[str, Any] = {"name": proposal.name, "images": found.layout.images, "labels": found.layout.labels}
    proposal.table = recipe_head(proposal, sizes)
    of_image = proposal.split_by(
        tree, found.layout.images, found.splits, "the folders" if folders else "the lists that lie there"
    )
    raws = {label: [value for value, name in names.items() if name == label] for label in [*chosen, *sorted(void)]}
    known: dict[str, Color | None] = {}
    for label, values in raws.items():
        if counts.by_color:
            known[label] = (values[0] >> 16, values[0] >> 8 & 255, values[0] & 255)
        else:
            known[label] = counts.colors.get(values[0])
    voids = [value for label in void for value in raws[label]]
    direct = not counts.by_color and len(voids) < 2 and all(len(v) == 1 and v[0] < 256 for v in raws.values())
    ids = {label: raws[label][0] if direct else number for number, label in enumerate(chosen)}
    proposal.table["classes"] = [
        {"id": number, "name": class_name(label), "color": list(color)}
        for (label, number), color in zip(ids.items(), class_colors(chosen, known), strict=True)
    ]
    free = (value for value in range(255, -1, -1) if value not in ids.values())
    proposal.table["void"] = {"id": voids[0] if direct and voids else next(free)}
    if not direct:
        # Two raw values of one label are two raw labels of its class.
        key = "colors" if counts.by_color else "values"
        layout[key] = {}
        for label, values in raws.items():
            shown = [class_name(label), *(f"{class_name(label)} {n}" for n in range(2, len(values) + 1))]
            if counts.by_color:
                layout[key] |= {s: [v >> 16, v >> 8 & 255, v & 255] for s, v in zip(shown, values, strict=True)}
            else:
                layout[key] |= {str(value): s for value, s in zip(values, shown, strict=True)}
            if label in void:
                proposal.table["void"].setdefault("labels", []).extend(s for s in shown if s != "void")
            elif len(shown) > 1:
                proposal.table["classes"][chosen.index(label)]["labels"] = shown[1:]
    proposal.table["layouts"] = [layout]
    proposal.decisions.append(("void", ", ".join(sorted(void)) if voids else "none"))
    proposal.add_rows(ids, {}, of_image)


def shipped_dataset(tree: Tree) -> Dataset | None:
    """The data set of a shipped recipe that a folder is; None for any other."""
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.drawn_scenes:
            continue
        try:
            dataset = open_dataset(name, tree.root)
            frames = [frame for split in ("train", "val") for frame in dataset.frames(split)]
            listed = {stem for split in recipe.splits.values() for stem in split.stems}
            # Files in few folders, such as training/images/, may be anyone's, if no list names them.
            specific = dataset.layout.images.count("/") >= 3
            if any(frame.stem in listed for frame in frames) if listed else specific:
                dataset.read_label(frames[0].label)
                return dataset
        except UserError:  # its layouts, or frames of its lists, are not here
            continue
    return None


def propose_shipped(dataset: Dataset, name: str) -> Proposal:
    """Propose a recipe that builds on a shipped one.

    Raises:
        UserError: a label map cannot be read.
    """
    recipe = dataset.recipe
    proposal = Proposal(name, recipe.title, dataset.folder)
    proposal.table = {"base": recipe.name, "name": name, "splits": {}}
    text = f"the shipped recipe {recipe.name} fits, layout {dataset.layout.name}: fit {recipe.name} works as well"
    proposal.decisions.append(("recognized", text))
    of_image: dict[Path, str] = {}
    for split in recipe.splits:
        try:
            frames = dataset.frames(split)
        except UserError:
            continue
        for frame in frames:
            counted = np.bincount(dataset.read_label(frame.label).ravel(), minlength=256)
            proposal.labels[frame.image] = Counter(
                {entry.name: int(n) for entry, n in zip(recipe.classes, counted, strict=False) if n}
            )
            of_image[frame.image] = split
        proposal.table["splits"][split] = {}
    counts = Counter(of_image.values())
    proposal.decisions.append(("split", ", ".join(f"{split} {count}" for split, count in counts.items())))
    proposal.add_rows({entry.name: entry.id for entry in recipe.classes}, {}, of_image)
    del proposal.table["splits"]
    return proposal
