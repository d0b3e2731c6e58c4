#!/bin/sh
# A fleet on the loopback, in a minute: bootserver, and five daemons of which one is broken on purpose. They are enrolled and
# get a job; then the pages can be looked at until Enter is pressed.
#
# Needs no root and leaves nothing behind: everything happens in a temporary directory and with processes of its own.
# BOOTAGENT and BOOTSERVER name other binaries than those of this tree. DEMO_THEN is a command that is run instead of
# waiting for Enter, with DEMO_URL, DEMO_USER and DEMO_PASSWORD set.
set -eu
cd "$(dirname "$0")/.."
. examples/wait_until.sh

if [ -z "${BOOTAGENT-}" ]; then
    cargo build --quiet --locked --bin bootagent
    BOOTAGENT=$PWD/${CARGO_TARGET_DIR:-target}/debug/bootagent
fi
if [ -z "${BOOTSERVER-}" ]; then
    (cd server && CARGO_TARGET_DIR=target cargo build --quiet --locked)
    BOOTSERVER=$PWD/server/target/debug/bootserver
fi

umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/bootserver-demo.XXXXXX")
server='' daemons='' done=''

clean_up() {
    trap - EXIT HUP INT TERM
    # All are told at once, and waited for one by one.
    for daemon in $daemons; do kill -TERM "$daemon" 2>/dev/null || :; done
    for daemon in $daemons; do end "$daemon"; done
    end "$server"
    if [ -z "$done" ]; then
        for file in "$dir"/server.log "$dir"/*/daemon.log; do
            [ ! -s "$file" ] || { echo "---- $file"; tail -n 20 "$file"; }
        done
        echo 'The demo did not work; the last lines of all logs are above.'
    fi
    rm -rf "$dir"
    [ -n "$done" ] || exit 1
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

bootserver() {
    "$BOOTSERVER" -d "$dir/data" "$@"
}

# Whether verb $2... lists $1 things.
counts() {
    wanted=$1
    shift
    [ "$(bootserver "$@" | sed 1d | wc -l)" -eq "$wanted" ]
}

step 'Starting bootserver'
bootserver init >"$dir/init.log"
password=$(bootserver user add demo --role admin 2>/dev/null | sed -n 's/.*password \([a-z0-9]*\).*/\1/p')
"$BOOTSERVER" -d "$dir/data" serve --listen 127.0.0.1:0 --pages 127.0.0.1:0 2>"$dir/server.log" &
server=$!
wait_until 'the server is ready' grep -q ' ready$' "$dir/server.log"
hosts=$(sed -n 's/.*hosts: listening on //p' "$dir/server.log")
pages=$(sed -n 's|.*pages: listening on \(http://[^/]*\)/.*|\1|p' "$dir/server.log")

step 'Starting five daemons, with short times'
bootserver key new --group shop --out "$dir/agent.key"
for host in shop-01 shop-02 shop-03 shop-04 shop-05; do
    mkdir -p "$dir/$host/agents.d"
    cat >"$dir/$host/bootagent.json" <<END
{ "svrlist": "$hosts", "hostname": "$host", "step": 2, "splay": 0, "key_file": "$dir/agent.key",
  "agents_dir": "$dir/$host/agents.d", "state_dir": "$dir/$host/state", "run_dir": "$dir/$host/run",
  "log_dir": "$dir/$host/log", "restartsecs": 1, "windowsecs": 5, "checksecs": 1 }
END
    # An agent that is there already; on shop-04 it cannot run.
    program='exec sleep 100000'
    [ $host != shop-04 ] || program='echo "cannot open /etc/backup.conf: No such file or directory"; exit 1'
    cat >"$dir/$host/agents.d/backup.json" <<END
{ "name": "backup", "version": "2.1", "exec": ["/bin/sh", "-c", "$(echo "$program" | sed 's/"/\\"/g')"], "retries": 2 }
END
    "$BOOTAGENT" -c "$dir/$host/bootagent.json" run >"$dir/$host/daemon.log" 2>&1 &
    daemons="$daemons $!"
done
wait_until 'five hosts wait for a decision' counts 5 host list state=pending
bootserver host accept shop-01 shop-02 shop-03 shop-04 shop-05

wait_until 'backup cannot run on shop-04' counts 1 host list agent.backup.status=fatal

step 'Adding a release; on shop-04 its program finds no configuration'
mkdir -p "$dir/package/bin"
cat >"$dir/package/bootagent.json" <<END
{ "name": "shop", "version": "1.0", "exec": ["bin/shop"], "startsecs": 1, "retries": 1 }
END
cat >"$dir/package/bin/shop" <<'END'
#!/bin/sh
# Broken on purpose on one host.
case $0 in */shop-04/*) echo 'cannot open "/etc/shop.conf": No such file or directory'; exit 1 ;; esac
echo 'the shop is open'
exec sleep 100000
END
chmod 755 "$dir/package/bin/shop"
tar -C "$dir/package" -czf "$dir/shop-1.0.tar.gz" bootagent.json bin
bootserver release add shop 1.0 --file "$dir/shop-1.0.tar.gz"

step 'Giving a job'
bootserver job install shop --select group=shop
wait_until 'four hosts have done it' counts 4 job list state=verified
wait_until 'one has not' counts 1 job list state=failed
bootserver job list

step 'Look at it'
echo "Open $pages/ and log in as demo with the password $password"
echo 'Both are good for this demo only.'
if [ -n "${DEMO_THEN-}" ]; then
    DEMO_URL=$pages DEMO_USER=demo DEMO_PASSWORD=$password sh -c "$DEMO_THEN"
else
    printf 'Press Enter to end it. '
    read -r _ || :
fi
done=yes
echo 'Everything is stopped and removed.'
