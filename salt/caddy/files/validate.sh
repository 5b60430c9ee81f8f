#!/bin/sh
# Managed by Golden Path: local changes are overwritten.
# caddy-validate FILE: Caddy's own parser over a Caddyfile, as Caddy's own user, so that what the check makes
# (folders, certificates of `tls internal`) belongs to Caddy.
set -eu
copy=$(mktemp --tmpdir=/var/tmp)
trap 'rm -f "$copy"' EXIT
cat "$1" > "$copy"
chown caddy "$copy"
HOME=/var/lib/caddy runuser -u caddy -- caddy validate --adapter caddyfile --config "$copy" 2>&1
