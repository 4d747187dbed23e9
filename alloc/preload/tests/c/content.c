/* What blocks hold when they are handed out: one thread, every size, every function. */
#include "check.h"

#define MAX_SIZES 4096

static size_t sizes[MAX_SIZES];
static size_t size_count;

static void add_around(size_t size) {
    for (int delta = -1; delta <= 1; delta++)
        sizes[size_count++] = size + delta;
}

/* Every small size, then steps that meet each size class, then both sides of every border. */
static void choose_sizes(void) {
    for (size_t size = 1; size <= 1040; size++)
        sizes[size_count++] = size;
    for (size_t size = 1041; size <= 70000; size += 97)
        sizes[size_count++] = size;
    for (size_t size = 2048; size <= 2 * MIB; size *= 2)
        add_around(size);
    add_around(48 * KIB);
    add_around(4096000);
    add_around(3 * MIB);
    sizes[size_count++] = 10 * MIB;
}

static void shuffle(size_t *order, size_t count, uint64_t *state) {
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = random_next(state) % (i + 1), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void *fresh_block(size_t size, const char *what) {
    unsigned char *block = need(malloc(size));
    CHECK((uintptr_t)block % 16 == 0);
    CHECK(malloc_usable_size(block) >= size);
    EXPECT_PATTERN(block, malloc_usable_size(block), what);
    return block;
}

static void fresh(void) {
    static void *blocks[MAX_SIZES];
    choose_sizes();
    for (size_t i = 0; i < size_count; i++)
        blocks[i] = fresh_block(sizes[i], "fresh malloc");
    for (size_t i = 0; i < size_count; i++)
        EXPECT_PATTERN(blocks[i], sizes[i], "a block that only its neighbours' allocation followed");
    for (size_t i = 0; i < size_count; i++)
        free(blocks[i]);
}

static void recycled(void) {
    static void *blocks[MAX_SIZES];
    static size_t order[MAX_SIZES];
    uint64_t state = 42;
    choose_sizes();
    for (int round = 0; round < 12; round++) {
        shuffle(order, size_count, &state);
        for (size_t i = 0; i < size_count; i++) {
            size_t which = order[i];
            blocks[which] = fresh_block(sizes[which], "malloc");
            size_t usable = malloc_usable_size(blocks[which]);
            /* Whole, a prefix, or a byte at the end: what the recycler must not confuse. */
            if (round % 3 == 0)
                scribble(blocks[which], usable, &state);
            else if (round % 3 == 1)
                scribble(blocks[which], usable / 3, &state);
            else
                scribble((char *)blocks[which] + usable - 1, 1, &state);
            /* A third is freed at once, so that the newest block is the next one. */
            if (random_next(&state) % 3 == 0) {
                free(blocks[which]);
                blocks[which] = NULL;
            }
        }
        shuffle(order, size_count, &state);
        for (size_t i = 0; i < size_count; i++)
            free(blocks[order[i]]);
    }
}

static void same_block_again_and_again(void) {
    uint64_t state = 7;
    size_t some[] = {24, 1000, 9000, 40000, 65536, 100000, MIB, 3 * MIB};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (int round = 0; round < 100; round++) {
            unsigned char *block = fresh_block(some[i], "malloc of what was just freed");
            scribble(block, malloc_usable_size(block), &state);
            free(block);
        }
}

static void zeroed(void) {
    static void *blocks[MAX_SIZES];
    uint64_t state = 99;
    choose_sizes();
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < size_count; i++) {
            blocks[i] = need(calloc(1, sizes[i]));
            EXPECT_BYTES(blocks[i], sizes[i], 0, round ? "calloc of recycled memory" : "fresh calloc");
            scribble(blocks[i], sizes[i], &state);
        }
        for (size_t i = 0; i < size_count; i++)
            free(blocks[i]);
        /* And calloc's blocks do not leave zeros for malloc to find. */
        for (size_t i = 0; i < size_count; i++)
            blocks[i] = fresh_block(sizes[i], "malloc after calloc");
        for (size_t i = 0; i < size_count; i++)
            free(blocks[i]);
        for (size_t i = 0; i < size_count; i++) {
            free(need(calloc(sizes[i], 1)));
            free(fresh_block(sizes[i], "malloc after an untouched calloc"));
        }
    }
}

/* What C promises, and no service is needed for. */
static void unpatterned(void) {
    static unsigned char *blocks[MAX_SIZES];
    uint64_t state = 13;
    choose_sizes();
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < size_count; i++) {
            blocks[i] = need(calloc(sizes[i], 1));
            EXPECT_BYTES(blocks[i], sizes[i], 0, "calloc");
            scribble(blocks[i], sizes[i], &state);
        }
        for (size_t i = 0; i < size_count; i++) {
            unsigned char byte = blocks[i][0];
            size_t size = sizes[i] * 2 / (1 + random_next(&state) % 4) + 1;
            blocks[i] = need(realloc(blocks[i], size));
            EXPECT_BYTES(blocks[i], size < sizes[i] ? size : sizes[i], byte, "the old part after realloc");
            free(blocks[i]);
        }
    }
}

/* One block under realloc, with a shadow of every byte. */
struct shadowed {
    unsigned char *block;
    unsigned char *shadow;
    size_t size;
};

