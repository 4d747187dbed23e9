/* What glibc's accounting says of small blocks: mallinfo2, mallinfo, malloc_info, malloc_stats, and malloc_trim. */
#include "check.h"
#include "stamps.h"

#include <pthread.h>

enum { COUNT = 4000, SIZE = 1000 };

static void *blocks[COUNT];

static void make_blocks(void) {
    for (int i = 0; i < COUNT; i++)
        blocks[i] = memset(need(malloc(SIZE)), 'b', SIZE);
}

static void free_blocks(int step) {
    for (int i = 0; i < COUNT; i += step) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
}

/* What a thread keeps ready for itself may count as used. */
#define READY (256 * KIB)

static void expect_sums(const struct mallinfo2 *info) {
    CHECK(info->fordblks <= info->arena);
    CHECK(info->uordblks + info->fordblks == info->arena + info->hblkhd);
    CHECK(info->fsmblks <= info->fordblks);
}

static void mallinfo_counts(void) {
    free(need(malloc(SIZE)));
    struct mallinfo2 before = mallinfo2();
    expect_sums(&before);
    make_blocks();
    struct mallinfo2 with = mallinfo2();
    expect_sums(&with);
    size_t usable = malloc_usable_size(blocks[0]);
    CHECK(with.uordblks >= before.uordblks + COUNT * SIZE - READY);
    CHECK(with.uordblks <= before.uordblks + COUNT * (usable + 16) + READY);
    free_blocks(2);
    struct mallinfo2 half = mallinfo2();
    expect_sums(&half);
    CHECK(half.uordblks <= with.uordblks - COUNT / 2 * SIZE + READY);
    CHECK(half.uordblks >= with.uordblks - COUNT / 2 * (usable + 16) - READY);
    CHECK(half.fordblks >= with.fordblks + COUNT / 2 * SIZE - READY);
    free_blocks(1);
    struct mallinfo2 after = mallinfo2();
    expect_sums(&after);
    CHECK(after.uordblks <= before.uordblks + READY);
    /* The older one says the same, in ints, as long as they fit. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo old = mallinfo();
#pragma GCC diagnostic pop
    after = mallinfo2();
    CHECK(old.arena >= 0 && (size_t)old.arena == after.arena);
    CHECK((size_t)old.uordblks == after.uordblks && (size_t)old.fordblks == after.fordblks);
    CHECK((size_t)old.ordblks == after.ordblks && (size_t)old.smblks == after.smblks);
    CHECK((size_t)old.hblks == after.hblks && (size_t)old.hblkhd == after.hblkhd);
    CHECK((size_t)old.fsmblks == after.fsmblks && (size_t)old.keepcost == after.keepcost);
}

/* Blocks that a thread freed are no one's when it has ended. */
static void *make_and_free(void *unused) {
    make_blocks();
    free_blocks(1);
    return unused;
}

static void mallinfo_counts_what_threads_left(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, make_and_free, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < 20; i++) {
        CHECK(pthread_create(&thread, NULL, make_and_free, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CHECK(mallinfo2().uordblks <= before + READY);
}

/* The size of a block, the XML while all are in use, and the XML when every second one is free: with a line between. */
static void info(void) {
    make_blocks();
    printf("%zu\n--\n", malloc_usable_size(blocks[1]));
    CHECK(malloc_info(0, stdout) == 0);
    puts("--");
    free_blocks(2);
    CHECK(malloc_info(0, stdout) == 0);
    CHECK(fflush(stdout) == 0);
}

static void stats(void) {
    make_blocks();
    fflush(stdout);
    malloc_stats();
    free_blocks(1);
}

enum { TRIMMED = 64 * 1024 };

static void fill_and_free(void) {
    static void *many[TRIMMED];
    for (int i = 0; i < TRIMMED; i++)
        many[i] = memset(need(malloc(SIZE)), 't', SIZE);
    for (int i = 0; i < TRIMMED; i++)
        free(many[i]);
}

static void trim(void) {
    if (affordable(TRIMMED * SIZE) < TRIMMED * SIZE)
        return;
    fill_and_free();
    size_t before = rss();
    int first = malloc_trim(0);
    size_t after = rss();
    figure("before malloc_trim(0)", before);
    figure("after", after);
    CHECK(first == 1);
    EXPECT_AT_MOST(after, before - (before > TRIMMED * SIZE ? TRIMMED * SIZE * 3 / 4 : 0));
    /* Once there is nothing left to give, it says so: a handler may have filled its pool again meanwhile. */
    int left = 1;
    for (int i = 0; i < 100 && left; i++)
        left = malloc_trim(0);
    CHECK(left == 0);
    /* What was given back is as good as new. */
    for (int i = 0; i < COUNT; i++)
        blocks[i] = memset(fresh(malloc(SIZE), "a block in trimmed memory"), 'b', SIZE);
    malloc_trim(0);
    for (int i = 0; i < COUNT; i++)
        EXPECT_BYTES(blocks[i], SIZE, 'b', "a block among trimmed memory");
    free_blocks(1);
}

/* The most that is to stay may stay. */
static void trim_keeps(void) {
    if (affordable(TRIMMED * SIZE) < TRIMMED * SIZE)
        return;
    fill_and_free();
    size_t before = rss();
    malloc_trim(TRIMMED * SIZE / 2);
    size_t half = rss();
    malloc_trim(0);
    size_t none = rss();
    figure("before", before);
    figure("half to be kept", half);
    figure("nothing to be kept", none);
    EXPECT_AT_MOST(half, before - TRIMMED * SIZE / 4);
    EXPECT_AT_MOST(none, half - TRIMMED * SIZE / 4);
    /* More than there is: nothing happens. */
    free(memset(need(malloc(SIZE)), 't', SIZE));
    CHECK(malloc_trim(SIZE_MAX) == 0);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"mallinfo", mallinfo_counts},
        {"mallinfo-threads", mallinfo_counts_what_threads_left},
        {"info", info},
        {"stats", stats},
        {"trim", trim},
        {"trim-keeps", trim_keeps},
    };
    return RUN_BEHAVIOUR(behaviours);
}
