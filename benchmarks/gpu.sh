#!/usr/bin/env bash
# Everything that has to be seen on a GPU, in one command: builds, tests, sanitizes, tunes, measures, sums up.
# Fetches nothing. A part that fails or runs out of time does not stop the others; the exit status is 0 only if all
# passed. A later run leaves out what passed and goes on where a part was stopped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat <<'END'
usage: benchmarks/gpu.sh [options] [PART...]      (all parts unless some are named)

  --list          the parts, and how each ended
  --again PART    run PART though it passed (may be given more than once)
  --out DIR       also copy what is worth keeping to DIR: at most 8 small files
  --minutes N     stop after N minutes in all; what is left is done by the next run
  --state DIR     where records and logs are kept (default: build/gpu)

environment: PYTHON (default: python3), TORCH_CUDA_ARCH_LIST, MAX_JOBS,
SWIN_FAST_COMMIT (the commit, where the folder is no git checkout)
END
}

python=${PYTHON:-python3}
state=build/gpu
out=()
again=()
parts=()
minutes=
list=
limit=${SWIN_FAST_GPU_LIMIT:-600} # seconds a part may take; tests set it
while (($#)); do
  case $1 in
    --list) list=1 ;;
    --help | -h) usage; exit 0 ;;
    --again | --out | --minutes | --state)
      if (($# < 2)); then echo "gpu.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --again) again+=("$2") ;;
        --out) out=(--out "$2") ;;
        --minutes) minutes=$2 ;;
        --state) state=$2 ;;
      esac
      shift ;;
    -*) echo "gpu.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    *) parts+=("$1") ;;
  esac
  shift
done
if [[ -n $minutes && ! $minutes =~ ^[1-9][0-9]{0,3}$ ]]; then
  echo "gpu.sh: --minutes needs a whole number of at least 1, got $minutes" >&2
  exit 2
fi

# the tree is what runs, whatever swin_fast is installed, and on every backend
unset SWIN_FAST_BACKEND TRITON_INTERPRET
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PIP_NO_INDEX=1
gpu() { "$python" -m benchmarks.gpu --state "$state" "$@"; }

all=(info build tests gate sanitizer tuner core latency models training profile)
for part in "${parts[@]}" "${again[@]}"; do
  if [[ " ${all[*]} summary " != *" $part "* ]]; then
    echo "gpu.sh: unknown part $part; the parts are ${all[*]} summary" >&2
    exit 2
  fi
done
if [[ -n $list ]]; then gpu list; exit; fi
for part in "${again[@]}"; do
  if [[ $part != summary ]]; then gpu forget "$part" || exit; fi
  if [[ " ${parts[*]} " != *" $part "* ]]; then parts+=("$part"); fi
done
if ((${#parts[@]} == 0)); then parts=("${all[@]}"); fi

child=
stop() {
  trap - INT TERM
  [[ -n $child ]] && kill -TERM "$child" 2>/dev/null && wait "$child"
  gpu summary "${out[@]}" >/dev/null
  exit 130
}
trap stop INT TERM

todo=$(gpu todo "${parts[@]}") || exit
for part in "${parts[@]}"; do
  if [[ $part == summary ]]; then continue; fi
  if [[ $'\n'$todo$'\n' != *$'\n'"$part"$'\n'* ]]; then echo "== $part: passed before"; continue; fi
  seconds=$limit
  if [[ -n $minutes ]]; then
    left=$((minutes * 60 - SECONDS - 10)) # the last seconds are for the summary
    if ((left < 20)); then echo "== $part: no time left, run again to go on"; continue; fi
    seconds=$((left < limit ? left : limit))
  fi
  echo "== $part"
  began=$SECONDS
  : >"$state/$part.log"
  timeout --kill-after=10 "$seconds" "$python" -m benchmarks.gpu --state "$state" run "$part" >"$state/$part.log" 2>&1 &
  child=$!
  tail -n +1 -s 0.1 -f --pid="$child" "$state/$part.log" &
  shown=$!
  wait "$child"
  status=$?
  child=
  wait "$shown"
  # writes the summary, too: what is done is kept, even if somebody stops this machine
  gpu record "${out[@]}" "$part" "$status" "$((SECONDS - began))" "$seconds"
done
gpu summary "${out[@]}" "${parts[@]}"
