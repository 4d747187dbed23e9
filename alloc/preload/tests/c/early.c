/* malloc before main: in the program's constructors, in a library's, and in a thread that starts there. */
#include "check.h"

#include <pthread.h>

static void *before_main[3];
static int constructors;

static void *take(size_t size) {
    unsigned char *block = need(malloc(size));
    EXPECT_PATTERN(block, size, "malloc before main");
    block[0] = block[size - 1] = 'x';
    return block;
}

__attribute__((constructor(101))) static void first(void) {
    before_main[constructors++] = take(100);
    before_main[constructors++] = take(3 * MIB);
}

static void *in_thread(void *unused) {
    (void)unused;
    return take(MIB);
}

__attribute__((constructor)) static void second(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
    CHECK(pthread_join(thread, &before_main[constructors++]) == 0);
}

int main(void) {
    CHECK(constructors == 3);
    size_t sizes[] = {100, 3 * MIB, MIB};
    for (int i = 0; i < 3; i++) {
        unsigned char *block = before_main[i];
        CHECK(block[0] == 'x' && block[sizes[i] - 1] == 'x');
        EXPECT_PATTERN(block + 1, sizes[i] - 2, "a block from before main");
        free(block);
    }
    return 0;
}

__attribute__((destructor)) static void last(void) {
    free(take(5000));
}