static void resize(struct shadowed *it, size_t size, uint64_t *state) {
    it->block = need(realloc(it->block, size));
    if (size > it->size)
        copy_pattern(it->shadow + it->size, it->block + it->size, size - it->size);
    it->size = size;
    if (memcmp(it->block, it->shadow, size) != 0)
        for (size_t i = 0; i < size; i++)
            if (it->block[i] != it->shadow[i])
                FAIL("after realloc to %zu, byte %zu is 0x%02x, not 0x%02x", size, i, it->block[i], it->shadow[i]);
    EXPECT_PATTERN(it->block + size, malloc_usable_size(it->block) - size, "the tail after realloc");
    /* A few ranges written, the rest left as it is. */
    for (int i = 0; i < 3; i++) {
        size_t from = random_next(state) % size, length = random_next(state) % (size - from) / 2 + 1;
        unsigned char byte = (unsigned char)random_next(state);
        memset(it->block + from, byte, length);
        memset(it->shadow + from, byte, length);
    }
}

static void resized(void) {
    const size_t most = 12 * MIB;
    uint64_t state = 4711;
    struct shadowed it = {NULL, need(calloc(1, most)), 0};
    /* Growth by half, as vectors and string builders do it. */
    for (size_t size = 1; size < most; size += size / 2 + 1)
        resize(&it, size, &state);
    /* Shrink, then grow over the cut: the part that comes back reads as pattern. */
    for (size_t size = 8 * MIB; size > 16; size = size * 3 / 4) {
        resize(&it, size, &state);
        resize(&it, size / 2, &state);
        resize(&it, size, &state);
        resize(&it, size - 1, &state);
        resize(&it, size, &state);
    }
    /* To and fro between small and large, with another block in the way now and then. */
    for (int round = 0; round < 600; round++) {
        unsigned shift = random_next(&state) % 23;
        size_t size = 1 + random_next(&state) % (1ul << shift);
        void *in_the_way = round % 4 == 0 ? need(malloc(size)) : NULL;
        resize(&it, size, &state);
        free(in_the_way);
    }
    free(it.block);
    free(it.shadow);
}

static void many_resized(void) {
    enum { COUNT = 64 };
    struct shadowed all[COUNT];
    uint64_t state = 31;
    for (int i = 0; i < COUNT; i++)
        all[i] = (struct shadowed){NULL, need(malloc(256 * KIB)), 0};
    for (int round = 0; round < 4000; round++) {
        struct shadowed *it = &all[random_next(&state) % COUNT];
        if (it->size && random_next(&state) % 16 == 0) {
            free(it->block);
            it->block = NULL;
            it->size = 0;
        }
        resize(it, 1 + random_next(&state) % (1ul << (random_next(&state) % 19)), &state);
    }
    for (int i = 0; i < COUNT; i++) {
        free(all[i].block);
        free(all[i].shadow);
    }
}

static void resized_calloc(void) {
    uint64_t state = 5;
    size_t some[] = {16, 100, 5000, 70000, MIB, 5 * MIB + 123};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (int round = 0; round < 8; round++) {
            size_t size = some[i], longer = size * 3;
            unsigned char *block = realloc(need(calloc(1, size)), longer);
            EXPECT_BYTES(need(block), size, 0, "the old part of a calloc block");
            /* What follows is the pattern, except that the slack of calloc's own block may be zero. */
            size_t from = size;
            while (from < longer && block[from] == 0)
                from++;
            CHECK(from - size <= size / 4 + 4096);
            EXPECT_PATTERN(block + from, longer - from, "the new part of a calloc block");
            scribble(block, longer, &state);
            free(block);
        }
}

static void check_aligned(void *block, size_t align, size_t size, uint64_t *state) {
    CHECK((uintptr_t)need(block) % align == 0);
    CHECK(malloc_usable_size(block) >= size);
    EXPECT_PATTERN(block, malloc_usable_size(block), "an aligned block");
    scribble(block, size, state);
    free(block);
}

static void aligned(void) {
    uint64_t state = 77;
    size_t some[] = {1, 16, 100, 4096, 5000, 65536, 100000, MIB + 1};
    for (int round = 0; round < 3; round++)
        for (size_t align = sizeof(void *); align <= 64 * MIB; align *= 2)
            for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
                size_t size = some[i];
                void *block = NULL, *kept = NULL;
                CHECK(posix_memalign(&block, align, size) == 0);
                CHECK(posix_memalign(&kept, align, size) == 0);
                check_aligned(block, align, size, &state);
                check_aligned(aligned_alloc(align, size), align, size, &state);
                check_aligned(memalign(align, size), align, size, &state);
                check_aligned(kept, align, size, &state);
            }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    check_aligned(valloc(100), page, 100, &state);
    check_aligned(pvalloc(100), page, page, &state);
}

static void aligned_then_resized(void) {
    uint64_t state = 1234;
    for (size_t align = 32; align <= MIB; align *= 4) {
        unsigned char *block = need(memalign(align, 3000));
        scribble(block, 3000, &state);
        unsigned char byte = block[0];
        for (size_t size = 6000; size <= MIB; size *= 3) {
            block = need(realloc(block, size));
            EXPECT_BYTES(block, 3000, byte, "an aligned block's old part");
            EXPECT_PATTERN(block + 3000, size - 3000, "an aligned block's new part");
        }
        free(block);
    }
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"fresh", fresh},
        {"recycled", recycled},
        {"same-block", same_block_again_and_again},
        {"zeroed", zeroed},
        {"unpatterned", unpatterned},
        {"resized", resized},
        {"many-resized", many_resized},
        {"resized-calloc", resized_calloc},
        {"aligned", aligned},
        {"aligned-then-resized", aligned_then_resized},
    };
    return RUN_BEHAVIOUR(behaviours);
}
