i=0
while [ $i -lt 24 ]; do
    {
        echo "#include <stdio.h>"
        echo "#include <string.h>"
        echo "int part$i(int x) { char text[64]; snprintf(text, sizeof text, \"%d\", x * $i); return (int)strlen(text); }"
    } > part$i.c
    i=$((i + 1))
done
{
    seq 0 23 | sed 's/.*/int part&(int);/'
    echo '#include <stdio.h>'
    echo 'int main(void) { int sum = 0;'
    seq 0 23 | sed 's/.*/sum += part&(12345);/'
    printf '%s\n' 'printf("%d\n", sum); return 0; }'
} > main.c
{
    printf 'all: program\n\t@./program\n'
    printf 'program: main.o %s\n\t@gcc -o $@ $^\n' "$(seq -s ' ' -f 'part%g.o' 0 23)"
    printf '%%.o: %%.c\n\t@gcc -O2 -c -o $@ $<\n'
} > Makefile
make -j2
make -j2
cat *.o | wc -c
