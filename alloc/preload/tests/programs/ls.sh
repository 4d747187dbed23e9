for i in $(seq 1 30); do mkdir -p dir$i/sub; for j in 1 2 3 4 5 6 7; do : > dir$i/sub/file$j; done; done
ls -R
find . -name 'file3' | sort
grep -rc x . | sort
