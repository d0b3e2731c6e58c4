# A host under test. PID 1 runs this first, which sets the host up and becomes init, busybox's or systemd; that starts the
# daemon from the script that the binary prints, and then this file again, with the tests of `part`: install, resume, groups,
# full, bare or init. Part memory needs no init. `part`, `since` and `system` come from the kernel's command line.
# shellcheck shell=sh disable=SC2016,SC2034,SC2154

read -r words </proc/cmdline
for word in $words; do
    case $word in
    part=* | since=* | system=*) eval "$word" ;;
    esac
done

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
# Whether the job with this id, to which the server has added the host and the attempt, is in that state.
job_is() { bootagent jobs --json | tr '{' '\n' | grep "\"id\":\"$1[.\"]" | grep -q "\"state\":\"$2\""; }
# Whether process $1 is no more, or waits for busybox init to take note.
ended() { ! grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }
hundredths() { cut -d ' ' -f 1 /proc/uptime | tr -d .; }

small=/small
year=$(date +%Y)

if [ "$part" = memory ]; then
    if told=$(sh /memory /usr/sbin/bootagent 2>&1); then echo "ok: $told"; else echo "not ok: $told"; fi
    echo "vm: exit 0"
    poweroff -f
fi

if [ $$ = 1 ]; then
    if [ -e /dev/vda ]; then mount -t ext4 /dev/vda /var/lib; fi
    if [ "$part" = bare ]; then
        umount /sys/fs/cgroup
        rm /etc/passwd /etc/group
        umount /dev/pts
    fi
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
    openrc)
        bootagent init openrc >/etc/init.d/bootagent
        # What every host with OpenRC has, and Debian leaves to other packages.
        printf '#!/sbin/openrc-run\nstart() { :; }\n' >/etc/init.d/localmount
        chmod 755 /etc/init.d/bootagent /etc/init.d/localmount
        mkdir -p /etc/runlevels/sysinit /etc/runlevels/boot /etc/runlevels/default
        ln -s /etc/init.d/bootagent /etc/runlevels/default/bootagent
        printf '::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n' >/etc/inittab
        ;;
    systemd)
        units=/etc/systemd/system
        bootagent init systemd >$units/bootagent.service
        printf '[Service]\nExecStart=/bin/sh -c "exec /bin/sh /vm-init >/dev/console 2>&1"\n' >$units/vm.service
        printf '[Unit]\nRequires=basic.target bootagent.service vm.service\n' >$units/default.target
        exec /lib/systemd/systemd
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
    check "value and limit are told" 'told memhog detail | grep -qE "[0-9.]+[KM] used, limit 16M"'
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
    check "it is said, once" '[ "$(grep -c "the wall clock was set back by" /var/log/bootagent/bootagent.log)" = 1 ]'
    check "stop and start work" 'bootagent stop sample && bootagent start sample && runs_anew sample "$pid"'
    ;;

