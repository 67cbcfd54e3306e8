#!/usr/bin/env bash
# cuda_libraries.sh OUT: of the torch wheel and NVIDIA's, the libraries that libtorch_cuda.so loads, beside one another in
# OUT, where the loader finds them by $ORIGIN. Untested on a GPU.
set -euo pipefail
readonly out="$1" torch=2.11.0

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends ca-certificates python3-venv binutils patchelf
python3 -m venv /venv
/venv/bin/pip install --quiet "torch==$torch"
site="$(echo /venv/lib/python3*/site-packages)"

mkdir -p "$out"
# The closure of what is needed by name; cuDNN and cuBLAS open further parts of their own by name, so all of their parts
# come along once they are needed.
find_library() { find "$site/torch/lib" "$site/nvidia" -name "$1" -print -quit; }
take() {
  local library path needed
  library="$1"
  [[ -e "$out/$library" ]] && return 0
  path="$(find_library "$library")"
  [[ -n "$path" ]] || return 0 # glibc's, libstdc++'s, the driver's
  cp "$path" "$out/$library"
  patchelf --set-rpath '$ORIGIN' "$out/$library"
  while read -r needed; do take "$needed"; done < <(readelf -d "$path" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
}
take libtorch_cuda.so
take libtorch_cuda_linalg.so
for family in libcudnn libcublas; do
  compgen -G "$out/$family*" >/dev/null || continue
  while read -r path; do take "$(basename "$path")"; done < <(find "$site/nvidia" -name "${family}*.so.*")
done
# These are in the CPU image already.
rm -f "$out"/libtorch_cpu.so "$out"/libc10.so "$out"/libgomp.so.1 "$out"/libcudart.so.13 "$out"/libcupti.so.13
