# Runs as PID 1: the guest is what the other scripts count on, and the binary runs in it.
# year comes from the kernel's command line.
# shellcheck shell=sh disable=SC2016

check() {
    if eval "$2"; then
        echo "ok: $1"
    else
        echo "not ok: $1: $2"
        status=1
    fi
}

status=0
uname -a
date
check "the clock starts in ${year:=}" '[ "$(date +%Y)" = "$year" ]'
check "cgroup v2 has cpu, memory and pids" \
    '[ "$(tr " " "\n" </sys/fs/cgroup/cgroup.controllers | grep -cxE "cpu|memory|pids")" = 3 ]'
check "its controllers can be given to groups" 'echo "+cpu +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control'
check "the host can be reached" 'ip route | grep -q "default via 10.0.2.2"'
check "the binary runs" 'bootagent version'
echo "vm: exit $status"
poweroff -f
