#!/usr/bin/env bash
# The opponents' own virtual environment (nnU-Net is no dependency of this project):
#
#     bash benchmarks/opponents/environment.sh nnunet/env
#
# pip takes torch's CPU or CUDA build from the index it is given; for a CPU:
#
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=2.13.0+cpu bash benchmarks/opponents/environment.sh nnunet/env
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?say where: bash benchmarks/opponents/environment.sh FOLDER}
${PYTHON:-python3} -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt")
"${pip[@]}" "torch==${TORCH:-2.13.0}" # first, so that nothing below brings another build
"${pip[@]}" --requirement "$here/requirements.txt"
"$folder/bin/python" "$here/launch.py" nnUNetv2_train -h > /dev/null
echo "$folder: $("$folder/bin/python" -m pip freeze | grep -i -E '^(nnunetv2|dynamic|torch=)' | tr '\n' ' ')"
