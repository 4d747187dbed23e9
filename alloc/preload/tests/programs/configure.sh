cat > configure <<'END'
#!/bin/bash
# What configure scripts do: thousands of short processes, here-documents, pipes, traps, command substitutions.
trap 'rm -rf conftest*' 0
exec 5> config.log
for header in stdio.h stdlib.h unistd.h sys/stat.h nowhere.h pthread.h; do
    printf '%s' "checking for $header... "
    cat > conftest.c <<EOF
#include <$header>
int main(void) { return 0; }
EOF
    if gcc -c conftest.c -o conftest.o >&5 2>&5; then echo yes; else echo no; fi
    name=$(echo "HAVE_$header" | tr 'a-z./' 'A-Z__')
    echo "#define $name 1" >> confdefs.h
done
for i in $(seq 1 150); do
    value=$(expr $i \* 17 % 29); eval "cache_$i=\$value"
    test "$(eval echo \$cache_$i | sed 's/^/x/')" = "x$value" || exit 1
done
sed 's/@version@/1.2/;s/@prefix@/\/usr/' > config.out <<EOF
version @version@ in @prefix@
EOF
cat config.out confdefs.h | cksum
END
bash configure
