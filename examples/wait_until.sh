#!/bin/sh
# What the demos have in common; it is read in by examples/demo.sh and server/demo.sh.

step() {
    printf '\n== %s\n' "$*"
}

# Waits up to 30 s until the command behind $1, which says what for, succeeds.
wait_until() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -ge 150 ]; then
            echo "Waited 30 s in vain: $what."
            exit 1
        fi
        sleep 0.2
    done
    echo "seen: $what"
}

# Ends process $1 if it is still there: politely, and by force after 15 s.
end() {
    [ -n "$1" ] && kill -TERM "$1" 2>/dev/null || return 0
    tries=0
    while kill -0 "$1" 2>/dev/null && [ $tries -lt 75 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
    kill -KILL "$1" 2>/dev/null || :
}
