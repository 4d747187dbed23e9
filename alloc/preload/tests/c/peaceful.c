/* Large blocks, and some small ones, come, change and go by chance in eight threads; what is a block's is written and
 * read to its last byte. Nothing of that is misuse. */
#include "stamps.h"

#include <pthread.h>
#include <sys/wait.h>

#define THREADS 8
#define BLOCKS 12

static int rounds;

struct kept {
    unsigned char *bytes;
    /* As malloc_usable_size has it, and as it was asked for. */
    size_t size, asked;
    unsigned char byte;
};

static void expect_kept(const struct kept *kept, size_t length, const char *what) {
    EXPECT_BYTES(kept->bytes, length, kept->byte, what);
}

static void fill(struct kept *kept, void *block, size_t asked, uint64_t *state) {
    kept->bytes = need(block);
    kept->size = malloc_usable_size(block);
    kept->asked = asked;
    CHECK(kept->size >= asked);
    kept->byte = other_byte((unsigned char)(random_next(state) >> 56));
    memset(kept->bytes, kept->byte, kept->size);
}

static void let_go(struct kept *kept) {
    if (kept->bytes)
        expect_kept(kept, kept->size, "a block to be freed");
    free(kept->bytes);
    kept->bytes = NULL;
}

/* Most are large: by chance a multiple of a page, or beside one. A few are small, or have their MiB. */
static size_t any_size(uint64_t *state) {
    uint64_t dice = random_next(state) >> 32;
    size_t size = dice % 8 == 0   ? 1 + (dice >> 8) % 3000
                  : dice % 64 < 6 ? MIB + (dice >> 8) % (4 * MIB)
                                  : 64 * KIB + (dice >> 8) % (300 * KIB);
    return dice % 3 == 0 && size > 4096 ? size & ~4095ul : size;
}

static void make(struct kept *kept, uint64_t *state) {
    size_t size = any_size(state), aligned = 16ul << random_next(state) % 18;
    switch (random_next(state) % 4) {
    case 0:
        fill(kept, malloc(size), size, state);
        break;
    case 1: {
        unsigned char *block = need(calloc(1, size));
        EXPECT_BYTES(block, size, 0, "calloc");
        fill(kept, block, size, state);
        break;
    }
    case 2: {
        void *block = need(memalign(aligned, size));
        CHECK((uintptr_t)block % aligned == 0);
        fill(kept, block, size, state);
        break;
    }
    default: {
        /* What is untouched in a new block holds the pattern, to its end. */
        void *block = need(malloc(size));
        if (patterned())
            EXPECT_PATTERN(block, malloc_usable_size(block), "malloc");
        fill(kept, block, size, state);
    }
    }
}

static void resize(struct kept *kept, uint64_t *state) {
    size_t size = any_size(state);
    struct kept old = *kept;
    old.bytes = need(realloc(old.bytes, size));
    expect_kept(&old, size < old.asked ? size : old.asked, "realloc");
    fill(kept, old.bytes, size, state);
}

static void fork_once(struct kept *blocks, uint64_t *state) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (int i = 0; i < BLOCKS; i++) {
            let_go(&blocks[i]);
            make(&blocks[i], state);
        }
        for (int i = 0; i < BLOCKS; i++)
            let_go(&blocks[i]);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0)
        FAIL("the child ended with status %#x", status);
}

static void *work(void *number) {
    uint64_t state = 0x9e3779b97f4a7c15ull * ((uintptr_t)number + 1);
    struct kept blocks[BLOCKS] = {0};
    for (int i = 0; i < rounds; i++) {
        struct kept *kept = &blocks[random_next(&state) % BLOCKS];
        if (!kept->bytes)
            make(kept, &state);
        else if (random_next(&state) % 3 == 0)
            resize(kept, &state);
        else
            let_go(kept);
        /* One thread at a time has a child. */
        if (i == rounds / (THREADS + 1) * ((int)(uintptr_t)number + 1))
            fork_once(blocks, &state);
    }
    for (int i = 0; i < BLOCKS; i++)
        let_go(&blocks[i]);
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    rounds = atoi(argv[1]);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    return 0;
}
