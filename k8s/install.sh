#!/usr/bin/env bash
# Installs Outrider's wheel into the Python on PATH: install.sh WHEEL cpu|cuda. The Dockerfile runs it in the image, a
# test in an empty virtual environment, and the files in cluster/ on machines of their own.
set -euo pipefail

wheel=$1
accelerator=$2
here=$(cd "$(dirname "$0")" && pwd)
torch=$(sed -n 's/^torch==//p' "$here/constraints.txt")

pip() {
    python -m pip install --no-cache-dir --disable-pip-version-check --constraint "$here/constraints.txt" "$@"
}

case $accelerator in
cuda)
    # The wheel that PyPI names for Linux brings CUDA along.
    pip "torch==$torch"
    ;;
cpu)
    # The CPU build has its own version label: where pip looks already, else in PyTorch's own index.
    pip "torch==$torch+cpu" || pip --extra-index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu"
    ;;
*)
    echo "install.sh: the accelerator is cpu or cuda, not '$accelerator'" >&2
    exit 2
    ;;
esac
pip "$wheel"
python -m pip check
outrider --help >/dev/null
