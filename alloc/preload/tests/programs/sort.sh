seq 1 200000 | awk '{ print ($1 * 7919) % 100003, $1 }' > lines
sort -n -S 1M --parallel=2 lines | cksum
sort -S 100M --parallel=2 lines | cksum
sort -R --random-source=lines -S 20M lines | cksum
sort -u -k1,1n lines | tail -n 3
