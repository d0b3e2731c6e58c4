#!/bin/sh
### BEGIN INIT INFO
# Provides:          bootagent
# Required-Start:    $local_fs
# Required-Stop:     $local_fs
# Should-Start:      $network $remote_fs
# Should-Stop:       $network $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Keeps the agents of this host running
# Description:       Installs, starts and supervises the agents of this host, on orders from a control server.
### END INIT INFO
#
# "restart" puts the binary now on disk in place of the running daemon, and agents go on; "stop" stops them too.
# Where init has an /etc/inittab, this line in it instead of this script is the better way, as init then starts a dead
# daemon again itself:
#
#   ba:2345:respawn:@PROGRAM@@CONFIG@ run

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
PROGRAM=@PROGRAM@
PIDFILE=@PIDFILE@
KEEPERFILE=@KEEPERFILE@
# A daemon that stops takes as long as its slowest agent.
STOP_SECONDS=300

bootagent() {
    "$PROGRAM"@CONFIG@ "$@"
}

# Sets pid to the process that the file $1 names. A pid file outlives its process, whose number may have a new owner.
find_process() {
    pid=
    [ -r "$1" ] && read -r pid <"$1"
    case $pid in
        '' | *[!0-9]*) return 1 ;;
    esac
    # Others may not signal it, but see it.
    kill -0 "$pid" 2>/dev/null || [ -d "/proc/$pid" ] || return 1
    [ -r "/proc/$pid/cmdline" ] || return 0
    case $(tr '\0' ' ' <"/proc/$pid/cmdline") in
        *bootagent* | *"$PROGRAM"*) return 0 ;;
    esac
    return 1
}

find_daemon() {
    find_process "$PIDFILE"
}

# The keeper starts a daemon again that died, and hands on what it is told, also to the one that it is about to start.
find_keeper() {
    find_process "$KEEPERFILE"
}

start() {
    if find_daemon; then
        echo "bootagent is running already, pid $pid"
        return 0
    fi
    [ -x "$PROGRAM" ] || { echo "bootagent: \"$PROGRAM\" is not there" >&2; return 5; }
    if find_keeper; then
        echo "bootagent died, and its keeper, pid $pid, starts it again"
        return 0
    fi
    echo "Starting bootagent"
    bootagent run -d
}

stop() {
    find_keeper || find_daemon || return 0
    echo "Stopping bootagent and its agents"
    told=
    waited=0
    while find_keeper || find_daemon; do
        if [ "$waited" -ge "$STOP_SECONDS" ]; then
            echo "bootagent: still running after $STOP_SECONDS s, pid $pid" >&2
            return 1
        fi
        # Once each: a daemon is told itself when it has lost its keeper.
        [ "$told" = "$pid" ] || kill -TERM "$pid" 2>/dev/null
        told=$pid
        sleep 1
        waited=$((waited + 1))
    done
}

case ${1-} in
    start)
        start
        ;;
    stop)
        stop
        ;;
    restart)
        if find_daemon; then
            bootagent reexec
        else
            start
        fi
        ;;
    try-restart)
        if find_daemon; then
            bootagent reexec
        fi
        ;;
    reload | force-reload)
        find_daemon || exit 7
        kill -HUP "$pid"
        ;;
    status)
        if find_daemon; then
            echo "bootagent is running, pid $pid"
        elif [ -e "$PIDFILE" ]; then
            echo "bootagent is dead, but \"$PIDFILE\" is there"
            if find_keeper; then
                echo "its keeper, pid $pid, starts it again"
            fi
            exit 1
        else
            echo "bootagent is not running"
            exit 3
        fi
        ;;
    *)
        echo "Usage: $0 start|stop|restart|try-restart|reload|force-reload|status" >&2
        exit 2
        ;;
esac
