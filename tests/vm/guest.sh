# A host under test. PID 1 runs this first, which sets the host up and becomes busybox init; init starts the daemon from
# the script that the binary prints, and then this file again, with the tests of `part`: install, resume or full.
# `part`, `since` and `system` come from the kernel's command line.
# shellcheck shell=sh disable=SC2016,SC2034,SC2154

check() {
    if eval "$2"; then echo "ok: $1"; else echo "not ok: $1: $2"; fi
}

# Up to a minute for what takes seconds: emulation is slow, and the machine may have other work.
wait_for() {
    tries=0
    until eval "$2" 2>/dev/null; do
        tries=$((tries + 1))
        if [ $tries -ge 300 ]; then
            echo "not ok: $1: waited in vain: $2"
            bootagent status
            bootagent jobs
            tail -n 20 /var/log/bootagent/bootagent.log "$small/log/bootagent.log" 2>/dev/null
            return
        fi
        sleep 0.2
    done
    echo "ok: $1"
}

# What the report says of agent $1 under key $2.
told() {
    bootagent status --json | tr '{' '\n' | grep "\"status\":" | grep "\"name\":\"$1\"" |
        sed -n "s/.*\"$2\":\\(\"\\([^\"]*\\)\"\\|\\([^\",}]*\\)\\).*/\\2\\3/p"
}

daemon() { cat /run/bootagent/bootagent.pid; }
runs() { [ "$(told "$1" status)" = running ]; }
# Whether agent $1 runs, as another process than $2.
runs_anew() { runs "$1" && [ "$(told "$1" pid)" != "$2" ]; }
job_is() { bootagent jobs --json | tr '{' '\n' | grep "\"id\":\"$1\"" | grep -q "\"state\":\"$2\""; }
hundredths() { cut -d ' ' -f 1 /proc/uptime | tr -d .; }

small=/small
year=$(date +%Y)

if [ $$ = 1 ]; then
    if [ -e /dev/vda ]; then mount -t ext4 /dev/vda /var/lib; fi
    if [ "$part" = full ]; then
        mkdir /small && mount -t tmpfs -o size=512k tmpfs /small
    fi
    case $system in
    inittab)
        bootagent init inittab >/etc/inittab
        ;;
    sysv)
        mkdir -p /etc/init.d
        bootagent init sysv >/etc/init.d/bootagent
        chmod 755 /etc/init.d/bootagent
        echo '::wait:/etc/init.d/bootagent start' >/etc/inittab
        ;;
    esac
    echo '::once:/bin/sh /vm-init' >>/etc/inittab
    if [ "$part" = full ]; then mount -o remount,ro /; fi
    exec /sbin/init
fi

check "the clock starts in ${since%%-*}" '[ "$year" = "${since%%-*}" ]'
wait_for "init has started the daemon by $system" 'bootagent status >/dev/null'

case $part in
install)
    check "it is init's child" 'grep -q "^PPid:.1$" "/proc/$(daemon)/status"'
    echo "vm: give sample"
    wait_for "an agent is installed by a job" 'job_is sample taken'
    check "the agent runs" 'runs sample'
    check "its limits are kept by cgroup v2" '[ "$(told sample limits_by)" = cgroup2 ]'

    bootagent start memhog
    wait_for "an agent over its memory is killed" '[ "$(told memhog status)" = killed ]'
    check "value and limit are told" 'told memhog detail | grep -qE "[0-9]+ bytes used, limit 16777216 bytes"'
    bootagent stop memhog

    bootagent start cpuhog
    pid=$(told cpuhog pid)
    stat=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/cpu.stat
    used=$(sed -n 's/^usage_usec //p' "$stat") since=$(hundredths)
    sleep 4
    used=$(($(sed -n 's/^usage_usec //p' "$stat") - used)) since=$(($(hundredths) - since))
    echo "cpuhog: $used us in $since/100 s"
    check "an agent of 20% CPU is held there" '[ $((used / since)) -ge 1000 ] && [ $((used / since)) -le 2500 ]'
    bootagent stop cpuhog

    old=$(daemon) pid=$(told sample pid)
    kill -9 "$old"
    wait_for "init starts a killed daemon again" '[ "$(daemon)" != "$old" ] && bootagent status >/dev/null'
    check "its agent went on" 'runs sample && [ "$(told sample pid)" = "$pid" ]'
    check "there is no second one" '[ "$(cat /proc/[0-9]*/cmdline | tr "\0" "\n" | grep -c [b]in/sample-agent)" = 1 ]'

    echo "vm: give big"
    wait_for "the power is cut in the middle of a job" 'job_is big downloading'
    echo "vm: cut"
    sleep 60
    echo "not ok: the power is still on"
    ;;

