#!/usr/bin/env bash
# Reference figures on one GPU: speed and memory of pre-training and fine-tuning at patch 8 and 4, then a sweep whose
# report is kept beside this script. From the project's root, in an environment with a CUDA build of torch:
#
#     PEAK_TFLOPS=989 bash docs/results/reference_gpu.sh                 # H100 SXM at bf16
#     DEVICE=cpu bash docs/results/reference_gpu.sh                      # tries the path at a small size, in minutes
set -euo pipefail
IAC=${IAC:-.venv/bin/iac}
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-docs/results}
WORK=${WORK:-data/reference}
EPOCHS=${EPOCHS:-20}
SEEDS=${SEEDS:-[0]}
if [ "${DEVICE:-gpu}" = cpu ]; then
  FOLDER=cpu PATIENTS=${PATIENTS:-24} SAMPLES=32 EPOCHS=4 SWEEP=decoder_cpu
else
  FOLDER=gpu PATIENTS=${PATIENTS:-300} SAMPLES=4096 SWEEP=${SWEEP:-patch_size_x_upsampling}
fi
"$IAC" phantom "$WORK" --patients "$PATIENTS" --seed 0
for model in mae vit; do
  "$PYTHON" -m benchmarks training "experiments/sweeps/$FOLDER/$model.yaml" --patches 8 4 --out "$OUT/bench_training.json" \
    ${PEAK_TFLOPS:+--peak-tflops "$PEAK_TFLOPS"} data.cohort="$WORK/cohort.csv" data.sampling.samples_per_epoch="$SAMPLES"
done
"$IAC" sweep "experiments/sweeps/$SWEEP.yaml" name="reference_$SWEEP" seeds="$SEEDS" launcher=local launcher.at_once=1 \
  data.cohort="$WORK/cohort.csv" trainer.max_epochs="$EPOCHS" data.sampling.samples_per_epoch="$SAMPLES"
mkdir -p "$OUT/reference_$SWEEP" && cp -r "runs/reference_$SWEEP/report/." "$OUT/reference_$SWEEP/"
