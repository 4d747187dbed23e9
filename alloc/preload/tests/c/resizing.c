/* realloc from every size to every other, and blocks at every alignment. */
#include "check.h"
#include "stamps.h"

static const size_t sizes[] = {
    0,    1,    8,     15,    16,    17,    32,    40,    64,    80,    100,   128,    129,    160,
    200,  256,  320,   448,   512,   700,   1000,  1024,  1025,  1500,  2048,  3000,   4096,   5000,
    7168, 9000, 12288, 16385, 24000, 32768, 40961, 49152, 65535, 65536, 70000, 100000, 131072, 300000,
};

#define SIZES (sizeof sizes / sizeof *sizes)

/* Bytes that tell where they are. */
static void write_line(unsigned char *block, size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        block[i] = (unsigned char)(1 + (i ^ i >> 8) % 97);
}

static void expect_line(const unsigned char *block, size_t length, size_t from, size_t to) {
    for (size_t i = 0; i < length; i++)
        if (block[i] != (unsigned char)(1 + (i ^ i >> 8) % 97))
            FAIL("byte %zu of %zu, which came from a block of %zu to one of %zu, is 0x%02x", i, length, from, to,
                 block[i]);
}

/* The first `old` bytes are those that were written, all that may be used beyond them is fresh. */
static void expect_resized(unsigned char *block, size_t old, size_t from, size_t to) {
    CHECK((uintptr_t)need(block) % 16 == 0);
    size_t usable = malloc_usable_size(block);
    CHECK(usable >= to);
    expect_line(block, old, from, to);
    if (patterned())
        EXPECT_PATTERN(block + old, usable - old, "what a realloc left beyond the old part");
}

static unsigned char *resize(unsigned char *block, size_t from, size_t to) {
    errno = 0;
    unsigned char *other = realloc(block, to);
    CHECK(errno == 0);
    if (to == 0) {
        CHECK(other == NULL);
        other = need(malloc(0));
        from = 0;
    }
    expect_resized(other, from < to ? from : to, from, to);
    return other;
}

static void every_size_to_every_other(void) {
    for (size_t i = 0; i < SIZES; i++)
        for (size_t j = 0; j < SIZES; j++) {
            size_t from = sizes[i], to = sizes[j];
            unsigned char *block = fresh(malloc(from), "a block to be resized");
            write_line(block, 0, from);
            block = resize(block, from, to);
            /* And back, with the new part written, too. */
            write_line(block, 0, to);
            block = resize(block, to, from);
            /* A little less, and again as much: the cut is gone. */
            if (from > 2) {
                write_line(block, 0, from);
                block = resize(block, from, from - from / 3);
                block = resize(block, from - from / 3, from);
            }
            free(block);
            /* With neighbours of both sizes that must not be touched. */
            unsigned char *near[3] = {need(malloc(from)), need(malloc(from)), need(malloc(to))};
            for (int k = 0; k < 3; k++)
                write_line(near[k], 0, k < 2 ? from : to);
            near[1] = resize(near[1], from, to);
            expect_line(near[0], from, from, from);
            expect_line(near[2], to, to, to);
            for (int k = 0; k < 3; k++)
                free(near[k]);
        }
}

/* What calloc gave is zero as far as it was asked for, also where that is less than the block. */
static void calloc_to_every_other(void) {
    for (size_t i = 0; i < SIZES; i++)
        for (size_t j = 1; j < SIZES; j++) {
            unsigned char *block = need(calloc(1, sizes[i]));
            EXPECT_BYTES(block, sizes[i], 0, "calloc");
            block = need(realloc(block, sizes[j]));
            EXPECT_BYTES(block, sizes[i] < sizes[j] ? sizes[i] : sizes[j], 0, "what realloc keeps of calloc's");
            scribble(block, sizes[j], &(uint64_t){i + 1});
            free(block);
        }
}

/* Where the compiler cannot see that it is too much. */
static volatile size_t huge = SIZE_MAX;

