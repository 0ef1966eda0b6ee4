#!/bin/sh
# Makes MySQL or MariaDB ready for an image of one instant.
#
# FLUSH TABLES WITH READ LOCK closes tables that keep no log (MyISAM, Aria) and has writers wait.
# The lock lasts as long as the connection that took it, which stays in the background until the
# instant is over, or for twice RELEVO_HOLD seconds should nobody tell it.
#
# Credentials are those of root over the socket, or of /etc/relevo/mysql.cnf (mode 0600).
set -eu

client=$(command -v mariadb || command -v mysql)
orders=$RELEVO_SCRATCH/mysql.orders
answer=$RELEVO_SCRATCH/mysql.answer
processes=$RELEVO_SCRATCH/mysql.processes
options=--batch
[ ! -f /etc/relevo/mysql.cnf ] || options=--defaults-extra-file=/etc/relevo/mysql.cnf

case $RELEVO_PHASE in
pre)
    # Half of this hook's time: a long query that the lock waits for must not have others wait long.
    wait=$((RELEVO_LIMIT / 2 + 1))
    hold=$((RELEVO_HOLD * 2 + 30))
    rm -f "$orders"
    mkfifo -m 0600 "$orders"
    : >"$answer"
    setsid "$client" "$options" --skip-column-names --unbuffered <"$orders" >"$answer" 2>&1 &
    locker=$!
    # The end of what it reads ends the client, and with it the lock.
    # shellcheck disable=SC2016
    setsid sh -c 'printf "%s\n" "$1"; exec sleep "$2"' sh \
        "SET SESSION lock_wait_timeout = $wait; FLUSH TABLES WITH READ LOCK; SELECT 'locked';" \
        "$hold" >"$orders" 2>/dev/null &
    echo "$locker $!" >"$processes"
    until grep -qx locked "$answer"; do
        if ! kill -0 "$locker" 2>/dev/null; then
            cat "$answer"
            exit 1
        fi
        sleep 0.05
    done
    ;;
post)
    [ -f "$processes" ] || exit 0
    read -r locker feeder <"$processes"
    # A connection that is gone by now may have been gone at the instant.
    held=yes
    kill -0 "$locker" 2>/dev/null || held=no
    kill "$locker" "$feeder" 2>/dev/null || true
    rm -f "$processes" "$answer" "$orders"
    [ "$held" = yes ] || { echo 'the lock was lost before the instant was over'; exit 1; }
    ;;
esac
