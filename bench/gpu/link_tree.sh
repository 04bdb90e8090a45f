#!/usr/bin/env bash
# A folder to put on PYTHONPATH: bash bench/gpu/link_tree.sh SOURCE_TREE EMPTY_FOLDER
#
# It holds links into the source tree, with kernels/ where it is installed, as ffrl.kernels. Extensions stay out: one that
# is there may have been built for another PyTorch. That with the CUDA kernels is built anew (bench/gpu/build.py).
set -euo pipefail
root=$(cd "$1" && pwd) tree=$2

mkdir -p "$tree/ffrl"
for entry in "$root"/ffrl/*; do
    name=${entry##*/}
    case $name in
    __pycache__ | kernels | _C*) ;;
    *) ln -s "$entry" "$tree/ffrl/$name" ;;
    esac
done
if [[ -f $root/kernels/__init__.py ]]; then ln -s "$root/kernels" "$tree/ffrl/kernels"; fi
for name in bench csrc docs tests; do
    if [[ -e $root/$name ]]; then ln -s "$root/$name" "$tree/$name"; fi
done
