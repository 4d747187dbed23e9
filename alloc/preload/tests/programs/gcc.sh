awk 'BEGIN {
    print "#include <stdio.h>\n#include <string.h>";
    for (i = 0; i < 250; i++)
        printf "int f%d(int *p, int n) { int s = %d; for (int i = 0; i < n; i++) { if (p[i] %% %d) s += p[i] * %d; " \
            "else s ^= p[n - i - 1]; } return s; }\n", i, i, i % 13 + 2, i;
    print "int main(void) { int a[100], s = 0; memset(a, 7, sizeof a);";
    for (i = 0; i < 250; i++) printf "s += f%d(a, 100);\n", i;
    print "printf(\"%d\\n\", s); return 0; }";
}' > work.c
gcc -O2 -c work.c -o work.o
cksum < work.o
gcc work.o -o work
./work
