/* What the options verify and random are for: a write to a free block, the order of blocks, and work that both
   leave as it is. */
#include "check.h"

/* Where the compiler cannot see what it is. */
static unsigned char *volatile hidden;

static void written_after(size_t size, size_t at) {
    unsigned char *block = need(malloc(size));
    hidden = block;
    free(block);
    dprintf(1, "%p\n", (void *)block);
    hidden[at] = 1;
    for (int i = 0; i < 1000; i++)
        need(malloc(size));
    FAIL("the write to %p went unseen", (void *)block);
}

/* Without the tag that a pointer may have. */
static uintptr_t address(const void *block) {
    return (uintptr_t)block << 8 >> 8;
}

/* The order in which addresses come: a run of this ends with another one next time. */
static void order(void) {
    enum { COUNT = 64 };
    char *blocks[COUNT];
    int ascending = 0, again = 0;
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = need(malloc(100));
        ascending += i > 0 && address(blocks[i]) == address(blocks[i - 1]) + 112;
    }
    for (int i = 0; i < COUNT; i++)
        dprintf(1, "%ld ", (long)(address(blocks[i]) - address(blocks[0])));
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
    for (int i = COUNT; i-- > 0;)
        again += address(need(malloc(100))) == address(blocks[i]);
    dprintf(1, "\n");
    dprintf(2, "%d follow each other, %d come back in order\n", ascending, again);
    CHECK(ascending <= COUNT / 2);
    CHECK(again <= COUNT / 2);
}

/* Blocks of all sizes come and go, are written, and are as they have to be when they come. */
static void work(void) {
    static unsigned char *blocks[500];
    static size_t sizes[500];
    unsigned state = 1;
    for (int i = 0; i < 200000; i++) {
        state = state * 1664525 + 1013904223;
        int at = (int)(state >> 8) % 500, zeroed = state >> 30 == 0;
        if (blocks[at])
            free(blocks[at]);
        size_t size = sizes[at] = 1 + (state >> 12) % ((state & 15) == 0 ? 60000 : 600);
        unsigned char *block = blocks[at] = need(zeroed ? calloc(1, size) : malloc(size));
        for (size_t byte = 0; byte < size; byte += 1 + size / 64)
            CHECK(block[byte] == (zeroed ? 0 : pattern_at(block + byte)));
        memset(block, (int)state, size);
    }
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    if (!strcmp(arguments[1], "write-small"))
        written_after(24, 23);
    else if (!strcmp(arguments[1], "write-medium"))
        written_after(20000, 12345);
    else if (!strcmp(arguments[1], "order"))
        order();
    else if (!strcmp(arguments[1], "work"))
        work();
    else
        FAIL("no behaviour is called %s", arguments[1]);
    return 0;
}
