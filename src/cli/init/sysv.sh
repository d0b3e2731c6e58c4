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
# A daemon that stops takes as long as its slowest agent.
STOP_SECONDS=300

bootagent() {
    "$PROGRAM"@CONFIG@ "$@"
}

# Sets pid to the running daemon's process id. A pid file outlives its process, whose number may have a new owner.
find_pid() {
    pid=
    [ -r "$PIDFILE" ] && read -r pid <"$PIDFILE"
    case $pid in
        '' | *[!0-9]*) return 1 ;;
    esac
    kill -0 "$pid" 2>/dev/null || return 1
    [ -r "/proc/$pid/cmdline" ] || return 0
    case $(tr '\0' ' ' <"/proc/$pid/cmdline") in
        *bootagent* | *"$PROGRAM"*) return 0 ;;
    esac
    return 1
}

start() {
    if find_pid; then
        echo "bootagent is running already, pid $pid"
        return 0
    fi
    [ -x "$PROGRAM" ] || { echo "bootagent: \"$PROGRAM\" is not there" >&2; return 5; }
    echo "Starting bootagent"
    bootagent run -d
}

stop() {
    find_pid || return 0
    echo "Stopping bootagent and its agents"
    kill -TERM "$pid" 2>/dev/null
    waited=0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$waited" -ge "$STOP_SECONDS" ]; then
            echo "bootagent: still running after $STOP_SECONDS s, pid $pid" >&2
            return 1
        fi
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
        if find_pid; then
            bootagent reexec
        else
            start
        fi
        ;;
    try-restart)
        if find_pid; then
            bootagent reexec
        fi
        ;;
    reload | force-reload)
        find_pid || exit 7
        kill -HUP "$pid"
        ;;
    status)
        if find_pid; then
            echo "bootagent is running, pid $pid"
        elif [ -e "$PIDFILE" ]; then
            echo "bootagent is dead, but \"$PIDFILE\" is there"
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
