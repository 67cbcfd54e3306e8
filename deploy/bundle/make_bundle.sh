#!/usr/bin/env bash
# make_bundle.sh BIN_DIR TORCH_ROOT OUT.tar.zst: the programs in BIN_DIR and the Debian libraries they need, as one archive
# that runs wherever a wheel of the same LibTorch is. `./rollcall bundle` calls it.
#
# Left out: LibTorch and what it brings (the wheel has them), and glibc, which must be the machine's own.
set -euo pipefail

readonly bin_dir="$(readlink -f "$1")" torch_root="$(readlink -f "$2")" out="$3"
readonly here="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
readonly source_root="$here/../.."
# Compressed. LibTorch is what is large; more than this means that something slipped in.
readonly most_bytes=$((50 << 20))

fail() {
  printf 'bundle: %s\n' "$*" >&2
  exit 1
}

[[ "$out" == *.tar.zst ]] || fail "expected the name of a .tar.zst file, got '$out'"
for tool in zstd strip ldd cmake; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done

staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT
readonly root="$staging/rollcall"
mkdir -p "$root/bin" "$root/lib"

# Paths of the libraries of a program that are neither LibTorch's nor glibc's.
libraries_of() {
  LD_LIBRARY_PATH="$torch_root/lib" ldd "$1" | while read -r name arrow path _; do
    [[ "$arrow" == '=>' ]] || continue
    [[ "$path" == /* ]] || fail "$1 needs $name, which is not there"
    case "$name" in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libutil.so.*) continue ;;
      libgomp.so.* | libtorch* | libc10* | libcudart.so.* | libcupti.so.*) continue ;;
    esac
    case "$(readlink -f "$path")" in
      "$torch_root"/* | */site-packages/*) continue ;;
    esac
    printf '%s\n' "$path"
  done
}

found=0
for program in "$bin_dir"/rollcall "$bin_dir"/rollcall-*; do
  [[ -f "$program" && -x "$program" ]] || continue
  found=1
  cp "$program" "$root/bin/"
  while read -r library; do
    [[ -e "$root/lib/$(basename "$library")" ]] || cp -L "$library" "$root/lib/"
  done < <(libraries_of "$program")
done
((found)) || fail "no programs in $bin_dir; ./rollcall build makes them"

strip --strip-unneeded "$root"/bin/* "$root"/lib/*
# The build machine's folders mean nothing elsewhere: the launcher says where libraries are.
cat >"$staging/remove_rpath.cmake" <<'EOF'
foreach(_number RANGE 4 ${CMAKE_ARGC})
  if(CMAKE_ARGV${_number})
    file(RPATH_REMOVE FILE "${CMAKE_ARGV${_number}}")
  endif()
endforeach()
EOF
cmake -P "$staging/remove_rpath.cmake" -- "$root"/bin/* >/dev/null 2>&1 || fail "cannot take the run paths out of the programs"

cp "$here/launcher.sh" "$root/rollcall"
sed -n 's/^__version__ = .\([0-9.]*\).*/\1/p' "$torch_root/version.py" >"$root/torch-version"
[[ -s "$root/torch-version" ]] || fail "$torch_root/version.py names no version"
cp -r "$source_root/configs" "$root/"
cp "$source_root"/README.md "$root/"

mkdir -p "$(dirname "$out")"
tar -C "$staging" --sort=name --owner=0 --group=0 --numeric-owner -cf - rollcall | zstd -q -12 -T0 -f -o "$out"
bytes="$(stat -c %s "$out")"
((bytes <= most_bytes)) || fail "$out has $bytes bytes, more than $most_bytes"
printf '%s: %d.%d MiB\n' "$out" $((bytes >> 20)) $(((bytes & 1048575) * 10 >> 20))
