#!/usr/bin/env bash
# Everything that needs a GPU, in two calls of under 9 minutes each.
#
#   benchmarks/on_gpu.sh kernels     build, GPU tests, benchmarks of the operations, compute-sanitizer
#   benchmarks/on_gpu.sh networks    build, engines of all kinds, a folder labelled from end to end
#
# Results go to $OUT (default benchmarks/out), at most 8 files; read summary.txt first. Without an argument: kernels.
# Needs python3 with torch, numpy, pillow, rich, pyyaml, safetensors, pybind11, cmake, ninja and pytest, and nvcc; no network.
# Other pure-Python packages are taken from wheelhouse/ (make wheelhouse, on a machine with network). Installs nothing outside
# build/gpu, and may be run again: only what changed is compiled.
#
# A step that fails does not stop the others. Exit status: 0 all steps passed, 1 a step failed, 2 nothing failed, but steps
# could not run here (no CUDA device, no CUDA compiler, no time left).
# Settings: PYTHON, OUT, WSSS_CUDA_ARCHS, WSSS_GPU_SECONDS (of everything, default 520).
set -uo pipefail
part=${1:-kernels}
case $part in kernels | networks) ;; *) echo "on_gpu.sh: kernels or networks, not $part" >&2; exit 1 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

PYTHON=$(command -v "${PYTHON:-python3}") || { echo "on_gpu.sh: no ${PYTHON:-python3}" >&2; exit 1; }
case $PYTHON in /*) ;; *) PYTHON=$PWD/$PYTHON ;; esac
OUT=${OUT:-benchmarks/out}
total=${WSSS_GPU_SECONDS:-520}
mkdir -p "$OUT" build/gpu || exit 1
OUT=$(cd "$OUT" && pwd)
build=$PWD/build/gpu
site=$build/site
summary=$OUT/summary.txt
rm -f "$OUT"/{summary.txt,environment.json,build.log,pytest.txt,sanitizer.txt,bench.json,bench.txt}
rm -f "$OUT"/{engines.json,engines.txt,label.json,label.txt}

failed=0 not_run=0
note() { printf '%-24s %s\n' "$1" "$2" | tee -a "$summary"; }
left() { echo $((total - SECONDS)); }
limited() { local wish=$1 rest; rest=$(left); echo $((wish < rest ? wish : rest)); }
skip() { not_run=1; note "$1" "not run: $2"; }
record() { # NAME STATUS SECONDS
    case $2 in
    0) note "$1" "passed (exit status 0, $3 s)" ;;
    124 | 137) failed=1; note "$1" "FAILED: stopped at its time limit (exit status $2, $3 s)" ;;
    *) failed=1; note "$1" "FAILED (exit status $2, $3 s)" ;;
    esac
}
step() { # NAME LIMIT FILE COMMAND...
    local name=$1 limit file=$OUT/$3 begun=$SECONDS status
    limit=$(limited "$2")
    shift 3
    if [ "$limit" -lt 5 ]; then skip "$name" "no time left"; return 1; fi
    { echo "\$ $*"; timeout -k 5 "$limit" "$@"; } >>"$file" 2>&1
    status=$?
    record "$name" $status $((SECONDS - begun))
    return $status
}

# ---- what is here ------------------------------------------------------------------------------------------------------------

export PATH=$PATH:/usr/local/cuda/bin
nvcc=${CUDACXX:-$(command -v nvcc || true)}
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -1)
gpu=$(timeout 30 nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader 2>/dev/null | head -1)
arch=$(printf '%s' "$gpu" | awk -F', *' '{gsub(/\./, "", $2); print $2}')
archs=${WSSS_CUDA_ARCHS:-${arch:-90}}
device=0
timeout 120 "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null && device=1
{
    echo "date                     $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    if [ $device = 1 ]; then
        echo "CUDA device              ${gpu:-visible to torch, nvidia-smi says nothing}"
    else
        echo "CUDA device              NONE IS VISIBLE: nothing below has run on a GPU"
    fi
    echo "CUDA compiler            ${nvcc:-none}, architectures $archs"
} | tee "$summary"

# ---- build -------------------------------------------------------------------------------------------------------------------

# A package of its own under build/gpu: the sources' folder and any installed package stay as they are.
build_package() {
    local packages=() name
    rm -rf "$build/wheels"
    for name in jsonargparse hypothesis rich yaml safetensors; do
        "$PYTHON" -c "import $name" 2>/dev/null && continue
        [ $name = yaml ] && name=pyyaml
        if compgen -G "wheelhouse/$name-*.whl" >/dev/null; then
            packages+=(wheelhouse/"$name"-*.whl)
        else
            echo "missing: the Python package $name, also in wheelhouse/"
        fi
    done
    if [ ${#packages[@]} -gt 0 ]; then
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$build/wheels" "${packages[@]}" || return
    fi
    local version pybind
    version=$("$PYTHON" -c 'import runpy; print(runpy.run_path("wsss_fast/_version.py")["__version__"])') || return
    pybind=$("$PYTHON" -m pybind11 --cmakedir) || return
    cmake -S . -B "$build/cmake" -G Ninja -DCMAKE_BUILD_TYPE=Release -DWSSS_VERSION="$version" \
        -DWSSS_CUDA="$([ -n "$nvcc" ] && echo ON || echo OFF)" -DWSSS_CUDA_ARCHS="$archs" \
        -DPython_EXECUTABLE="$PYTHON" -Dpybind11_DIR="$pybind" \
        -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/module" || return
    cmake --build "$build/cmake" --target _kernels --parallel "${WSSS_BUILD_JOBS:-$(nproc)}" || return
    rm -rf "$site"
    mkdir -p "$site"
    cp -r wsss_fast "$site/" && rm -f "$site"/wsss_fast/*.so && cp "$build"/module/_kernels*.so "$site/wsss_fast/"
}
export PYTHON build site nvcc archs
[ -n "$nvcc" ] && export CUDACXX=$nvcc
export -f build_package
export PYTHONPATH=$site:$build/wheels PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1

built=0
step build 240 build.log bash -uo pipefail -c build_package && built=1
[ -n "$nvcc" ] || skip "build with CUDA" "no CUDA compiler, only the CPU kernels were built"

wsss() { "$PYTHON" -c 'import sys; from wsss_fast.cli import main; sys.exit(main())' "$@"; }
export -f wsss

[ $built = 0 ] && skip "$part" "the build failed"
[ $built = 1 ] && step environment 60 environment.json bash -c 'wsss doctor --json' &&
    sed -i 1d "$OUT/environment.json" # the command, which is no JSON

if [ $built = 1 ] && [ $part = networks ]; then
    # ---- engines and labelling -----------------------------------------------------------------------------------------------

    if [ $device = 1 ]; then
        step label 200 label.txt "$PYTHON" benchmarks/label.py --device cuda --network resnet38 --images 2000 --published 40 \
            --json "$OUT/label.json"
        budget=$(limited 330)
        step engines $((budget + 30)) engines.txt "$PYTHON" benchmarks/engines.py --seconds $((budget - 30)) \
            --json "$OUT/engines.json"
    else
        skip label "no CUDA device"
        skip engines "no CUDA device"
    fi
fi

if [ $built = 1 ] && [ $part = kernels ]; then
    # ---- tests ---------------------------------------------------------------------------------------------------------------

    # Without a device all of them are skipped, which still shows that they can be collected.
    step "tests" 150 pytest.txt "$PYTHON" -m pytest -m "cuda and not soak" -p no:cacheprovider --continue-on-collection-errors -q
    [ $device = 1 ] || skip "tests on a GPU" "no CUDA device"

    # ---- benchmarks ----------------------------------------------------------------------------------------------------------

    if [ $device = 1 ]; then
        # Half a minute is kept for the last case begun, and more for the sanitizers.
        budget=$(limited 150)
        step benchmarks $((budget + 60)) bench.txt bash -c \
            "wsss bench all --device cuda --rounds 15 --seconds 10 --budget $budget --json '$OUT/bench.json'"
    else
        skip benchmarks "no CUDA device"
    fi

    # ---- compute-sanitizer: the four tools at the same time --------------------------------------------------------------------

    if [ $device = 0 ]; then
        skip sanitizer "no CUDA device"
    elif [ "$(left)" -lt 20 ]; then
        skip sanitizer "no time left"
    elif [ -z "$sanitizer" ]; then
        skip sanitizer "no compute-sanitizer"
    else
        limit=$(limited 180)
        tools=(memcheck racecheck initcheck synccheck)
        for tool in "${tools[@]}"; do
            (
                begun=$SECONDS
                # Without torch's cache every tensor is an allocation of its own, whose borders are guarded.
                PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 5 "$limit" "$sanitizer" --tool "$tool" --error-exitcode 99 \
                    "$PYTHON" benchmarks/sanitize.py >"$build/$tool.txt" 2>&1
                echo "$? $((SECONDS - begun))" >"$build/$tool.status"
            ) &
        done
        wait
        for tool in "${tools[@]}"; do
            read -r status seconds <"$build/$tool.status"
            record "sanitizer $tool" "$status" "$seconds"
            { echo "==== $tool (exit status $status)"; tail -c 200000 "$build/$tool.txt"; } >>"$OUT/sanitizer.txt"
        done
    fi
fi

# ---- the end -----------------------------------------------------------------------------------------------------------------

if [ $failed = 1 ]; then
    note "result" "FAILED, after $SECONDS s"
    exit 1
elif [ $not_run = 1 ]; then
    note "result" "nothing failed, but not everything could run here, after $SECONDS s"
    exit 2
fi
note "result" "all passed, after $SECONDS s"