/* Of no size, and still each its own block. */
static void no_bytes(void) {
    enum { COUNT = 1000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        switch (i % 6) {
        case 0: blocks[i] = malloc(0); break;
        case 1: blocks[i] = calloc(0, huge); break;
        case 2: blocks[i] = calloc(huge, 0); break;
        case 3: blocks[i] = memalign(256, 0); break;
        case 4: blocks[i] = reallocarray(NULL, huge, 0); break;
        case 5: CHECK(posix_memalign(&blocks[i], 4096, 0) == 0); break;
        }
        fresh(blocks[i], "a block of no bytes");
        /* All that may be used is its own. */
        memset(blocks[i], other_byte((unsigned char)i), malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < COUNT; i++)
        EXPECT_BYTES(blocks[i], malloc_usable_size(blocks[i]), other_byte((unsigned char)i), "a block of no bytes");
    for (int i = 0; i < COUNT; i++) {
        errno = 0;
        if (i % 2)
            free(blocks[i]);
        else
            CHECK(i % 4 ? realloc(blocks[i], 0) == NULL : reallocarray(blocks[i], huge, 0) == NULL);
        CHECK(errno == 0);
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *at_page[] = {need(valloc(0)), need(pvalloc(0))};
    for (int i = 0; i < 2; i++) {
        CHECK((uintptr_t)at_page[i] % page == 0);
        free(at_page[i]);
    }
}

/* Of a large block, both ends: nobody wants to wait for the rest. */
static void expect_ends(unsigned char *block, size_t from, size_t to, const char *what) {
    const size_t some = 70000;
    if (!patterned() || from == to)
        return;
    EXPECT_PATTERN(block + from, to - from < some ? to - from : some, what);
    if (to - from > some)
        EXPECT_PATTERN(block + to - some, some, what);
}

static unsigned char *aligned_block(int how, size_t align, size_t size) {
    void *block = NULL;
    errno = 0;
    if (how == 0)
        block = memalign(align, size);
    else if (how == 1)
        block = aligned_alloc(align, size);
    else
        CHECK(posix_memalign(&block, align, size) == 0);
    if (!block)
        FAIL("no block of %zu bytes at a multiple of %zu: errno %d", size, align, errno);
    CHECK(errno == 0 && (uintptr_t)block % align == 0 && (uintptr_t)block % 16 == 0);
    CHECK(malloc_usable_size(block) >= size);
    expect_ends(block, 0, malloc_usable_size(block), "an aligned block");
    return block;
}

static void aligned_then_resized(void) {
    static const size_t some[] = {0, 1, 24, 100, 4096, 20000, 70000, MIB + 1};
    enum { SOME = sizeof some / sizeof *some };
    for (size_t align = 8; align <= GIB; align *= 2)
        for (int how = 0; how < 3; how++) {
            unsigned char *blocks[SOME];
            /* All at once: none in the place of another. */
            for (int i = 0; i < SOME; i++)
                write_line(blocks[i] = aligned_block(how, align, some[i]), 0, some[i]);
            for (int i = 0; i < SOME; i++) {
                /* On to the next one's size, which keeps no alignment but 16. */
                size_t to = some[(i + 3) % SOME], least = to < some[i] ? to : some[i];
                expect_line(blocks[i], some[i], some[i], some[i]);
                if (to == 0)
                    continue;
                blocks[i] = need(realloc(blocks[i], to));
                CHECK((uintptr_t)blocks[i] % 16 == 0 && malloc_usable_size(blocks[i]) >= to);
                expect_line(blocks[i], least, some[i], to);
                expect_ends(blocks[i], least, malloc_usable_size(blocks[i]), "an aligned block, resized");
            }
            for (int i = 0; i < SOME; i++)
                free(blocks[i]);
        }
    /* A large one at a large alignment, written in places. */
    for (size_t align = 128 * MIB; align <= GIB; align *= 2) {
        unsigned char *block = aligned_block(0, align, 64 * MIB + 1);
        block[0] = block[64 * MIB] = other_byte(1);
        block = need(realloc(block, 80 * MIB));
        CHECK(block[0] == other_byte(1) && block[64 * MIB] == other_byte(1));
        expect_ends(block, 64 * MIB + 1, 80 * MIB, "a large aligned block, resized");
        free(block);
    }
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"every-size", every_size_to_every_other},
        {"calloc", calloc_to_every_other},
        {"no-bytes", no_bytes},
        {"aligned", aligned_then_resized},
    };
    return RUN_BEHAVIOUR(behaviours);
}
