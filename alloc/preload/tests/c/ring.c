/* Blocks that some threads make and others free, through a ring, of every size class. */
#include "check.h"
#include "stamps.h"

#include <pthread.h>

enum { PLACES = 1024, MOST_THREADS = 3, BATCH = 16 };

/* What is on its way at most, and what is made of each size in all. */
#define ON_THE_WAY (MIB / 2)
#define TRAFFIC (32 * MIB)
#define LEAST_BLOCKS 2000ul

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_full, not_empty;
    struct stamped *blocks[PLACES];
    size_t places, first, count;
    /* How many are to be made yet, and to be fetched. */
    size_t to_make, to_fetch;
    uint64_t next_id;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .not_full = PTHREAD_COND_INITIALIZER,
          .not_empty = PTHREAD_COND_INITIALIZER};

static size_t block_size;

/* A share of what is to be done, not more than a batch. */
static size_t share(size_t *left) {
    size_t taken = *left < BATCH ? *left : BATCH;
    *left -= taken;
    return taken;
}

static void *produce(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&ring.lock);
        size_t count = share(&ring.to_make);
        uint64_t id = ring.next_id;
        ring.next_id += count;
        pthread_mutex_unlock(&ring.lock);
        if (count == 0)
            return NULL;
        for (size_t i = 0; i < count; i++) {
            struct stamped *block = make_stamped(block_size, id + i);
            pthread_mutex_lock(&ring.lock);
            while (ring.count == ring.places)
                pthread_cond_wait(&ring.not_full, &ring.lock);
            ring.blocks[(ring.first + ring.count++) % ring.places] = block;
            pthread_cond_signal(&ring.not_empty);
            pthread_mutex_unlock(&ring.lock);
        }
    }
}

static atomic_ulong sum;

static void *consume(void *unused) {
    (void)unused;
    for (;;) {
        struct stamped *blocks[BATCH];
        size_t count = 0;
        pthread_mutex_lock(&ring.lock);
        while (ring.count == 0 && ring.to_fetch)
            pthread_cond_wait(&ring.not_empty, &ring.lock);
        for (; count < BATCH && ring.count; count++) {
            blocks[count] = ring.blocks[ring.first];
            ring.first = (ring.first + 1) % ring.places;
            ring.count--;
            ring.to_fetch--;
        }
        if (ring.to_fetch == 0)
            pthread_cond_broadcast(&ring.not_empty);
        pthread_cond_broadcast(&ring.not_full);
        pthread_mutex_unlock(&ring.lock);
        if (count == 0)
            return NULL;
        for (size_t i = 0; i < count; i++) {
            CHECK(blocks[i]->size == block_size);
            sum += blocks[i]->id;
            free_stamped(blocks[i], "a block from the ring");
        }
    }
}

static void pass(size_t size, size_t producers, size_t consumers) {
    pthread_t threads[2 * MOST_THREADS];
    const size_t blocks = TRAFFIC / size > LEAST_BLOCKS ? TRAFFIC / size : LEAST_BLOCKS;
    /* Of the smallest there are enough when there are enough. */
    const size_t count = blocks < 100000 ? blocks : 100000;
    const size_t fit = ON_THE_WAY / size;
    block_size = size;
    ring.places = fit > PLACES ? PLACES : fit < 4 ? 4 : fit;
    ring.first = ring.count = 0;
    ring.next_id = 0;
    ring.to_make = ring.to_fetch = count;
    sum = 0;
    for (size_t i = 0; i < producers + consumers; i++)
        CHECK(pthread_create(&threads[i], NULL, i < producers ? produce : consume, NULL) == 0);
    for (size_t i = 0; i < producers + consumers; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(ring.count == 0 && sum == count * (count - 1) / 2);
}

/* The threads that make and those that free stay the same for one size: nothing comes back by a thread's own hand. */
static void pass_every_size(size_t producers, size_t consumers) {
    size_t traffic = 0, sizes = 0;
    pass(64, producers, consumers);
    const size_t start = rss();
    for (size_t size = sizeof(struct stamped); size <= 100000; size += size < 128 ? 16 : size / 5) {
        pass(size, producers, consumers);
        traffic += size < 336 ? 100000 * size : TRAFFIC;
        sizes++;
    }
    const size_t peak = peak_rss();
    figure("went through the ring", traffic);
    figure("RSS at the start", start);
    figure("RSS at most", peak);
    /* Even where what was of one size is kept for it. */
    EXPECT_AT_MOST(peak - start, sizes * ON_THE_WAY + 32 * MIB);
    CHECK(traffic > 8 * (sizes * ON_THE_WAY + 32 * MIB));
}

/* One size, for long: half the way it is as high as at the end. */
static void pass_one_size_for_long(void) {
    const size_t some[] = {16, 100, 1000, 10000, 60000};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        pass(some[i], 1, 1);
        const size_t early = rss();
        for (int round = 0; round < 8; round++)
            pass(some[i], 1, 1);
        EXPECT_AT_MOST(rss(), early + 4 * MIB);
    }
}

static void one_to_one(void) {
    pass_every_size(1, 1);
}

static void three_to_one(void) {
    pass_every_size(3, 1);
}

static void one_to_three(void) {
    pass_every_size(1, 3);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"one-to-one", one_to_one},
        {"three-to-one", three_to_one},
        {"one-to-three", one_to_three},
        {"for-long", pass_one_size_for_long},
    };
    return RUN_BEHAVIOUR(behaviours);
}
