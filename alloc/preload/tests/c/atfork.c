/* A library to preload whose constructor registers fork handlers before anyone may have asked for memory, and
 * whose fork handlers ask for memory, fresh, recycled and large. */
#include "check.h"

#include <pthread.h>

static int calls;
static unsigned char *kept;

static void use_heap(void) {
    static uint64_t state = 3;
    calls++;
    for (size_t size = 10; size < 4 * MIB; size *= 3) {
        unsigned char *block = need(malloc(size));
        EXPECT_PATTERN(block, size, "in a library's fork handler");
        scribble(block, size, &state);
        free(block);
    }
    if (kept)
        EXPECT_PATTERN(kept, MIB, "what a library's fork handler had left untouched");
    free(kept);
    kept = need(malloc(2 * MIB));
    memset(kept + MIB, 'k', MIB);
}

__attribute__((constructor)) static void coming(void) {
    CHECK(pthread_atfork(use_heap, use_heap, use_heap) == 0);
}

/* How often its handlers were called in this process and those it came from. */
int library_fork_calls(void) {
    return calls;
}
