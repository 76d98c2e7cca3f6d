#!/usr/bin/env bash
# Downloads what tools/gpu_check.sh needs beside torch, torchvision, timm, onnxruntime, pandas, scipy and the like, as
# wheels for Python 3.12 on 64-bit Linux: tools/gpu_wheels.sh [FOLDER, by default .whl]
set -euo pipefail
folder=${1:-$(dirname "$0")/../.whl}
mkdir -p "$folder"
rm -f "$folder"/*.whl
download() { # without their needs: the machine has them, or they are named here
    "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$folder" "$@"
}
# fastprogress 1.1 needs fasthtml, and that a web server.
download 'fastai>=2.8,<2.9' fastcore fastdownload 'fastprogress<1.1' fasttransform 'plum-dispatch<2.10' beartype \
    pydantic typing-extensions typing-inspection annotated-types 'typer>=0.29' annotated-doc shellingham rich \
    tomli-w filelock segmentation-models-pytorch
# pydantic takes one version of its core alone.
download "$(unzip -p "$folder"/pydantic-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: \(pydantic-core==[0-9.]*\).*/\1/p')"
du -shL "$folder"
