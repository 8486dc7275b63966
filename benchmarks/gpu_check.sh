#!/usr/bin/env bash
# A check of a GPU machine in 7.5 minutes, the most valuable steps first. Each step has a time limit and writes what it
# finds to $OUT at once: if the script is stopped, only later steps are lost. A step with no time left is skipped.
#
#   bash benchmarks/gpu_check.sh                              in a checkout, with resnet_exp's dependencies installed
#   STEPS="env tests run" bash benchmarks/gpu_check.sh        these alone
#   SMALL=1 SCALE=5 bash benchmarks/gpu_check.sh              tries the script where there is no GPU (tiny, minutes)
#
# Variables:
#   DATA      a folder of images: train/<class>/ and test/<class>/ (CIFAR-10's 60,000 for figures that compare); without
#             it the embedded digits, which try the script and not the machine, and no notebook step
#   ARCHIVE   a .tar.xz of such a folder, unpacked to DATA if that is not there yet; with SMALL=1 a few images of it
#   WHEELS    a folder of wheels that are installed to SITE first, where the machine has no network
#   PY OUT    the Python that runs it; where its findings go (/tmp/gpu_check_out)
#   BUDGET    seconds in all, 450; SCALE multiplies it and the limit of each step
#
# Steps, and their limits in seconds: env 60 (the card, its matrix and copy rates, versions); tests 120 (marked `cuda`);
# run 120 (the user's command, whole: 24 epochs, batch 512, full width, MLflow, report; seconds by phase, peak memory);
# lr037 60 (at max_lr 0.037, without report); factors 75 (a sweep of find_factor over 8 epochs); bench 120 (the package's
# loop; the bare step eager, compiled and as a CUDA graph; what the host takes; where it waits; a profile); notebook 45 (an
# epoch in the notebooks' way); deterministic 2 x 40 (the two `weights` must be equal); memory 30 (a batch that cannot fit:
# exit 1 is expected); seeds 120 (24 epochs with seeds 0, 1, 2).
#
# $OUT: summary.txt (read this first), results.jsonl (all figures), cuda_tests.txt, run.txt, more.txt, bench.txt,
# profile.txt, report.tar.gz (a run directory without weights). `host_ms_per_step` is what queueing a step took; where the
# device is the slower, the host waits for a free place in the queue, and the number means nothing: read the line of width 4.
# What it wraps to take the time of a run's phases is listed at the top of gpu_check.py: WRAPPED.
set -u
BEGAN=$(date +%s)
SCALE=${SCALE:-1}                # of all limits: a dry run on a slow machine
BUDGET=${BUDGET:-$((450 * SCALE))}   # seconds in all
SMALL=${SMALL:-0}
STEPS=${STEPS:-"env tests run lr037 factors bench notebook deterministic memory seeds"}
PY=${PY:-python3}
SITE=${SITE:-/tmp/site}
DATA=${DATA:-}
ARCHIVE=${ARCHIVE:-}
WHEELS=${WHEELS:-}
OUT=${OUT:-/tmp/gpu_check_out}
PROJECT=$PWD
HERE=$(cd "$(dirname "$0")" && pwd)
WORK=${WORK:-$(mktemp -d /tmp/gpu_check.XXXX)}   # run directories, mlflow.db: outside the checkout
[ -n "$ARCHIVE" ] && DATA=${DATA:-$WORK/data}
mkdir -p "$OUT" "$WORK" ${DATA:+"$DATA"}
OUT=$(cd "$OUT" && pwd); [ -n "$DATA" ] && DATA=$(cd "$DATA" && pwd) # steps run in $WORK
export OUT SMALL DATA PROJECT
export PYTHONPATH="$SITE:$PROJECT" PYTHONUNBUFFERED=1 HYDRA_FULL_ERROR=1
export MLFLOW_DISABLE_TELEMETRY=true TORCHINDUCTOR_CACHE_DIR="$WORK/inductor"

say() { echo "$*" | tee -a "$OUT/summary.txt"; }
left() { echo $((BUDGET - ($(date +%s) - BEGAN))); }

# step NAME LIMIT LOG command...: skipped unless asked for and some time is left; its output goes to $OUT/LOG.
step() {
  local name=$1 limit=$(($2 * SCALE)) log=$3 start rc seconds; shift 3
  case " $STEPS " in *" $name "*) ;; *) return 0 ;; esac
  if [ "$(left)" -lt 12 ]; then say "-- $name: skipped, $(left) s left"; return 0; fi
  [ "$limit" -gt "$(($(left) - 2))" ] && limit=$(($(left) - 2))
  start=$(date +%s.%N)
  say "-- $name (at most $limit s, $(left) s left)"
  echo "===== $name: $*" >>"$OUT/$log"
  (cd "$WORK" && GPU_CHECK_BEGAN=$start timeout -k 8 "$limit" "$@") >>"$OUT/$log" 2>&1
  rc=$?
  seconds=$(awk "BEGIN {printf \"%.1f\", $(date +%s.%N) - $start}")
  say "   $name: exit $rc after $seconds s$([ $rc -eq 124 ] && echo ' (cut)')"
  [ $rc -ne 0 ] && tail -n 4 "$OUT/$log" | cut -c1-300 | sed 's/^/   | /' | tee -a "$OUT/summary.txt"
  return 0
}

