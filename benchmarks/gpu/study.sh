#!/usr/bin/env bash
# The study of experiments/study, a slice of minutes at a time, from any folder:
#
#     bash benchmarks/gpu/study.sh DEVICE=cuda MINUTES=8     # one slice; again until it says that all is done
#     bash benchmarks/gpu/study.sh DEVICE=cpu MINUTES=30     # the size for two idle CPU cores: about 35 minutes
#
# A slice begins no training that it could not go on with: what runs when the time is up is stopped between two steps and
# goes on from its last checkpoint in the next. Status: 0 when all is done, 75 when it goes on, 1 when cells have failed.
# Further words: OUT=folder of the runs (runs), SEEDS=[0] (fewer than the file's), PYTHON=interpreter, and any key=value of
# `iac sweep`, such as launcher.per_gpu=3.
set -euo pipefail
cd "$(dirname "$0")/../.."
DEVICE=cuda MINUTES=8 OUT=runs SEEDS=
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
more=()
for word in "$@"; do
  case $word in
    DEVICE=cpu | DEVICE=cuda | MINUTES=?* | OUT=?* | SEEDS=?* | PYTHON=?*) declare "$word" ;;
    [a-z]*=*) more+=("$word") ;;
    *)
      echo "study.sh: $word: expected DEVICE=cpu, DEVICE=cuda, MINUTES=number, OUT=folder, SEEDS=[…], PYTHON=interpreter or key=value" >&2
      exit 2
      ;;
  esac
done
name=study
[ "$DEVICE" = cuda ] || name=study_cpu
status=0
"$PYTHON" -m iac_lightning.cli sweep "experiments/study/$name.yaml" --minutes "$MINUTES" "runs_dir=$OUT" ${SEEDS:+"seeds=$SEEDS"} \
  ${more[@]+"${more[@]}"} || status=$?
case $status in
  0) echo "done; the page: $PYTHON docs/results/study.py $OUT/$name" ;;
  75) echo "the slice is over; the same command goes on" ;;
esac
exit $status
