#!/sbin/openrc-run
# shellcheck shell=sh
# shellcheck disable=SC2034  # the variables are for openrc-run
#
# "restart" puts the binary now on disk in place of the running daemon, and agents go on; "stop" stops them too.

description="Keeps the agents of this host running"
supervisor=supervise-daemon
command="@PROGRAM@"
command_args="@ARGUMENTS@run"
# supervise-daemon's own; the daemon's is another one.
pidfile="/run/supervise-bootagent.pid"
respawn_delay=1
respawn_max=0
# A daemon that stops takes as long as its slowest agent.
retry="TERM/300/KILL/5"
extra_started_commands="reload"
description_reload="Read the agents' definitions again"

depend() {
    need localmount
    use net logger
    after bootmisc
}

start() {
    if [ "${RC_CMD-}" = restart ] && "$command"@CONFIG@ status >/dev/null 2>&1; then
        return 0
    fi
    supervise_start
}

stop() {
    if [ "${RC_CMD-}" = restart ]; then
        "$command"@CONFIG@ reexec
        # 3: there is no daemon to go on in; only then is it started anew.
        code=$?
        [ "$code" -eq 3 ] || return "$code"
    fi
    supervise_stop
}

reload() {
    ebegin "Reloading bootagent"
    kill -HUP "$(cat @PIDFILE@)"
    eend $?
}
