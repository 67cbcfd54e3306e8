#!/usr/bin/env bash
# make_packages.sh SOURCES OUT: the Debian packages of the image into OUT. Those that lie in
# SOURCES/build/release/packages are taken as they are; else they are built from SOURCES, on a bare Debian.
set -euo pipefail
readonly sources="$1" out="$2"

mkdir -p "$out"
if ! compgen -G "$sources/build/release/packages/rollcall*.deb" >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends ca-certificates python3
  "$sources/rollcall" package
fi
cp "$sources"/build/release/packages/rollcall*.deb "$out/"