resume)
    wait_for "the job goes on after the power cut" 'job_is big taken'
    wait_for "both agents run" 'runs sample && runs big'
    check "the timestamp is the clock's" '[ "$(($(date +%s) - $(bootagent status --json |
        sed "s/.*\"timestamp\":\([0-9]*\).*/\1/;s/.*\"timestamp\":\([0-9]*\),\"step\".*/\1/")))" -le 5 ]'
    check "the log is dated" 'grep -q "^$year-" /var/log/bootagent/bootagent.log'
    pid=$(told sample pid)
    kill -9 "$pid"
    wait_for "an agent's end is noticed" '[ "$(told sample pid)" != "$pid" ]'
    wait_for "the agent is started again" 'runs_anew sample "$pid"'
    # A clock that is set wrong, or right, is nothing to the agents.
    pid=$(told sample pid)
    date -s 1971-01-01 >/dev/null
    check "a clock set back changes nothing" 'sleep 3 && bootagent report && [ "$(told sample pid)" = "$pid" ]'
    check "stop and start work" 'bootagent stop sample && bootagent start sample && runs_anew sample "$pid"'
    ;;

full)
    check "the root is read-only" '! touch /etc/x 2>/dev/null'
    check "it runs under a keeper" '[ "$(cut -d " " -f 4 "/proc/$(daemon)/stat")" != 1 ] && /etc/init.d/bootagent status'
    wait_for "the agent runs" 'runs web'
    old=$(daemon) pid=$(told web pid)
    check "a second start changes nothing" '/etc/init.d/bootagent start && [ "$(daemon)" = "$old" ]'
    check "reload works" '/etc/init.d/bootagent reload && [ "$(told web pid)" = "$pid" ]'
    check "restart leaves agents alone" '/etc/init.d/bootagent restart && [ "$(told web pid)" = "$pid" ]'
    echo "vm: give sample"
    wait_for "an agent is installed by a job" 'job_is sample taken'

    dd if=/dev/zero of=/small/fill bs=4k 2>/dev/null
    check "the disk is full" '! echo x >>/small/fill 2>/dev/null'
    pid=$(told web pid)
    kill -9 "$pid"
    wait_for "agents are started again on a full disk" 'runs_anew web "$pid"'
    echo "vm: give second"
    wait_for "what cannot be kept is said" 'bootagent status --json | grep -q "No space left"'
    check "and said once" 'sleep 5; [ "$(dmesg | grep -c "No space left")" -lt 3 ]'
    check "no job runs that cannot be recorded" '! bootagent jobs --json | grep -q second'
    old=$(daemon) pid=$(told web pid)
    kill -9 "$old"
    wait_for "the daemon is started again on a full disk" '[ "$(daemon)" != "$old" ] && bootagent status >/dev/null'
    check "its agents went on" '[ "$(told web pid)" = "$pid" ] && runs sample'

    rm /small/fill
    wait_for "with room again, the job is done" 'job_is second taken'
    pid=$(told web pid)
    /etc/init.d/bootagent stop
    check "stop ends the agents" '! bootagent status 2>/dev/null && ! kill -0 "$pid" 2>/dev/null'
    check "status says so" '/etc/init.d/bootagent status; [ $? = 3 ]'
    ;;
esac
echo "vm: exit 0"
poweroff -f
