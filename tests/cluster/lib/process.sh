# shellcheck shell=bash
# Programs of a built cluster: started so that they outlive the shell, known by the ids written down; to be sourced.

# start NAME PROGRAM ARGUMENT…: in a session of its own, with no descriptor of ours (a lock, make's job server) but its log.
start() {
  local name=$1; shift
  # The inner shell closes what it inherited and then becomes the program, so $! is the program's id.
  setsid bash -c 'for f in /proc/$$/fd/*; do f=${f##*/}; [ "$f" -le 2 ] || eval "exec $f>&-"; done 2>/dev/null; exec "$@"' \
    start "$@" >"$BUILT/log/$name" 2>&1 </dev/null &
  echo $! >"$BUILT/$name.pid"
}

# ours PID: the process lives and is one that was started for this folder.
ours() {
  [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$BUILT/"
}

# await SECONDS WHAT COMMAND…: polls COMMAND; fails naming WHAT and showing the end of its log.
await() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ] || { [ -f "$BUILT/$what.pid" ] && ! kill -0 "$(<"$BUILT/$what.pid")" 2>/dev/null; }; then
      tail -n 15 "$BUILT/log/$what" >&2 || true
      die "$what did not come up; logs in $BUILT/log"
    fi
    sleep 0.1
  done
}

listens() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# port_is_taken PORT: by a listener on whatever address, after the kernel's tables (state 0A).
port_is_taken() {
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qE "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$1") [0-9A-F]+:[0-9A-F]+ 0A "
}

# stop PID…: ends our processes among PID…, by force: all they keep is thrown away, so nothing need be orderly.
stop() {
  local pid left
  while :; do
    left=()
    for pid in "$@"; do if ours "$pid"; then left+=("$pid"); fi; done
    [ ${#left[@]} -gt 0 ] || return 0
    kill -9 "${left[@]}" 2>/dev/null || true
    sleep 0.05
  done
}

# free_ports COUNT: ports that nobody listens on. A reservation keeps a cluster that starts at the same moment off them.
free_ports() {
  local count=$1 port found=0 lock
  mkdir -p "$CACHE/ports"
  exec {lock}>"$CACHE/ports/.lock"
  flock "$lock"
  find "$CACHE/ports" -type f -name '[0-9]*' -mmin +2 -delete
  while [ $found -lt "$count" ]; do
    port=$((20000 + RANDOM % 10000)) # below the range from which outgoing connections take theirs
    if [ -e "$CACHE/ports/$port" ] || port_is_taken "$port"; then continue; fi
    : >"$CACHE/ports/$port"
    echo "$port"
    found=$((found + 1))
  done
  exec {lock}>&-
}
