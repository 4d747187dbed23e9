bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
"$bin/initdb" -D data -U user -A trust --no-locale -E UTF8 --no-sync > initdb.log
"$bin/pg_ctl" -D data -w -l log -o "-k '$PWD' -h '' -c max_parallel_workers_per_gather=2 -c min_parallel_table_scan_size=0 \
    -c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c fsync=off" start > start.log
query() { "$bin/psql" -h "$PWD" -U user -d postgres -At -c "$1"; }
query "create table t as select n a, md5(n::text) b, n % 100 c from generate_series(1, 100000) n"
query "create index on t (b)"
query "select count(*), sum(a), max(b) from t where b like '%7%'"
query "select c, count(*), md5(string_agg(b, ',' order by b)) from t group by c order by c" | cksum
query "explain (costs off) select sum(length(b)) from t" | grep -o 'Workers Planned: 2'
"$bin/pgbench" -h "$PWD" -U user -i -s 2 -q postgres > pgbench.init 2>&1
"$bin/pgbench" -h "$PWD" -U user -c 4 -j 2 -t 300 postgres 2>/dev/null | grep 'actually processed'
query "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
query "select string_agg(x, '') from (select repeat(md5(n::text), 1000) x from generate_series(1, 100) n) s" | cksum
"$bin/pg_ctl" -D data -w -m fast stop | tail -1
grep -E 'PANIC|FATAL|terminated by signal' log | grep -cvE 'the database system|administrator command' || true
