#!/usr/bin/env bash
# Tests and benchmarks on a GPU, within 8 minutes: bash bench/gpu.sh [OPTION ...] [OUT_FOLDER]
#
# Needs a CUDA GPU, Python 3.11 or later, PyTorch 2.11 or later, Triton 3.6 or later, nvcc, and pytest for the tests. No
# network, and nothing of ffrl need be installed: the source tree is used as it is, and stays as it is. The CUDA kernels
# are built in a temporary folder, for the GPU that is there unless TORCH_CUDA_ARCH_LIST says otherwise.
#
# Writes OUT_FOLDER/gpu.json and OUT_FOLDER/gpu.md (default runs/gpu in the source tree). Every part is a process of its
# own with a limit of its own and writes its results into OUT_FOLDER/parts as they come; one that fails or runs out of
# time loses no other. The exit status is 0 only where all parts are well.
#
#   --device cpu          try it without a GPU
#   --cases tiny          try it in seconds instead of minutes
#   --limit PART=SECONDS  another limit for a part
#   PYTHON=...            another Python than that of .venv, or python3
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# In this order; "build" and "machine" run beside each other, and so do "check" and "tests". Seconds; 20 of the 8 minutes
# are for the report. What a part leaves of its time goes to the parts after it.
parts=(environment build machine check tests op rollout training)
declare -A limit=([environment]=25 [build]=90 [machine]=35 [check]=130 [tests]=130 [op]=130 [rollout]=35 [training]=50)

fail() {
    echo "bench/gpu.sh: $1" >&2
    exit 2
}

command="bash bench/gpu.sh $*" device=cuda cases=full out=
while (($#)); do
    case $1 in
    --device | --cases | --limit)
        (($# > 1)) || fail "$1 needs a value"
        case $1 in
        --device) device=$2 ;;
        --cases) cases=$2 ;;
        *)
            [[ $2 =~ ^([a-z]+)=([0-9]+)$ && -n ${limit[${BASH_REMATCH[1]}]+known} ]] ||
                fail "--limit $2 is not allowed; expected PART=SECONDS with a PART of: ${parts[*]}"
            limit[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
            ;;
        esac
        shift
        ;;
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*) fail "$1 is not an option; see --help" ;;
    *) [[ -z $out ]] && out=$1 || fail "one OUT_FOLDER is enough: $out, $1" ;;
    esac
    shift
done
[[ $device == cuda || $device == cpu ]] || fail "--device $device is not allowed; expected cuda or cpu"
[[ $cases == full || $cases == tiny ]] || fail "--cases $cases is not allowed; expected full or tiny"

python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    if [[ -x $root/.venv/bin/python ]]; then python=$root/.venv/bin/python; fi
fi
python=$(type -P -- "$python") || fail "there is no ${PYTHON:-python3}; name a Python 3.11 or later: PYTHON=... bash bench/gpu.sh"
[[ $python == /* ]] || python=$PWD/$python
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "needs Python 3.11 or later, and '$python' is $("$python" --version 2>&1)"
type -P timeout >/dev/null || fail "needs the program 'timeout' of the GNU coreutils"

out=${out:-$root/runs/gpu}
mkdir -p "$out/parts" && out=$(cd "$out" && pwd) || fail "cannot make the folder $out/parts"
[[ -w $out ]] || fail "cannot write into $out"
rm -f "$out"/gpu.{json,md} "$out"/parts/*.{jsonl,status,stdout,stderr,log}

work=$(mktemp -d) || fail "cannot make a temporary folder"
trap 'rm -rf "$work"' EXIT
stop='kill $(jobs -p) 2>/dev/null; wait; exit 130'
trap "$stop" INT TERM
bash "$root/bench/gpu/link_tree.sh" "$root" "$work/tree" || fail "cannot link the source tree into $work"
cd "$work/tree" || exit 2
export PYTHONPATH=$work/tree PYTHONPYCACHEPREFIX=$work/pycache PYTHONUNBUFFERED=1
# Every run compiles anew unless these are set. Several processes compile at a time, so each uses few of its own.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton} TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/inductor}
export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-4}

# run PART SECONDS MODULE ARGUMENT ...: records exit status, seconds and limit in PART.status
run() {
    local name=$1 seconds=$2 module=$3 begun=$SECONDS code
    shift 3
    ((seconds > 0)) || seconds=1
    local file=$out/parts/$name
    echo "$name, at most $seconds s"
    timeout --kill-after=2 "$seconds" "$python" -m "$module" --out "$file.jsonl" --device "$device" --cases "$cases" \
        --seconds "$((seconds > 8 ? seconds - 4 : seconds))" "$@" >"$file.stdout" 2>"$file.stderr" </dev/null &
    wait $! # unlike a command in the foreground, it lets a signal through
    code=$?
    echo "$code $((SECONDS - begun)) $seconds" >"$file.status"
    return "$code"
}

report() {
    timeout --kill-after=2 15 "$python" -m bench.gpu.report "$out" "${parts[@]}" --command "$command"
    local code=$?
    echo "report: $out/gpu.md, $out/gpu.json"
    exit "$code"
}

mark=${limit[environment]}
run environment "$mark" bench.gpu.environment
if [[ $? -gt 1 ]]; then
    cat "$out/parts/environment.stderr" >&2
    report
fi

# Compiling takes the processor, the ceilings of the machine the GPU.
longer=$((limit[build] > limit[machine] ? limit[build] : limit[machine]))
spare=$((mark - SECONDS)) mark=$((mark + longer))
(
    trap "$stop" TERM
    run build $((limit[build] + spare)) bench.gpu.build --objects "$work/cuda" --into "$work/tree/ffrl"
) &
run machine $((limit[machine] + spare)) bench.gpu.ceilings
wait
if [[ -f $work/cuda/ptxas.log ]]; then cp "$work/cuda/ptxas.log" "$out/parts/ptxas.log"; fi

# Neither measures time, and both mostly compile.
longer=$((limit[check] > limit[tests] ? limit[check] : limit[tests]))
spare=$((mark - SECONDS)) mark=$((mark + longer))
(
    trap "$stop" TERM
    run tests $((limit[tests] + spare)) bench.gpu.kernel_tests
) &
run check $((limit[check] + spare)) bench.gpu.check
wait

for benchmark in op rollout training; do
    mark=$((mark + limit[$benchmark]))
    run "$benchmark" $((mark - SECONDS)) bench.gpu.measure --benchmark "$benchmark" --checked "$out/parts/check.jsonl"
done
report
