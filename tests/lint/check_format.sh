#!/usr/bin/env bash
# check_format.sh ROOT [--fix]: every C++ source is as clang-format 14 writes it; --fix makes it so.
set -uo pipefail
cd "$1" || exit 2
readonly self="tests/lint/check_format.sh"
mapfile -d '' -t files < <(find common services tests \( -name '*.h' -o -name '*.cc' -o -name '*.cu' \) -print0)
((${#files[@]})) || { echo "no sources under $1"; exit 1; }

if [[ "${2:-}" == --fix ]]; then
  exec clang-format-14 -i "${files[@]}"
fi
# Each batch has its own sed: clang-format writes its lines in pieces, and two at once would mix them.
bad="$(printf '%s\0' "${files[@]}" | xargs -0 -P 2 -n 16 sh -c '
  clang-format-14 --dry-run -Werror "$0" "$@" 2>&1 | sed -n "s/^\([^ :]*\):[0-9]*:[0-9]*: error: .*/\1/p"' | sort -u)"
if [[ -n "$bad" ]]; then
  printf '%s\n' "$bad"
  echo "are not as clang-format-14 writes them. Repair: $self . --fix"
  exit 1
fi
echo "${#files[@]} files"
