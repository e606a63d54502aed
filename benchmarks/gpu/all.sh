#!/usr/bin/env bash
# Everything that one GPU is measured for, part after part, from any folder:
#
#     bash benchmarks/gpu/all.sh DEVICE=cuda                       # each part at most 4 minutes, about 20 in all
#     bash benchmarks/gpu/all.sh DEVICE=cuda PARTS="mae data_path" # some of it
#     bash benchmarks/gpu/all.sh DEVICE=cpu                        # the same path at a tiny size, in seconds
#
# Further words: OUT=file (bench_gpu.jsonl), LIMIT=seconds of each part (200), PYTHON=interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
DEVICE=cuda OUT=bench_gpu.jsonl LIMIT=200 PARTS="mae vit cnn data_path autoencoders shared_card"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
for word in "$@"; do
  case $word in
    DEVICE=cpu | DEVICE=cuda | OUT=?* | LIMIT=?* | PARTS=?* | PYTHON=?*) declare "$word" ;;
    *)
      echo "all.sh: $word: expected DEVICE=cpu, DEVICE=cuda, OUT=file, LIMIT=seconds, PARTS=\"…\" or PYTHON=interpreter" >&2
      exit 2
      ;;
  esac
done
common=(--device "$DEVICE" --out "$OUT" --seconds "$LIMIT")
if [ "$DEVICE" = cpu ]; then # one process: imports take longer than the rest
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$PYTHON" -m benchmarks.gpu steps data_path autoencoders shared_card "${common[@]}"
  exit
fi
failed=0
for part in $PARTS; do
  echo "== $part"
  case $part in
    mae | vit | cnn) words=(steps --networks "$part") ;;
    *) words=("$part") ;;
  esac
  # a part that hangs must not cost the others their time
  timeout $((LIMIT + 40)) "$PYTHON" -m benchmarks.gpu "${words[0]}" "${common[@]}" "${words[@]:1}" || failed=1
done
exit $failed
