mkdir -p html tmp
i=0
while [ $i -lt 50 ]; do
    head -c $((i * 7919)) /dev/zero | tr '\0' "$(printf '\\%03o' $((97 + i % 26)))" > html/$i
    i=$((i + 1))
done
cat > nginx.conf <<END
daemon on;
master_process on;
worker_processes 2;
pid $PWD/pid;
error_log $PWD/error.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
    gzip on; gzip_types *; gzip_min_length 0;
    server { listen unix:$PWD/socket; root $PWD/html; }
}
END
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log"
get() { curl -s --unix-socket "$PWD/socket" --compressed "http://localhost/$1"; }
for round in 1 2 3; do
    i=0
    while [ $i -lt 50 ]; do
        get $i | cksum
        i=$((i + 1))
    done
    # New workers, forked while the old ones end.
    nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log" -s reload
    sleep 0.3
done
curl -s -o /dev/null -w '%{http_code}\n' --unix-socket "$PWD/socket" http://localhost/none
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log" -s quit
until ! [ -e pid ]; do sleep 0.1; done
grep -E 'alert|emerg|signal' error.log | grep -v 'signal process started' | grep -c . || true
