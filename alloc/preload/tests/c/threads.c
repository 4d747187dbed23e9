/* Blocks that pass between threads, and threads that come and go. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8, SLOTS = 512, ROUNDS = 6000 };

/* A block carries its own size and a tag, so that whoever frees it can tell whether it is still whole. */
struct block {
    size_t size;
    unsigned char tag;
    unsigned char bytes[];
};

static _Atomic(struct block *) slots[SLOTS];

static struct block *make(uint64_t *state) {
    size_t size = sizeof(struct block) + random_next(state) % (1ul << (3 + random_next(state) % 16));
    struct block *block = need(malloc(size));
    EXPECT_PATTERN(block, malloc_usable_size(block), "malloc among threads");
    block->size = size - offsetof(struct block, bytes);
    block->tag = (unsigned char)random_next(state);
    memset(block->bytes, block->tag, block->size);
    return block;
}

static void release(struct block *block) {
    if (block) {
        EXPECT_BYTES(block->bytes, block->size, block->tag, "a block from another thread");
        free(block);
    }
}

static void *exchange(void *seed) {
    uint64_t state = (uintptr_t)seed;
    for (int round = 0; round < ROUNDS; round++)
        release(atomic_exchange(&slots[random_next(&state) % SLOTS], make(&state)));
    return NULL;
}

static void blocks_pass_between_threads(void) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, exchange, (void *)(i * 2 + 1)) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < SLOTS; i++)
        release(slots[i]);
}

/* One thread makes, the other frees: nothing ever comes back to the maker's own cache by its own hand. */
static void *produce(void *seed) {
    uint64_t state = (uintptr_t)seed;
    for (int round = 0; round < 20000; round++) {
        struct block *block = make(&state), *empty = NULL;
        while (!atomic_compare_exchange_weak(&slots[0], &empty, block)) {
            empty = NULL;
            sched_yield();
        }
    }
    return NULL;
}

static void *consume(void *unused) {
    (void)unused;
    for (int round = 0; round < 20000; round++) {
        struct block *block;
        while (!(block = atomic_exchange(&slots[0], NULL)))
            sched_yield();
        release(block);
    }
    return NULL;
}

static void one_makes_the_other_frees(void) {
    pthread_t maker, taker;
    CHECK(pthread_create(&maker, NULL, produce, (void *)3) == 0);
    CHECK(pthread_create(&taker, NULL, consume, NULL) == 0);
    CHECK(pthread_join(maker, NULL) == 0);
    CHECK(pthread_join(taker, NULL) == 0);
}

/* A short life: blocks from elsewhere freed, some made and freed, some left to the others. */
static void *short_life(void *seed) {
    uint64_t state = (uintptr_t)seed;
    for (int round = 0; round < 20; round++) {
        release(make(&state));
        release(atomic_exchange(&slots[random_next(&state) % SLOTS], make(&state)));
    }
    return NULL;
}

static void threads_come_and_go(void) {
    enum { AT_ONCE = 20 };
    pthread_t threads[AT_ONCE];
    for (int wave = 0; wave < 1000 / AT_ONCE; wave++) {
        for (int i = 0; i < AT_ONCE; i++)
            CHECK(pthread_create(&threads[i], NULL, short_life, (void *)(uintptr_t)(wave * AT_ONCE + i + 1)) == 0);
        for (int i = 0; i < AT_ONCE; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (int i = 0; i < SLOTS; i++)
        release(slots[i]);
}

/* Many threads in one fresh block at once: several faults on the same page, and on neighbours. */
static unsigned char *shared;
static pthread_barrier_t start;

static void *touch_shared(void *which) {
    size_t offset = (uintptr_t)which;
    pthread_barrier_wait(&start);
    for (size_t at = offset; at < 4 * MIB; at += 512) {
        if (shared[at] != pattern_at(shared + at))
            FAIL("byte %zu of a shared fresh block is 0x%02x", at, shared[at]);
        shared[at] = other_byte(1);
    }
    return NULL;
}

static void one_fresh_block_many_threads(void) {
    for (int round = 0; round < 20; round++) {
        pthread_t threads[THREADS];
        shared = need(malloc(4 * MIB));
        CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
        for (uintptr_t i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, touch_shared, (void *)i) == 0);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        for (size_t at = 0; at < 4 * MIB; at += 512) {
            EXPECT_BYTES(shared + at, THREADS, other_byte(1), "what the threads wrote");
            EXPECT_PATTERN(shared + at + THREADS, 512 - THREADS, "what no thread wrote");
        }
        free(shared);
    }
}

/* malloc_usable_size only asks, and all may ask at once: of a small, a medium and a large block. */
static void *ask_size(void *blocks) {
    for (int round = 0; round < 200000; round++)
        for (void **block = blocks; *block; block++)
            CHECK(malloc_usable_size(*block) >= 100);
    return NULL;
}

static void all_ask_at_once(void) {
    pthread_t threads[4];
    void *blocks[] = {need(malloc(100)), need(malloc(20000)), need(malloc(MIB)), NULL};
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, ask_size, blocks) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 3; i++)
        free(blocks[i]);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"exchange", blocks_pass_between_threads},
        {"make-and-free", one_makes_the_other_frees},
        {"come-and-go", threads_come_and_go},
        {"ask-at-once", all_ask_at_once},
        {"one-block", one_fresh_block_many_threads},
    };
    return RUN_BEHAVIOUR(behaviours);
}
