"""The notebook in examples/ runs from its first cell to its last, on fewer frames and with a small network."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_the_notebook_runs_and_ends_with_an_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shorter = {
        '"train": 160, "val": 24': '"train": 16, "val": 4',
        "pretrained=False": 'pretrained=False, encoder="test_resnet"',
        "lr_find()": "lr_find(num_it=20)",
        "fit_one_cycle(8, ": "fit_one_cycle(1, ",
    }
    for whole, short in shorter.items():  # the whole takes a tenth of CI's time
        (cell,) = [cell for cell in notebook.cells if whole in cell.source]
        cell.source = cell.source.replace(whole, short)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "image/png" in outputs[-1]["data"]
    assert any("miou" in str(output.get("data", {}).get("text/html")) for output in outputs)  # the training's table
    assert (tmp_path / "quickstart.pkl").is_file()
