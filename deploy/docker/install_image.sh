#!/bin/sh
# install_image.sh: makes the Debian it runs in an image of Rollcall, from the packages that lie beside this script.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends ca-certificates "$here"/rollcall*.deb
# Nobody looks things up in them here.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/*.log /var/log/apt

# A user of its own, without a shell; the chart's pods run as it.
printf 'rollcall:x:10001:10001:Rollcall:/tmp:/usr/sbin/nologin\n' >>/etc/passwd
printf 'rollcall:x:10001:\n' >>/etc/group
# Where a run's volumes are mounted.
mkdir -p /models /runs /etc/rollcall
chown 10001:10001 /runs
