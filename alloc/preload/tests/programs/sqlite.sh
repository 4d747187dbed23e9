cat > work.sql <<'END'
create table t (a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000)
insert into t select i, printf('%x-%d', i * 2654435761 % 4294967296, i % 100), i * 0.5 from n;
create index by_b on t (b);
select * from t order by b desc limit 20;
select substr(b, -2), count(*), sum(c) from t group by 1 order by 1;
update t set b = b || b where a % 3 = 0;
delete from t where a % 5 = 0;
select count(*), sum(length(b)), group_concat(a) from (select * from t order by b limit 3000);
pragma integrity_check;
vacuum;
END
sqlite3 work.db < work.sql
cksum < work.db
sqlite3 :memory: < work.sql | cksum
