/* Does with one block what it is told on stdin, a letter and a number for each line, and says "ok" when that is done,
   with the number of the block's pages that are present. */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static char *volatile block;
static size_t size;

static long present(void) {
    size_t page = sysconf(_SC_PAGESIZE);
    int file = open("/proc/self/pagemap", O_RDONLY);
    if (file < 0 || !block)
        return -1;
    uintptr_t first = (uintptr_t)block / page, end = ((uintptr_t)block + size + page - 1) / page;
    long count = 0;
    for (uintptr_t at = first; at < end; at++) {
        uint64_t entry = 0;
        if (pread(file, &entry, 8, at * 8) == 8)
            count += entry >> 63;
    }
    close(file);
    return count;
}

int main(void) {
    char order;
    size_t number;
    char text[256];
    while (scanf(" %c %zu", &order, &number) == 2) {
        switch (order) {
        case 'm':
            block = malloc(size = number);
            break;
        case 'c':
            block = calloc(1, size = number);
            break;
        case 't': /* touches a byte in each so many */
            for (size_t at = 0; at < size; at += number)
                block[at] = 1;
            break;
        case 'f':
            free(block);
            block = NULL;
            break;
        case 'r': /* allocates and frees so often */
            for (size_t i = 0; i < number; i++) {
                char *volatile other = malloc(1 << 20);
                other[0] = 1;
                free(other);
            }
            break;
        case 'd':
            prctl(PR_SET_DUMPABLE, (int)number);
            break;
        case 'x': /* becomes another program, which the next word names */
            scanf("%255s", text);
            if (number == 0)
                unsetenv("LD_PRELOAD");
            execlp(text, text, "600", NULL);
            perror("exec");
            return 1;
        }
        printf("ok %ld\n", present());
        fflush(stdout);
    }
    return 0;
}
