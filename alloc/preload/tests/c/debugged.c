/* A process that others look into: a debugger, and the kernel when it writes a core file. */
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

#define BLOCK (64 * MIB)
#define TOUCHED (5 * MIB)
#define MISSING (40 * MIB)

/* Most of it is missing. The debugger finds it by this name. */
unsigned char *volatile block;

static void prepare(void) {
    block = need(malloc(BLOCK));
    memcpy(block + TOUCHED, "touched", 8);
}

/* Says where the block is, and waits; then checks it. */
static void waits(void) {
    prepare();
    printf("%p\n", (void *)block);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) < 0)
        CHECK(errno == EINTR);
    CHECK(memcmp(block + TOUCHED, "touched", 8) == 0);
    memcpy(block + TOUCHED, block, 8);
    EXPECT_PATTERN(block, BLOCK, "after a debugger was there");
}

static void aborts(void) {
    prepare();
    abort();
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {{"waits", waits}, {"aborts", aborts}};
    return RUN_BEHAVIOUR(behaviours);
}
