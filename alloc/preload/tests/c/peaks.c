/* What stays of a peak of small blocks, when they are freed in no order. */
#include "check.h"
#include "stamps.h"

#include <time.h>

enum { PEAK_MIB = 200 };

/* As many bytes of each. */
static const size_t sizes[] = {16, 48, 64, 100, 256, 500, 1000, 2000, 4000, 8000, 16000, 30000};

#define SIZES (sizeof sizes / sizeof *sizes)

struct owned {
    unsigned char *block;
    uint32_t size;
    unsigned char byte;
    char stays;
};

static struct owned *all;
static size_t count;

static void shuffle(uint64_t *state) {
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = random_next(state) % (i + 1);
        struct owned moved = all[i];
        all[i] = all[other];
        all[other] = moved;
    }
}

/* One in 1000 is to stay, in four bunches of blocks that were made one after another. */
static int is_in_a_bunch(size_t i) {
    return i % (count / 4) < count / 4000;
}

static void climb(size_t bytes) {
    uint64_t state = 11;
    count = 0;
    for (size_t i = 0; i < SIZES; i++)
        count += bytes / SIZES / sizes[i];
    all = aside(count * sizeof *all);
    size_t next = 0;
    for (size_t i = 0; i < SIZES; i++)
        for (size_t j = 0; j < bytes / SIZES / sizes[i]; j++)
            all[next++].size = (uint32_t)sizes[i];
    CHECK(next == count);
    shuffle(&state);
    for (size_t i = 0; i < count; i++) {
        all[i].block = need(malloc(all[i].size));
        all[i].byte = (unsigned char)random_next(&state);
        memset(all[i].block, all[i].byte, all[i].size);
    }
}

static void drop(struct owned *it) {
    EXPECT_BYTES(it->block, it->size, it->byte, "a block of the peak");
    free(it->block);
    it->block = NULL;
}

static void drop_all(int but_bunches) {
    uint64_t state = 12;
    for (size_t i = 0; i < count; i++)
        all[i].stays = but_bunches && is_in_a_bunch(i);
    shuffle(&state);
    for (size_t i = 0; i < count; i++)
        if (!all[i].stays)
            drop(&all[i]);
}

static void wait_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void peak(int but_bunches) {
    size_t bytes = affordable(PEAK_MIB * MIB);
    climb(bytes);
    /* The test's own list does not count. */
    size_t list = count * sizeof *all, high = rss() - list;
    figure("at the peak", high);
    CHECK(high > bytes);
    drop_all(but_bunches);
    figure("right after", rss() - list);
    wait_ms(500);
    figure("half a second later, nothing happened", rss() - list);
    for (int i = 0; i < 20; i++) {
        free(need(malloc(30000)));
        free(need(malloc(MIB)));
        wait_ms(10);
    }
    figure("after some malloc and free", rss() - list);
    int trimmed = malloc_trim(0);
    size_t low = rss() - list;
    figure("trimmed", low);
    EXPECT_AT_MOST(low, high / 5);
    CHECK(trimmed == 0 || trimmed == 1);
    for (size_t i = 0; i < count; i++)
        if (all[i].stays)
            drop(&all[i]);
    malloc_trim(0);
    figure("all freed, trimmed", rss() - list);
    EXPECT_AT_MOST(rss() - list, bytes / 10 + 4 * MIB);
}

static void nothing_stays(void) {
    peak(0);
}

static void bunches_stay(void) {
    peak(1);
}

/* With a short decay, by itself, if the program goes on: a little of each size comes and goes, but more than
   a thread keeps to itself. */
static void decay(void) {
    size_t bytes = affordable(PEAK_MIB * MIB);
    climb(bytes);
    size_t list = count * sizeof *all, high = rss() - list;
    drop_all(0);
    size_t low = high;
    /* As long as it takes on a busy machine: a program that hangs is ended from outside. */
    for (int round = 0; round < 500 && low > high / 3; round++) {
        void *some[300];
        wait_ms(10);
        for (size_t i = 0; i < SIZES; i++) {
            for (int j = 0; j < 300; j++)
                some[j] = need(malloc(sizes[i]));
            for (int j = 0; j < 300; j++)
                free(some[j]);
        }
        low = rss() - list;
    }
    figure("at the peak", high);
    figure("decayed", low);
    EXPECT_AT_MOST(low, high / 3);
}

/* What is free is used again: a second peak is no higher. */
static void peaks_repeat(void) {
    size_t bytes = affordable(PEAK_MIB * MIB) / 2, highest = 0, first = 0;
    for (int round = 0; round < 6; round++) {
        climb(bytes);
        size_t list = count * sizeof *all, high = rss() - list;
        drop_all(0);
        munmap(all, list);
        first = round == 0 ? high : first;
        highest = high > highest ? high : highest;
    }
    figure("the first peak", first);
    figure("the highest", highest);
    EXPECT_AT_MOST(highest, first + first / 8 + 16 * MIB);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"nothing-stays", nothing_stays},
        {"bunches-stay", bunches_stay},
        {"decay", decay},
        {"peaks-repeat", peaks_repeat},
    };
    return RUN_BEHAVIOUR(behaviours);
}
