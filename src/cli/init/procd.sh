#!/bin/sh /etc/rc.common
# shellcheck disable=SC2034  # the variables are for rc.common
#
# "restart" puts the binary now on disk in place of the running daemon, and agents go on; "stop" stops them too.

START=95
STOP=05
USE_PROCD=1

start_service() {
    procd_open_instance
    procd_set_param command @PROGRAM@@CONFIG@ run
    # Again after 1 s, for ever.
    procd_set_param respawn 3600 1 0
    # A daemon that stops takes as long as its slowest agent.
    procd_set_param term_timeout 300
    procd_set_param stderr 1
    procd_close_instance
}

reload_service() {
    procd_send_signal bootagent '*' HUP
}

restart() {
    @PROGRAM@@CONFIG@ reexec
    # 3: there is no daemon to go on in.
    code=$?
    [ "$code" -eq 3 ] || return "$code"
    stop "$@"
    start "$@"
}
