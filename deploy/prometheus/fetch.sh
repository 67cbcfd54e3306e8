#!/usr/bin/env bash
# fetch.sh FOLDER: Debian's Prometheus and promtool, unpacked in FOLDER/usr/bin. No root is needed, and no server is
# started, as installing the package would.
set -euo pipefail
readonly folder="$1"

[[ ! -x "$folder/usr/bin/prometheus" ]] || exit 0
mkdir -p "$folder"
staging="$(mktemp -d "$folder/fetch.XXXXXX")"
trap 'rm -rf "$staging"' EXIT
cd "$staging"
apt-get download prometheus
dpkg -x prometheus_*.deb unpacked
cp -r unpacked/. "$folder"
