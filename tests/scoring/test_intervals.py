"""Intervals by simulation: they contain a score that is known as often as they should, and units are what they claim."""

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from linknet_fastai.scoring import intervals
from linknet_fastai.scoring.intervals import Difference, FrameCounts, compared, score_intervals
from linknet_fastai.scoring.scores import Scores

RATES = np.array([[0.9, 0.08, 0.02], [0.1, 0.85, 0.05], [0.2, 0.2, 0.6]])  # truth by prediction, of the average drive
SHARES = np.array([12.0, 6.0, 1.0])  # of the classes in a drive: Dirichlet's parameters


def drives(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What differs from drive to drive: the classes' shares, Dx3, and the rates of predictions, Dx3x3."""
    rates = np.stack([rng.dirichlet(40 * row, count) for row in RATES], 1)
    return rng.dirichlet(SHARES, count), rates



def simulated(rng: np.random.Generator, count: int, frames: int = 6, networks: int = 1) -> list[FrameCounts]:
    """A data set of so many drives, as networks of equal expected score see it: they fail at other drives."""
    shares, _ = drives(rng, count)
    names = [f"{drive:02}_{frame}.png" for drive in range(count) for frame in range(frames)]
    groups = [name[:2] for name in names]
    own = np.stack([rng.dirichlet(60 * share, frames) for share in shares]).reshape(-1, 3)
    truth = rng.multinomial(5000, own)
    found = []
    for _ in range(networks):
        rates = drives(rng, count)[1].repeat(frames, 0)
        matrices = np.stack([rng.multinomial(truth[:, row], rates[:, row]) for row in range(3)], 1)
        found.append(FrameCounts(names, groups, csr_array(matrices.reshape(-1, 9)), "drives"))
    return found


def known_miou() -> float:
    """The mIoU over all drives that `simulated` can draw."""
    return Scores((SHARES / SHARES.sum())[:, None] * RATES).miou


def coverage(drives_of_each: int, data_sets: int, seed: int = 1) -> float:
    """The share of simulated data sets whose 95% interval contains the known mIoU."""
    rng, contained = np.random.default_rng(seed), 0
    for _ in range(data_sets):
        found = score_intervals(simulated(rng, drives_of_each)[0])
        assert found is not None
        low, high = found.overall["miou"]
        contained += low <= known_miou() <= high
    return contained / data_sets


def told_apart(drives_of_each: int, trials: int, seed: int = 2) -> float:
    """The share of trials in which two networks of equal expected score are told apart."""
    rng = np.random.default_rng(seed)
    found = [compared(*simulated(rng, drives_of_each, networks=2)) for _ in range(trials)]
    return sum(isinstance(each, Difference) and each.told_apart for each in found) / trials
