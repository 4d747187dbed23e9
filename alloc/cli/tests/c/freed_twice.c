/* Frees a large block twice, in functions that a report can name. */
#include <stdlib.h>

__attribute__((noinline)) static char *allocated_here(void) {
    char *volatile block = malloc(1 << 20); /* line 5 */
    return block;
}

__attribute__((noinline)) static void freed_here(char *volatile block) {
    free(block); /* line 10 */
    __asm__ volatile("");
}

int main(void) {
    char *block = allocated_here();
    freed_here(block);
    freed_here(block);
    return 0;
}