# --------------------------------------------------------------------------------------------------- data and packages
unpack() {
  if [ "$SMALL" = 1 ]; then tar -xJf "$ARCHIVE" -C "$DATA" --wildcards '*/*/00??.jpg'
  else tar -xJf "$ARCHIVE" -C "$DATA" || "$PY" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' "$ARCHIVE" "$DATA"; fi
}
if [ -n "$ARCHIVE" ] && [ ! -d "$DATA/test" ]; then unpack & fi # while pip works
if [ -n "$WHEELS" ] && [ ! -d "$SITE/hydra" ]; then
  "$PY" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "$WHEELS"/*.whl \
    >>"$OUT/more.txt" 2>&1 || say "pip install failed: $(tail -n 2 "$OUT/more.txt")"
fi
wait
say "set up in $(($(date +%s) - BEGAN)) s; $([ -n "$DATA" ] && find "$DATA" -type f | wc -l || echo the embedded) images; commit $(git -C "$PROJECT" rev-parse --short HEAD 2>/dev/null || echo unknown)"

# ------------------------------------------------------------------------------------------------------------ (a) where
card() {
  command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: no GPU"; return; }
  nvidia-smi --query-gpu=name,memory.total,driver_version,pstate,clocks.sm --format=csv,noheader 2>&1 | head -2
}
case " $STEPS " in *" env "*) say "$(card)" ;; esac
step env 60 more.txt "$PY" "$HERE/gpu_check.py" env

# ------------------------------------------------------------------------------------------------- (b) the marked tests
marked() {  # without xdist: one process, as the files have them
  cd "$PROJECT" && "$PY" -m pytest -q -m cuda -p no:cacheprovider --timeout 100 --tb=short -rfEs "$@"
}
export -f marked; export PY
FILES=$(cd "$PROJECT" && grep -l 'mark\.cuda' tests/*.py | tr '\n' ' ')
step tests 120 cuda_tests.txt bash -c "marked $FILES"
[ -f "$OUT/cuda_tests.txt" ] && grep -E '^(FAILED|ERROR|[0-9]+ (passed|failed|skipped)|=+ .*(passed|failed|skipped))|no tests ran' "$OUT/cuda_tests.txt" | tail -n 15 | sed 's/^/   /' | tee -a "$OUT/summary.txt"

# --------------------------------------------------------------------------------------- (c) the user's command, whole
step run 120 run.txt "$PY" "$HERE/gpu_check.py" run whole data.validation=test train.epochs=24 train.batch_size=512
if [ -f "$WORK/last_run" ]; then
  tar -czf "$OUT/report.tar.gz" -C "$(dirname "$(cat "$WORK/last_run")")" --exclude='*.pt' --exclude=mlflow_model \
    --exclude=model.safetensors "$(basename "$(cat "$WORK/last_run")")" 2>>"$OUT/more.txt"
  [ "$(stat -c %s "$OUT/report.tar.gz")" -gt 16000000 ] && rm "$OUT/report.tar.gz"
fi

# ------------------------------------------------------------------------------------ (d) a given max_lr, and the factor
step lr037 60 more.txt "$PY" "$HERE/gpu_check.py" many lr037 data.validation=test scheduler.max_lr=0.037 train.epochs=24 --
EPOCHS=8; [ "$SMALL" = 1 ] && EPOCHS=2
step factors 75 more.txt "$PY" "$HERE/gpu_check.py" run factors tracker=none report=none train.epochs=$EPOCHS \
  scheduler.peak_epoch=2 scheduler.find_factor=1,4,8,16 --multirun

# -------------------------------------------------------------------------------------------- (e) the loop, the ceiling
step bench 120 bench.txt "$PY" "$HERE/gpu_check.py" bench
# ------------------------------------------------------------------------------------------------- (f) the notebook way
step notebook 45 bench.txt "$PY" "$HERE/gpu_check.py" notebook 2
# ----------------------------------------------------- the same digits twice (two processes); too large for the memory
TWICE=(train.deterministic=true scheduler.max_lr=0.3 train.epochs=2 scheduler.peak_epoch=1 data.validation=none)
step deterministic 40 more.txt "$PY" "$HERE/gpu_check.py" many deterministic "${TWICE[@]}" -- name=det_a
step deterministic 40 more.txt "$PY" "$HERE/gpu_check.py" many deterministic "${TWICE[@]}" -- name=det_b
step memory 30 more.txt "$PY" "$HERE/gpu_check.py" run too_large tracker=none report=none scheduler.max_lr=0.1 \
  train.epochs=5 train.batch_size=45000 model.width=256
# -------------------------------------------------------------------------------------------------- (g) over some seeds
step seeds 120 more.txt "$PY" "$HERE/gpu_check.py" many seeds data.validation=none train.epochs=24 -- seed=0 -- seed=1 -- seed=2

say "done after $(($(date +%s) - BEGAN)) s"
ls -la "$OUT"
echo; cat "$OUT/summary.txt"
