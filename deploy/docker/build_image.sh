#!/usr/bin/env bash
# build_image.sh SOURCES TARGET OUT.tar: deploy/docker/Containerfile without a container engine or registry: buildah runs
# its steps in a chroot, over a Debian 12 that mmdebstrap makes from the mirrors. OUT.tar is an OCI archive (podman load,
# skopeo copy oci-archive:OUT.tar docker://…). Needs root. `./rollcall image` calls it.
#
# ROLLCALL_IMAGE_CACHE: where base and layers are kept between builds.
set -euo pipefail
readonly sources="$(readlink -f "$1")" target="$2" out="$3"
readonly cache="${ROLLCALL_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/image}"
readonly base=localhost/rollcall-base:bookworm tag="localhost/rollcall:$target"

mkdir -p "$cache"
# vfs: no overlay within overlay, and nothing that needs a kernel module.
build() { buildah --root "$cache/storage" --runroot "$cache/run" --storage-driver vfs "$@"; }

if ! build inspect --type image "$base" >/dev/null 2>&1; then
  mmdebstrap --quiet --variant=minbase --mode=root bookworm "$cache/base.tar"
  container="$(build from scratch)"
  build add --quiet "$container" "$cache/base.tar" / >/dev/null
  build commit --quiet --rm "$container" "$base" >/dev/null
  rm -f "$cache/base.tar"
fi
build bud --isolation chroot --build-arg BASE="$base" --ignorefile "$sources/.containerignore" \
  --file "$sources/deploy/docker/Containerfile" --target "$target" --tag "$tag" "$sources"
mkdir -p "$(dirname "$out")"
rm -f "$out"
build push --quiet "$tag" "oci-archive:$(readlink -m "$out"):rollcall:$target"
# Images of earlier builds, which have lost their name.
build rmi --prune >/dev/null 2>&1 || true
