"""Exported models predict on machines without torch."""

import subprocess
import sys
from pathlib import Path

from linknet_fastai import predict


def test_no_module_of_the_room_imports_torch_or_fastai() -> None:
    names = [file.stem for file in Path(predict.__file__).parent.glob("*.py")]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("linknet_fastai.predict." + name)
heavy = {{"torch", "torchvision", "fastai", "timm", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
