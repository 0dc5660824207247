# Runs one temporary PostgreSQL server and takes it away again when our standard input ends, which it
# does however the program that holds the other end of the pipe dies. Arguments: the folder with the
# server's programs, the folder for temporary files. Reads commands, writes replies, one a line.
bindir=$1
base=$2

# A Ctrl-C or hang-up meant for that program must not stop the one process that cleans up after it.
trap '' HUP INT QUIT TERM PIPE
umask 077

if ! dir=$(mktemp -d "$base/pgmorph-XXXXXX" 2>&1); then
    echo "failed $dir"
    exit 1
fi
data=$dir/data
log=$dir/server.log
# Exists while a server runs or is about to; holds its process id as soon as that is known.
pidfile=$dir/server.pid
cd "$dir" && exec 2>>"$log"

server_pid() {
    [ -s "$pidfile" ] && cat "$pidfile"
}

# Without its postmaster a busy backend lives on until it next waits; only its working directory tells
# that it is one of ours.
kill_survivors() {
    for process in /proc/[0-9]*; do
        if [ "$process/cwd" -ef "$data" ]; then
            kill -KILL "${process#/proc/}"
        fi
    done
}

# A postmaster that was killed leaves its shared memory segment; its lock file says which.
remove_shared_memory() {
    if [ -f "$data/postmaster.pid" ]; then
        segment=$(sed -n '7s/.*[[:space:]]\([0-9][0-9]*\)[[:space:]]*$/\1/p' "$data/postmaster.pid")
        [ -n "$segment" ] && ipcrm -m "$segment"
    fi
}

# With an argument: a folder that keeps a cluster as initdb makes it. Where there is none yet, a copy of the new one is
# left beside it, and the reply says where.
initialize() {
    if [ -f "$1/PG_VERSION" ] && cp -R "$1" "$data"; then
        echo "initialized 0"
        return
    fi
    rm -rf "$data"
    "$bindir/initdb" --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 --locale=C \
        --no-sync --no-instructions </dev/null >>"$log" 2>&1
    status=$?
    copy=
    if [ "$status" = 0 ] && [ -n "$1" ]; then
        copy=$(mktemp -d "$1-XXXXXX") && cp -R "$data/." "$copy" || rm -rf "$copy"
    fi
    echo "initialized $status $copy"
}

# A copy of the running server in that folder, to be started as its standby.
clone() {
    "$bindir/pg_basebackup" --host="$1" --port="$2" --username="$3" --no-password --pgdata="$data" \
        --wal-method=stream --checkpoint=fast --no-sync </dev/null >>"$log" 2>&1
    status=$?
    : >"$data/standby.signal"
    echo "cloned $status"
}

start() {
    : >"$pidfile"
    (
        "$bindir/postgres" -D "$data" </dev/null >>"$log" 2>&1 &
        echo "$!" >"$pidfile"
        echo "started $!"
        wait "$!"
        status=$?
        rm -f "$pidfile"
        echo "exited $status"
    ) &
    watcher=$!
}

clean_up() {
    cd /
    attempts=0
    while [ -e "$pidfile" ] && [ "$attempts" -lt 500 ]; do
        # The postmaster itself kills backends that ignore it after 5 seconds; half of our attempts
        # leave it the time for that.
        signal=QUIT
        [ "$attempts" -gt 400 ] && signal=KILL
        pid=$(server_pid) && kill -"$signal" "$pid"
        attempts=$((attempts + 1))
        sleep 0.02
    done
    kill_survivors
    remove_shared_memory
    attempts=0
    until rm -rf "$dir" || [ "$attempts" -gt 100 ]; do
        attempts=$((attempts + 1))
        sleep 0.05
    done
} 2>/dev/null

echo "directory $dir"
while read -r command argument; do
    case $command in
    initialize) initialize "$argument" ;;
    # shellcheck disable=SC2086
    clone) clone $argument ;;
    start) start ;;
    signal) pid=$(server_pid) && kill -"$argument" "$pid" ;;
    sweep)
        kill_survivors
        echo swept
        ;;
    release)
        kill -KILL "$watcher"
        rm -f "$pidfile"
        echo released
        exit 0
        ;;
    esac
done
clean_up
