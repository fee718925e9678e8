#!/usr/bin/env bash
# The demo and a smoke set of tests with other versions than the pinned ones: `make fresh`, `make oldest`.
#   tools/other_versions.sh newest|oldest 3.N [TORCH]
# Everything stays in build/newest or build/oldest. The versions come from tools/resolve.py, and stand in constraints.txt there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
which=$1 version=$2 torch=${3:-}
home=build/$which
python=$(python3 tools/pythons.py "$version")

rm -rf "$home"
mkdir -p "$home"
"$python" -m venv "$home/resolve"
"$home/resolve/bin/python" -m pip install --quiet uv
"$home/resolve/bin/python" tools/resolve.py "$which" "$home/constraints.txt" --python "$version" ${torch:+--torch "$torch"}

# A copy of the files that git knows: an editable install and its compiled module belong to one environment.
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$home" --one-top-level=tree
cd "$home/tree"
git init --quiet . && git add --all  # some tests ask git for the files of the repository
# WSSS_CUDA=OFF, since this is about Python packages.
export WSSS_CONSTRAINTS=$PWD/../constraints.txt WSSS_CUDA=OFF WSSS_BUILD_DIR=$PWD/../package
make PYTHON="$python" TORCH= .venv/kernels demo
.venv/bin/python -m pytest -q tests/test_cli.py tests/test_label.py tests/test_train_command.py tests/test_weights.py \
  tests/test_efficientnet.py tests/test_export_onnx.py tests/test_data_labels.py tests/ops/test_pcm.py tests/ops/test_dense_crf.py \
  --impl reference --impl cpu
echo "make: the $which versions that are allowed work on $(.venv/bin/python --version); they stand in $home/constraints.txt"
