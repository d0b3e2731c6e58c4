#!/bin/sh
# What BootAgent does, in half a minute: a control server and an agent on the loopback, an install, a kill, an upgrade.
#
# Needs no root and leaves nothing behind: everything happens in a temporary directory and with processes of its own.
# Ends with 0 only if every step was seen to work. BOOTAGENT and SERVER name other binaries than those of this tree.
# With KEEP=1 the server and three hosts stay up until Enter is pressed.
set -eu
cd "$(dirname "$0")/.."
. examples/wait_until.sh

if [ -z "${BOOTAGENT-}" ] || [ -z "${SERVER-}" ]; then
    echo 'Building bootagent and the smallest server; the first time takes a minute.'
    cargo build --quiet --bin bootagent --example server
fi
target=${CARGO_TARGET_DIR:-$PWD/target}/debug
BOOTAGENT=${BOOTAGENT:-$target/bootagent}
SERVER=${SERVER:-$target/examples/server}

dir=$(mktemp -d "${TMPDIR:-/tmp}/bootagent-demo.XXXXXX")
server='' daemon='' pid='' more_daemons='' seen_all=''
# For tables that fit any terminal.
COLUMNS=80
export COLUMNS

clean_up() {
    trap - EXIT HUP INT TERM
    for process in $daemon $more_daemons; do
        end "$process"
    done
    # Only if the daemon did not stop it: then it still runs what was unpacked here.
    if [ -n "$pid" ] && grep -qs "$dir" "/proc/$pid/cmdline"; then end "$pid"; fi
    end "$server"
    if [ -z "$seen_all" ]; then
        for file in "$dir"/log/bootagent.log "$dir"/log/sample.log "$dir"/daemon.out "$dir"/server.out \
            "$dir"/results.jsonl "$dir"/[23]/daemon.out; do
            if [ -s "$file" ]; then
                echo "---- $file"
                tail -n 40 "$file"
            fi
        done
        echo 'The demo did not work; the last lines of all logs are above.'
    fi
    rm -rf "$dir"
    [ -n "$seen_all" ] && exit 0
    exit 1
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Shows lines in 80 columns.
fit() {
    sed 's/\(SHA256:.\{12\}\)[0-9a-f]*/\1.../' | cut -c 1-80
}

bootagent() {
    "$BOOTAGENT" -c "$dir/bootagent.json" "$@"
}

# The agent's pid, version or state (key $1), as the daemon reports it; empty without an answer. The agents' part only.
told() {
    bootagent status --json 2>/dev/null | tr -d '\n' |
        sed -n 's/.*"agents" *: *\[\([^]]*\)\].*/\1/p' | sed -n "s/.*\"$1\" *: *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# Whether the agent runs, and as version $1.
runs_version() {
    [ "$(told status) $(told version)" = "running $1" ]
}

# Whether the agent runs as another process than $1.
runs_anew() {
    [ "$(told status)" = running ] && [ "$(told pid)" != "$1" ]
}

# Whether the agent's end was noticed: it is not told as running process $1 any more.
ended() {
    [ "$(told status) $(told pid)" != "running $1" ]
}

# Whether none of the processes $@ is left.
gone() {
    for process in "$@"; do
        kill -0 "$process" && return 1
    done
    return 0
}

# Whether the server has result 0 for job $1.
succeeded() {
    grep "\"id\":\"$1\"" "$dir/results.jsonl" 2>/dev/null | grep -q '"errcode":0[,}]'
}

# Packs the sample agent as version $1 (the tree holds 1.0).
pack() {
    mkdir -p "$dir/build/sample-$1/bin"
    sed "s/1\.0/$1/" examples/sample/bootagent.json >"$dir/build/sample-$1/bootagent.json"
    cp examples/sample/bin/sample-agent "$dir/build/sample-$1/bin/"
    chmod 755 "$dir/build/sample-$1/bin/sample-agent"
    tar -C "$dir/build" -czf "$dir/packages/sample-$1.tar.gz" "sample-$1"
}

# Gives the host a job with id $1, action $2, for version $3.
give() {
    checksum=$(bootagent sha256 "$dir/packages/sample-$3.tar.gz")
    # Renamed when whole, so that the server never reads half a job.
    cat >"$dir/jobs/demo-host/$1.new" <<END
{ "id": "$1", "action": "$2", "name": "sample", "version": "$3",
  "url": "http://$address/packages/sample-$3.tar.gz",
  "checksum": "$checksum" }
END
    fit <"$dir/jobs/demo-host/$1.new"
    mv "$dir/jobs/demo-host/$1.new" "$dir/jobs/demo-host/$1.json"
}

step 'Packing a sample agent, versions 1.0 and 2.0'
mkdir -p "$dir/packages" "$dir/jobs/demo-host"
pack 1.0
pack 2.0
ls "$dir/packages"

step 'Starting the smallest server'
"$SERVER" --listen 127.0.0.1:0 --packages "$dir/packages" --jobs "$dir/jobs" --results "$dir/results.jsonl" \
    >"$dir/server.out" 2>&1 &
server=$!
wait_until 'the server listens' grep -q "^listening on" "$dir/server.out"
address=$(sed -n 's/^listening on //p' "$dir/server.out")
echo "at http://$address/"

# Writes the configuration of host $1 with its directories below $2.
configure() {
    mkdir -p "$2/agents.d"
    cat >"$2/bootagent.json" <<END
{ "svrlist": "$address", "hostname": "$1", "step": 1, "splay": 0,
  "agents_dir": "$2/agents.d", "state_dir": "$2/state", "run_dir": "$2/run", "log_dir": "$2/log",
  "restartsecs": 1, "windowsecs": 5, "checksecs": 1 }
END
}

step 'Starting bootagent, with short times'
configure demo-host "$dir"
bootagent check
# Not through the function: $! would be the shell around it.
"$BOOTAGENT" -c "$dir/bootagent.json" run >"$dir/daemon.out" 2>&1 &
daemon=$!
wait_until 'the daemon answers' bootagent status

step 'The server gives an install job'
give demo-1 install 1.0
wait_until 'the server got its result, code 0' succeeded demo-1
wait_until 'version 1.0 runs' runs_version 1.0
bootagent status

step 'Killing the agent'
pid=$(told pid)
kill -KILL "$pid"
echo "killed process $pid"
wait_until 'its end was noticed' ended "$pid"
bootagent status
echo 'Here it is with the last lines of the agent:'
bootagent status sample | grep detail | fit
wait_until 'it came back as another process' runs_anew "$pid"
pid=$(told pid)
bootagent status

step 'The server gives an upgrade job'
give demo-2 upgrade 2.0
wait_until 'the server got its result, code 0' succeeded demo-2
wait_until 'version 2.0 runs' runs_version 2.0
pid=$(told pid)
bootagent status

step 'What the agent wrote'
cat "$dir/log/sample.log"
grep -q 'hello from 2.0' "$dir/log/sample.log"

step 'The results the server got'
fit <"$dir/results.jsonl"

if [ -n "${KEEP-}" ]; then
    step 'Two more hosts'
    for host in demo-host-2 demo-host-3; do
        mkdir -p "$dir/jobs/$host"
        sed "s/demo-2/$host/; s/upgrade/install/" "$dir/jobs/demo-host/demo-2.json" >"$dir/jobs/$host/install.json"
        # A short name: the path of a socket has 107 bytes at most.
        place=$dir/${host##*-}
        configure "$host" "$place"
        "$BOOTAGENT" -c "$place/bootagent.json" run >"$place/daemon.out" 2>&1 &
        more_daemons="$more_daemons $!"
    done
    wait_until 'both have installed the agent' succeeded demo-host-2
    wait_until 'both have installed the agent' succeeded demo-host-3
    cat <<END

The hosts and their results are shown at http://$address/
In another terminal:

    alias bootagent='$BOOTAGENT -c $dir/bootagent.json'
    bootagent status --watch
    bootagent logs -f sample
    bootagent stop sample
    bootagent jobs

Enter ends all this.
END
    # Whoever ends it in another way has seen it work as well.
    seen_all=yes
    read -r _ || :
    seen_all=''
    # Without one where it was stopped meanwhile.
    pid=$(told pid | sed 's/^0$//')
fi

step 'Stopping'
kill -TERM "$daemon"
# shellcheck disable=SC2086  # there may be none
wait_until 'the daemon and its agent are gone' gone "$daemon" $pid
daemon='' pid=''

seen_all=yes
cat <<'END'

Everything was seen to work. What to try next:

    make demo KEEP=1               the same with three hosts, and time to look
    target/debug/bootagent help    all commands
    less README.md                 an agent of your own, without a server
END
