#!/usr/bin/env bash
# Installs jipflow and its pinned libraries into the Python that comes first on PATH, from the
# repository's folder. `make setup` runs it for .venv, Snakemake for a conda environment, then maybe
# a copy of it in another folder. Arguments: extras of the package, such as test.
set -euo pipefail
cd "${JIPFLOW_REPOSITORY:-$PWD}"
install() {
    python -m pip --disable-pip-version-check install --quiet --constraint envs/constraints.txt "$@"
}
echo "[setup 2/4] build tools"
install setuptools wheel numpy
echo "[setup 3/4] pyradiomics, compiled here"
PYTHONPATH="$PWD/envs/pyradiomics" install --no-build-isolation pyradiomics || {
    echo "[setup] pyradiomics needs a C compiler and the headers of this Python (Debian: gcc and python3-dev)"
    exit 1
}
echo "[setup 4/4] jipflow${1:+ with $1} and its libraries, 1 to 7 GB, a few minutes"
install --no-build-isolation --editable ".${1:+[$1]}"
echo "[setup] done"
