#!/usr/bin/env bash
# Rollcall from a bundle: finds the machine's LibTorch and runs bin/rollcall with it. Every argument is rollcall's.
#
# LibTorch is looked for in $ROLLCALL_TORCH_ROOT (<site-packages>/torch), then where python3 would import torch from.
set -euo pipefail

readonly here="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
readonly wanted="$(cat "$here/torch-version")"

fail() {
  printf 'rollcall: %s\n' "$*" >&2
  exit 2
}

torch="${ROLLCALL_TORCH_ROOT:-}"
if [[ -z "$torch" ]]; then
  # Finds it without importing it, which takes seconds.
  torch="$(python3 -c '
import importlib.util
found = importlib.util.find_spec("torch")
print(found.submodule_search_locations[0] if found else "")' 2>/dev/null || true)"
fi
[[ -n "$torch" ]] ||
  fail "no LibTorch: run \`pip install torch==$wanted\`, or set ROLLCALL_TORCH_ROOT to <site-packages>/torch of a wheel"
[[ -f "$torch/lib/libtorch_cpu.so" ]] || fail "$torch holds no lib/libtorch_cpu.so (ROLLCALL_TORCH_ROOT, or python3's torch)"
version="$(sed -n 's/^__version__ = .\([0-9.]*\).*/\1/p' "$torch/version.py" 2>/dev/null || true)"
# Its C++ interface changes with every version.
[[ "$version" == "$wanted" ]] || fail "$torch is torch ${version:-of no version}, and this bundle was built with torch $wanted"

export LD_LIBRARY_PATH="$here/lib:$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$here/bin/rollcall" "$@"
