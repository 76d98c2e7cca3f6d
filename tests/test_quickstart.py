"""The notebook in examples/ runs from its first cell to its last, with a tenth of the training steps."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_the_notebook_runs_and_ends_with_an_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.delenv("OMP_NUM_THREADS")  # all cores: the network is larger than in other tests
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # All steps would take a tenth of CI's time.
    for whole, short in (("lr_find()", "lr_find(num_it=20)"), ("fit_one_cycle(8, ", "fit_one_cycle(1, ")):
        (cell,) = [cell for cell in notebook.cells if whole in cell.source]
        cell.source = cell.source.replace(whole, short)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "image/png" in outputs[-1]["data"]
    assert any("miou" in str(output.get("data", {}).get("text/html")) for output in outputs)  # the training's table
    assert (tmp_path / "quickstart.pkl").is_file()
