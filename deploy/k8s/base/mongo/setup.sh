#!/bin/bash
# Beside the first member: makes the replica set and its users, as often as it takes, then rests. Beside the
# others it only rests, to be there when their number changes.
set -u
trap 'exit 0' TERM
if [[ "$HOSTNAME" == *-0 ]]; then
  until mongosh --nodb --norc --quiet --file /scripts/setup.js; do
    sleep 3 & wait $!
  done
fi
sleep infinity & wait $!
