#!/bin/sh
# Makes a service of systemd ready for an image of one instant.
#
# stop: it is stopped before and started after, and its files are as it leaves them.
# pause: its processes stand still meanwhile, and what they had written is on the disk. What they
#   keep in memory is not.
set -eu

unit='@UNIT@'
how='@HOW@'
stopped=$RELEVO_SCRATCH/service.$(systemd-escape -- "$unit")

case $RELEVO_PHASE-$how in
pre-stop)
    # One that does not run is not started afterwards.
    systemctl --quiet is-active -- "$unit" || { echo "$unit does not run"; exit 0; }
    : >"$stopped"
    systemctl stop -- "$unit"
    ;;
post-stop)
    [ -f "$stopped" ] || exit 0
    rm -f "$stopped"
    systemctl start -- "$unit"
    ;;
pre-pause)
    systemctl --quiet is-active -- "$unit" || { echo "$unit does not run"; exit 0; }
    : >"$stopped"
    systemctl kill --signal=STOP -- "$unit"
    sync
    ;;
post-pause)
    [ -f "$stopped" ] || exit 0
    rm -f "$stopped"
    systemctl kill --signal=CONT -- "$unit"
    ;;
esac
