/* What runs as a thread or the process ends still has a heap. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

static pthread_key_t keys[3];
static atomic_int key_runs, local_runs, exit_runs;

/* A block from the thread's life, freed at its end, and new ones there. */
static void take_and_free(void *block, size_t size) {
    EXPECT_BYTES(block, size, 'x', "a block that lived until the end");
    free(block);
    for (size_t other = 16; other <= MIB; other *= 4) {
        unsigned char *fresh = need(malloc(other));
        EXPECT_PATTERN(fresh, other, "malloc at the end");
        memset(fresh, 'y', other);
        free(fresh);
    }
}

static void *marked(size_t size) {
    return memset(need(malloc(size)), 'x', size);
}

static void at_key(void *block) {
    take_and_free(block, 300);
    /* Twice over: the library's own destructor may have run in between. */
    if (atomic_fetch_add(&key_runs, 1) % 2 == 0)
        CHECK(pthread_setspecific(keys[1], marked(300)) == 0);
}

static void at_local(void *block) {
    take_and_free(block, 70000);
    atomic_fetch_add(&local_runs, 1);
}

static void at_exit(void) {
    take_and_free(marked(1000), 1000);
    exit_runs++;
}

static void at_exit_last(void) {
    take_and_free(marked(MIB), MIB);
    CHECK(exit_runs == 1);
    if (write(1, "ended\n", 6) != 6)
        _exit(3);
}

/* What a C++ compiler emits for the destructor of a thread_local. */
extern int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *dso);
extern void *__dso_handle;

static void *live(void *unused) {
    (void)unused;
    free(need(malloc(50)));
    for (int i = 0; i < 3; i++)
        CHECK(pthread_setspecific(keys[i], marked(300)) == 0);
    CHECK(__cxa_thread_atexit_impl(at_local, marked(70000), &__dso_handle) == 0);
    return marked(40);
}

int main(void) {
    CHECK(atexit(at_exit_last) == 0 && atexit(at_exit) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_key_create(&keys[i], at_key) == 0);
    for (int round = 0; round < 200; round++) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, live, NULL) == 0);
        for (int i = 0; i < 4; i++) {
            void *block;
            CHECK(pthread_join(threads[i], &block) == 0);
            take_and_free(block, 40);
        }
    }
    CHECK(local_runs == 800 && key_runs >= 2400);
    return 0;
}
