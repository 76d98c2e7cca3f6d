"""What exported models need, `engines` (but for torch_engine) and `predict`, imports no torch and no fastai."""

import json
import pkgutil
import subprocess
import sys

from linknet_fastai import engines, predict

CODE = """
import importlib, json, sys
from linknet_fastai.core.errors import UserError
heavy = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except UserError:  # of an extra that is not installed
        pass
    heavy[name] = sorted({"torch", "torchvision", "timm", "fastai"} & (set(sys.modules) - before))
print(json.dumps(heavy))
"""


def test_every_module_of_both_rooms_imports_without_torch_and_fastai() -> None:
    names = [
        module.name
        for room in (engines, predict)
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
        if module.name != "linknet_fastai.engines.torch_engine"
    ]
    assert {"linknet_fastai.engines.onnx_engine", "linknet_fastai.predict.serve"} <= set(names)
    done = subprocess.run([sys.executable, "-c", CODE, *names], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {name: [] for name in names}
