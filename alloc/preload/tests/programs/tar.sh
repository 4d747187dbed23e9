mkdir in out
for i in $(seq 1 40); do seq $i 7 60000 > in/file$i; done
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=644 -c in | xz -T2 -6 > all.tar.xz
cksum < all.tar.xz
xz -d -T2 < all.tar.xz | tar -C out -x
cksum out/in/*
xz -9 < in/file1 | cksum
