/* Huge pages of which little is used any more: compaction keeps what is, and gives up the rest. */
#include "check.h"

#define REFPAGE_WEAK
#include "refpage.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#define BLOCKS 512
#define SIZE (128 * 1024ul)
/* Of so many blocks, one is kept. */
#define KEPT 8

static unsigned char *blocks[BLOCKS];
static atomic_int stop;

/* Bytes of the process's memory that are resident. */
static size_t resident(void) {
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    size_t kib = 0;
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "Rss: %zu kB", &kib);
    if (file)
        fclose(file);
    return kib << 10;
}

/* A block of huge pages, as far as they are to be had, that hold the content. */
static unsigned char *huge(size_t size) {
    unsigned char *block = need(malloc(size));
    memset(block, other_byte(1), size);
    /* Or the compiler leaves the block out. */
    __asm__ volatile("" : : "r"(block) : "memory");
    free(block);
    /* The same memory again. */
    return need(malloc(size));
}

static uint64_t *word(size_t block) {
    return (uint64_t *)blocks[block];
}

static void *count(void *counted) {
    size_t rounds = 0;
    for (; !atomic_load(&stop); rounds++)
        for (size_t i = 0; i < BLOCKS; i += KEPT)
            __atomic_fetch_add(word(i), 1, __ATOMIC_RELAXED);
    *(size_t *)counted = rounds;
    return NULL;
}

/* A thread counts here and there in a block while another compacts it, and allocates and frees. */
static void threads(void) {
    pthread_t thread;
    size_t counted = 0;
    unsigned char *block = huge(BLOCKS * SIZE);
    for (size_t i = 0; i < BLOCKS; i += KEPT) {
        blocks[i] = block + i * SIZE;
        *word(i) = i;
    }
    CHECK(pthread_create(&thread, NULL, count, &counted) == 0);
    for (int i = 0; i < 50; i++) {
        void *more[16];
        for (size_t j = 0; j < 16; j++) {
            more[j] = need(malloc(SIZE));
            EXPECT_PATTERN(more[j], SIZE, "a new block");
            memset(more[j], 9, SIZE / 2);
        }
        refpage_compact();
        for (size_t j = 0; j < 16; j++)
            free(more[j]);
        refpage_compact();
    }
    atomic_store(&stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    for (size_t i = 0; i < BLOCKS; i += KEPT) {
        CHECK(*word(i) == i + counted);
        EXPECT_PATTERN(blocks[i] + 8, KEPT * SIZE - 8, "the rest");
    }
    free(block);
}

/* malloc_trim gives back what is free, also where a huge page is free only in part. */
static void trim(void) {
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = need(malloc(SIZE));
        memset(blocks[i], 7, SIZE);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        if (i % KEPT)
            free(blocks[i]);
    /* Some of it may be given back already, after a while. */
    malloc_trim(0);
    size_t after = resident();
    if (after > BLOCKS * SIZE / 2)
        FAIL("%zu bytes are resident of %zu, of which one in %d is in use", after, BLOCKS * SIZE, KEPT);
    for (size_t i = 0; i < BLOCKS; i += KEPT)
        EXPECT_BYTES(blocks[i], SIZE, 7, "what is kept");
}

/* To compaction, a block of which only a few bytes were written is free memory for the most part. */
static void sparse(void) {
    size_t size = 64 * MIB;
    unsigned char *block = huge(size);
    for (size_t at = 0; at < size; at += 2 * MIB)
        block[at] = other_byte(1);
    size_t before = resident();
    size_t given = refpage_compact();
    if (given > 0 && resident() > before - given / 2)
        FAIL("%zu bytes are resident of %zu, and %zu were given back", resident(), before, given);
    printf("gave %s\n", given > size / 2 ? "most" : given > 0 ? "some" : "nothing");
    for (size_t at = 0; at < size; at += 2 * MIB) {
        CHECK(block[at] == other_byte(1));
        EXPECT_PATTERN(block + at + 1, 2 * MIB - 1, "the rest of the block");
    }
    free(block);
}

static const struct behaviour behaviours[] = {
    {"threads", threads},
    {"trim", trim},
    {"sparse", sparse},
};

int main(int argc, char **argv) { return RUN_BEHAVIOUR(behaviours); }
