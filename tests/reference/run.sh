#!/bin/sh
# make reference: create the virtual environment when missing, make every golden again, compare with the committed ones.
#   VENV=DIR   where the environment lies (default: $XDG_CACHE_HOME/cake-reference; it is some GB because of torch)
#   WRITE=1    replace the committed goldens instead of comparing
set -eu
cd "$(dirname "$0")/../.."
VENV=${VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/cake-reference}
OUT=tests/vectors/reference
if ! cmp -s tests/reference/requirements.txt "$VENV/requirements.txt"; then
    echo "reference: installing the pinned packages into $VENV"
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check -r tests/reference/requirements.txt
    cp tests/reference/requirements.txt "$VENV/requirements.txt"
fi
check=--check
if [ -n "${WRITE:-}" ]; then check=; fi
"$VENV/bin/python" tests/reference/make_dequant.py $check $OUT/dequant
"$VENV/bin/python" tests/reference/make_models.py $check $OUT
"$VENV/bin/python" tests/reference/make_nll.py $check $OUT
make -s all build/release/tests/tools/make_float
"$VENV/bin/python" tests/reference/make_quantized.py $check tests/vectors/tools
# mlx-kquant 0.1.0 cannot be installed on Linux: KQUANT=DIR is its unpacked source archive
if [ -n "${KQUANT:-}" ]; then "$VENV/bin/python" tests/reference/make_presets.py "$KQUANT" $check tests/vectors/tools; fi
make -s build/release/tests/tools/matmul_peer
"$VENV/bin/python" tests/reference/check_kernels.py
