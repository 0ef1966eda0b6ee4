#!/bin/sh
# Makes PostgreSQL ready for an image of one instant.
#
# The image holds data and write-ahead log as they were at the same moment, so that a server started
# from it recovers as after a power cut, without loss of what was committed. A checkpoint right
# before makes that recovery short. Nothing is held, and nothing has to be undone: after the instant
# it is only seen to that the servers still answer.
#
# Clusters that Debian's pg_lsclusters names are taken, else the one on the default socket.
set -eu

as_postgres() {
    runuser -u "${owner:-postgres}" -- psql -XAtq -v ON_ERROR_STOP=1 -d postgres "$@" </dev/null
}

each() {
    if command -v pg_lsclusters >/dev/null; then
        pg_lsclusters --no-header | while read -r version name port status owner _; do
            case $status in
            *recovery*) echo "$version/$name follows another server, and has no checkpoint of its own" ;;
            online*) "$1" -p "$port" ;;
            *) echo "$version/$name is not running" ;;
            esac
        done
    else
        "$1"
    fi
}

checkpoint() { as_postgres "$@" -c CHECKPOINT; }
answers() { as_postgres "$@" -c 'SELECT 1' >/dev/null; }

case $RELEVO_PHASE in
pre) each checkpoint ;;
post) each answers ;;
esac
