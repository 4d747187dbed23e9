redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --save '' --daemonize no --enable-debug-command yes > log 2>&1 &
server=$!
cli() { redis-cli -s "$PWD/socket" "$@"; }
until cli ping 2>/dev/null | grep -q PONG; do
    kill -0 "$server" || { cat log; exit 1; }
    sleep 0.1
done
# Snapshots by a child, while the parent goes on to change what the child writes.
for round in 1 2 3; do
    cli bgsave > saving
    redis-benchmark -s "$PWD/socket" -q -n 20000 -r 5000 -d 3000 -c 8 -t set,get,lpush,hset > benchmark
    until cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.1; done
    cli info persistence | tr -d '\r' | grep rdb_last_bgsave_status
done
i=0
while [ $i -lt 500 ]; do
    echo "set key:$i $(printf '%0500d' $i)"
    i=$((i + 1))
done | cli | sort | uniq -c
cli --raw eval 'local sum = 0 for i = 0, 499 do sum = sum + #redis.call("get", "key:" .. i) end return sum' 0
cli save
cli debug reload
cli --raw get key:77
cli --raw strlen key:499
cli shutdown nosave || true
wait "$server" && echo "ended"
