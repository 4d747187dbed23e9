/* stamps.h: small blocks that say whose they are, and how much memory a process has. */
#ifndef STAMPS_H
#define STAMPS_H

#include "check.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* Whether malloc's memory holds the pattern: what runs without it says so. */
__attribute__((unused))
static int patterned(void) {
    static int known;
    if (!known)
        known = getenv("TEST_UNPATTERNED") ? 1 : 2;
    return known == 2;
}

__attribute__((unused))
static void *fresh(void *block, const char *what) {
    CHECK((uintptr_t)need(block) % 16 == 0);
    if (patterned())
        EXPECT_PATTERN(block, malloc_usable_size(block), what);
    return block;
}

/* The least stamped block is a header, whose bytes go with its id. The rest is one byte, which does so too. */
struct stamped {
    uint64_t id;
    uint32_t size;
    uint32_t check;
    unsigned char bytes[];
};

__attribute__((unused))
static uint32_t stamp_check(uint64_t id, const void *address, uint32_t size) {
    return (uint32_t)((id ^ (uintptr_t)address ^ size) * 0x9e3779b97f4a7c15ull >> 32);
}

/* Writes every byte of a block of `size` bytes. */
__attribute__((unused))
static struct stamped *stamp(void *fresh, size_t size, uint64_t id) {
    struct stamped *block = fresh;
    CHECK(size >= sizeof *block);
    *block = (struct stamped){id, (uint32_t)size, stamp_check(id, block, (uint32_t)size)};
    memset(block->bytes, (int)(id * 31 + 7), size - sizeof *block);
    return block;
}

__attribute__((unused))
static void expect_stamp(const struct stamped *block, const char *what) {
    if (block->check != stamp_check(block->id, block, block->size))
        FAIL("%s: the stamp at %p is broken: id %#llx, size %u", what, (const void *)block,
             (unsigned long long)block->id, block->size);
    EXPECT_BYTES(block->bytes, block->size - sizeof *block, (unsigned char)(block->id * 31 + 7), what);
}

__attribute__((unused))
static struct stamped *make_stamped(size_t size, uint64_t id) {
    return stamp(fresh(malloc(size), "a block to be stamped"), size, id);
}

__attribute__((unused))
static void free_stamped(struct stamped *block, const char *what) {
    expect_stamp(block, what);
    /* A second one to free it is to find no stamp. */
    block->check++;
    free(block);
}

/* A size below 2^most, as likely from any power of two on. */
__attribute__((unused))
static size_t stamped_size(uint64_t *state, unsigned most) {
    size_t power = 1ul << (4 + random_next(state) % (most - 4));
    return power + random_next(state) % power;
}

/* Memory that is not the heap's, and all there from the start. */
__attribute__((unused))
static void *aside(size_t length) {
    void *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        FAIL("no memory for the test itself: errno %d", errno);
    return memset(start, 0, length);
}

/* Bytes that a file of /proc gives in KiB behind a name. Nothing is allocated. */
__attribute__((unused))
static size_t proc_bytes(const char *path, const char *name) {
    static char text[8192];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        /* What has no figures cannot be tested. */
        printf("skipped: there is no %s\n", path);
        exit(0);
    }
    size_t length = 0;
    for (ssize_t got; (got = read(file, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    close(file);
    text[length] = 0;
    const char *found = strstr(text, name);
    if (!found)
        FAIL("no %s in %s", name, path);
    return strtoul(found + strlen(name), NULL, 10) * KIB;
}

/* What this process has of the machine's memory. */
__attribute__((unused))
static size_t rss(void) {
    return proc_bytes("/proc/self/smaps_rollup", "\nRss:");
}

__attribute__((unused))
static size_t peak_rss(void) {
    return proc_bytes("/proc/self/status", "\nVmHWM:");
}

/* `bytes`, or less where the machine has not four times as much. */
__attribute__((unused))
static size_t affordable(size_t bytes) {
    size_t available = proc_bytes("/proc/meminfo", "\nMemAvailable:") / 4;
    if (available >= bytes)
        return bytes;
    printf("skipped: %zu MiB of blocks, there is memory for %zu\n", bytes / MIB, available / MIB);
    return available;
}

__attribute__((unused))
static void figure(const char *what, size_t bytes) {
    printf("figure: %-40s %8.1f MiB\n", what, (double)bytes / MIB);
}

#define EXPECT_AT_MOST(bytes, most) expect_at_most(__FILE__, __LINE__, #bytes, bytes, most)

__attribute__((unused))
static void expect_at_most(const char *file, int line, const char *what, size_t bytes, size_t most) {
    if (bytes > most) {
        fflush(stdout);
        fail_at(file, line, "%s is %.1f MiB, not at most %.1f", what, (double)bytes / MIB, (double)most / MIB);
    }
}

#endif