groups)
    # Where the processes of agent $1 are.
    group() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(told "$1" pid)/cgroup")"; }
    bootagent start forker
    dir=$(group forker)
    check "the limit of tasks is the kernel's" '[ "$(cat "$dir/pids.max")" = 6 ]'
    wait_for "an agent reaches it" '[ "$(cat "$dir/pids.current")" = 5 ] && grep -qE "max [1-9]" "$dir/pids.events"'
    check "the agent runs on" 'runs forker'
    bootagent stop forker
    check "its group is removed with it" '[ ! -e "$dir" ]'

    bootagent start reader
    dir=$(group reader)
    wait_for "an agent has written a file" '[ "$(stat -c %s /var/lib/pages)" = 13107200 ] && ! pidof dd'
    check "its page cache is in its group" '[ "$(sed -n "s/^file //p" "$dir/memory.stat")" -gt 4000000 ]'
    check "what is told of its memory leaves the page cache out" '[ "$(told reader memory)" -lt 2000000 ]'
    check "the agent runs" 'runs reader'
    bootagent stop reader
    rm /var/lib/pages

    bootagent start talker
    log=/var/log/bootagent/talker.log
    wait_for "a log is turned" '[ -s $log.1 ]'
    sleep 5
    bootagent stop talker
    head -n 1 $log.1
    tail -n 1 $log
    check "it was turned more than once" '[ "$(head -n 1 $log.1 | cut -d " " -f 1)" != 1 ]'
    check "no line is lost or cut" 'cat $log.1 $log | awk "!/^[0-9]+ of a line that is written to the log\$/ ||
        NR > 1 && \$1 != last + 1 { wrong = 1; print } { last = \$1 } END { exit wrong }"'

    # The processes that the agent "keeps" starts beside its main process.
    children() {
        for process in /proc/[0-9]*; do
            [ "$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)" != "sleep 123456 " ] || echo "${process#/proc/}"
        done
    }
    bootagent start keeps
    dir=$(group keeps) first=$(told keeps pid)
    bootagent stop keeps
    left=$(children)
    check "a stop of the main process alone leaves what it started" '[ -n "$left" ] && ended "$first"'
    check "in the group" 'grep -qx "$left" "$dir/cgroup.procs"'
    bootagent start keeps
    check "what was left is not the next main process" 'runs keeps && [ "$(told keeps pid)" != "$left" ] && ! ended "$left"'
    old=$(daemon) pid=$(told keeps pid)
    kill -9 "$old"
    wait_for "a killed daemon is started again" '[ "$(daemon)" != "$old" ] && bootagent status >/dev/null'
    check "the main process is known" 'runs keeps && [ "$(told keeps pid)" = "$pid" ]'
    bootagent stop keeps
    check "and stopped alone" 'ended "$pid" && [ "$(children | wc -l)" = 2 ]'
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
    check "stop ends the agents" '! bootagent status 2>/dev/null && ended "$pid"'
    check "status says so" '/etc/init.d/bootagent status; [ $? = 3 ]'
    ;;

bare)
    # No control groups, no accounts: limits are looked after by looking.
    check "there are no control groups" '[ ! -e /sys/fs/cgroup/cgroup.procs ]'
    wait_for "the agent runs" 'runs web'
    check "its limits are polled" '[ "$(told web limits_by)" = polled ]'
    echo "vm: give sample"
    wait_for "an agent is installed by a job" 'job_is sample taken'
    bootagent start memhog
    wait_for "an agent over its memory is killed" '[ "$(told memhog status)" = killed ]'
    bootagent stop memhog
    bootagent start cpuhog
    wait_for "an agent over its CPU is killed" '[ "$(told cpuhog status)" = killed ]'
    bootagent stop cpuhog
    pid=$(told sample pid)
    bootagent stop sample
    check "stop ends an agent" 'ended "$pid"'
    ;;

init)
    wait_for "the agent runs" 'runs web'
    check "its limits are kept by cgroup v2" '[ "$(told web limits_by)" = cgroup2 ]'
    if [ "$system" = systemd ]; then
        wait_for "an agent says that it is ready" 'runs says && [ "$(told says detail)" = "all is well" ]'
    fi
    service() {
        case $system in
        openrc) rc-service bootagent "$1" ;;
        systemd) systemctl "$1" bootagent ;;
        esac
    }
    check "status says so" 'service status >/dev/null'
    old=$(daemon) pid=$(told web pid)
    kill -9 "$old"
    wait_for "a killed daemon is started again" '[ "$(daemon)" != "$old" ] && bootagent status >/dev/null'
    check "its agent went on" 'runs web && [ "$(told web pid)" = "$pid" ]'
    old=$(daemon)
    check "reload works" 'service reload && [ "$(daemon)" = "$old" ] && [ "$(told web pid)" = "$pid" ]'
    check "restart works" 'service restart'
    wait_for "and leaves agents alone" '[ "$(told web pid)" = "$pid" ]'
    # systemd starts a new process, which takes the agents over.
    check "by reexec, where init allows it" '[ "$system" = systemd ] || [ "$(daemon)" = "$old" ]'
    bootagent start memhog
    wait_for "an agent over its memory is killed" '[ "$(told memhog status)" = killed ]'
    check "alone" 'service status >/dev/null && [ "$(told web pid)" = "$pid" ]'
    bootagent stop memhog
    check "stop ends daemon and agents" 'service stop && ! bootagent status 2>/dev/null && ended "$pid"'
    check "for good" 'sleep 3; ! bootagent status 2>/dev/null && ! service status >/dev/null'
    check "start starts them again" 'service start'
    wait_for "the agent runs again" 'runs_anew web "$pid"'
    ;;
esac
echo "vm: exit 0"
poweroff -f
