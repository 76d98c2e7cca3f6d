"""The official Cityscapes script, run as it is, and the comparison of its scores with ours."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not hasattr(np, "in1d"):  # gone since NumPy 2.4; the script calls it
    np.in1d = np.isin
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official  # noqa: N813


def official_scores(predictions: list[Path], truth: list[Path], export: Path) -> dict[str, Any]:
    """What the official script writes to disk for these files."""
    args = copy.copy(official.args)
    args.quiet, args.exportFile = True, str(export)
    official.evaluateImgLists([str(file) for file in predictions], [str(file) for file in truth], args)
    return json.loads(export.read_text())


def assert_same(ours: Any, theirs: Any, where: str = "result") -> None:
    """Equal to 1e-9 all the way down, None where the script has NaN."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in theirs.items():
            assert_same(ours[key], value, f"{where}.{key}")
    elif isinstance(theirs, float) and math.isnan(theirs):
        assert ours is None, f"{where}: {ours}, officially NaN"
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=0, abs=1e-9), where
    else:
        assert ours == theirs, where
