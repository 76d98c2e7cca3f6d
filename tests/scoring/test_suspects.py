"""Suspect labels: planted errors come before the errors that a weak model makes everywhere."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Drawn, save

from linknet_fastai.core.errors import UserError
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.match import Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.engine import NATIVE
from linknet_fastai.model.card import ModelCard
from linknet_fastai.scoring.suspects import (
    BINS,
    Evidence,
    collect_evidence,
    contradicted_pixels,
    judge_frames,
    likelihoods,
    rank_suspects,
    table_of,
)

GROUND, WALL, AIR = range(3)


def weak(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True channels, 48x64, and what a model says that calls about half of the ground wall, and is sure of it."""
    truth = np.repeat([AIR, WALL, GROUND], 16)[:, None].repeat(64, 1).astype(np.uint8)
    confused = (truth == GROUND) & (np.random.default_rng(seed).random(truth.shape) < 0.5)
    return truth, np.where(confused, WALL, truth).astype(np.uint8)


@pytest.fixture
def drawn(tmp_path: Path, own_recipe) -> tuple[Drawn, Dataset]:
    """Ten frames. In f3 a piece of air is labeled ground; all of f6 is labeled wrong; f8 has void."""
    for number in range(10):
        labels, predicted = weak(number)
        if number == 3:
            labels[2:12, 10:20] = GROUND
        if number == 6:
            labels = np.uint8([WALL, AIR, AIR])[labels]
        if number == 8:
            labels[:8] = 255
        frame = np.stack([predicted, np.full_like(predicted, 250), np.zeros_like(predicted)], 2)
        save(frame, tmp_path / f"own/frames/f{number}.png")
        save(
            np.where(labels == 255, 99, 10 * (labels.astype(int) + 1)).astype(np.uint8),
            tmp_path / f"own/masks/f{number}.png",
        )
    dataset = open_dataset(own_recipe(), tmp_path / "own")
    return Drawn(ModelCard.of(dataset.recipe, (64, 48)), "fp32", NATIVE), dataset


def test_planted_errors_are_found_and_usual_confusions_are_not(drawn: tuple[Drawn, Dataset]) -> None:
    engine, dataset = drawn
    frames = sorted(dataset.frames("train+val"), key=lambda frame: frame.stem)
    evidence = collect_evidence(engine, dataset, frames)
    assert [each.counts.sum() for each in evidence] == [48 * 64] * 8 + [40 * 64, 48 * 64]  # void is not counted
    found = rank_suspects(evidence, 3)
    # The model calls half of the ground wall, in every frame: no such pixel is contradicted.
    first = {(suspect.frame.stem, suspect.label, suspect.predicted): suspect for suspect in found}
    assert first.keys() == {("f6", AIR, WALL), ("f6", WALL, GROUND), ("f3", GROUND, AIR)}
    piece = first["f3", GROUND, AIR]
    assert (piece.pixels, piece.share) == (100, pytest.approx(100 / (16 * 64 + 100)))
    assert piece.confidence == pytest.approx(250 / 255, abs=0.5 / BINS)


def test_further_classes_of_a_frame_count_less(drawn: tuple[Drawn, Dataset]) -> None:
    engine, dataset = drawn
    frames = dataset.frames("train+val")
    evidence = collect_evidence(engine, dataset, frames)
    wrong = next(each for each in evidence if each.frame.stem == "f6")
    others = table_of([each for each in evidence if each is not wrong], 3)
    likely, table = likelihoods(others), table_of([wrong], 3)
    expected = []
    for label in (WALL, AIR):
        surprise = [-np.log(likely[label, other]) for other in range(3) if other != label]
        own = [table[label, other] for other in range(3) if other != label]
        usual = [others[label, other] for other in range(3) if other != label]
        pixels = table[label].sum()
        excess = np.sum(np.multiply(surprise, own))
        excess -= np.sum(np.multiply(surprise, usual)) / others[label].sum() * pixels
        expected.append(excess / np.sqrt(pixels))
    scores = [suspect.score for suspect in rank_suspects(evidence, 3) if suspect.frame.stem == "f6"]
    assert scores == pytest.approx([max(expected), min(expected) / 4])


def test_contradicted_pixels_are_those_of_the_error(drawn: tuple[Drawn, Dataset]) -> None:
    engine, dataset = drawn
    frames = dataset.frames("train+val")
    (frame,) = [frame for frame in frames if frame.stem == "f3"]
    others = table_of(collect_evidence(engine, dataset, [other for other in frames if other != frame]), 3)
    (judged,) = judge_frames(engine, dataset, [frame])
    expected = np.zeros((48, 64), bool)
    expected[2:12, 10:20] = True
    np.testing.assert_array_equal(contradicted_pixels(judged, GROUND, others), expected)
    assert not contradicted_pixels(judged, AIR, others).any()


def test_a_frame_without_others_and_one_of_void_have_no_suspects() -> None:
    frame = Frame(Path("a.png"), Path("a-mask.png"), "a")
    alone = Evidence(frame, np.array([BINS - 1]), np.array([500]))
    void = Evidence(frame, np.array([], int), np.array([], int))
    assert rank_suspects([alone], 2) == rank_suspects([void], 2) == []


def test_an_engine_without_confidence_is_refused(drawn: tuple[Drawn, Dataset]) -> None:
    engine, dataset = drawn
    engine.has_confidence = False
    with pytest.raises(UserError, match="no confidence"):
        collect_evidence(engine, dataset, dataset.frames("val"))
