/* heaps.h: a heap in every state that a page can be in, and children that look at it. */
#ifndef HEAPS_H
#define HEAPS_H

#include "check.h"

#include <signal.h>
#include <sys/wait.h>

#define BLOCK (4 * MIB)

/* A child that hangs is a failure of its parent. */
__attribute__((unused))
static void in_child(void) {
    signal(SIGALRM, SIG_DFL);
    alarm(60);
}

__attribute__((unused))
static void expect_fine(int status) {
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("a child ended with status 0x%x%s", status,
             WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hung" : "");
}

__attribute__((unused))
static void expect_end(pid_t child) {
    int status;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    expect_fine(status);
}

/* Of any child, also of an adopted one. */
__attribute__((unused))
static void expect_one_end(void) {
    int status;
    CHECK(waitpid(-1, &status, 0) > 0);
    expect_fine(status);
}

/* A heap in every state that a page can be in. */
struct heap {
    unsigned char *present, *absent, *half, *zero, *small;
};

__attribute__((unused))
static void fill(struct heap *heap) {
    uint64_t state = 6;
    unsigned char *recycled[16];
    for (int i = 0; i < 16; i++)
        scribble(recycled[i] = need(malloc(100000 * (i + 1))), 100000 * (i + 1), &state);
    heap->present = memset(need(malloc(BLOCK)), 'p', BLOCK);
    heap->absent = need(malloc(BLOCK));
    heap->half = need(malloc(BLOCK));
    for (size_t at = 0; at < BLOCK; at += 8 * 4096)
        heap->half[at] = 'h';
    heap->zero = need(calloc(1, BLOCK));
    heap->small = memset(need(malloc(64)), 's', 64);
    for (int i = 0; i < 16; i++)
        free(recycled[i]);
}

__attribute__((unused))
static void expect_heap(const struct heap *heap, size_t from, size_t to, const char *who) {
    EXPECT_BYTES(heap->small, 64, 's', who);
    EXPECT_BYTES(heap->present + from, to - from, 'p', who);
    EXPECT_PATTERN(heap->absent + from, to - from, who);
    EXPECT_BYTES(heap->zero + from, to - from, 0, who);
    for (size_t at = from; at < to; at += 8 * 4096) {
        EXPECT_BYTES(heap->half + at, 1, 'h', who);
        EXPECT_PATTERN(heap->half + at + 1, 8 * 4096 - 1, who);
    }
}

__attribute__((unused))
static void overwrite(const struct heap *heap, unsigned char byte, size_t from, size_t to) {
    memset(heap->present + from, byte, to - from);
    memset(heap->absent + from, byte, to - from);
    memset(heap->half + from, byte, to - from);
    memset(heap->zero + from, byte, to - from);
}

__attribute__((unused))
static void expect_overwritten(const struct heap *heap, unsigned char byte, size_t from, size_t to) {
    EXPECT_BYTES(heap->present + from, to - from, byte, "what this process wrote");
    EXPECT_BYTES(heap->absent + from, to - from, byte, "what this process wrote");
    EXPECT_BYTES(heap->half + from, to - from, byte, "what this process wrote");
    EXPECT_BYTES(heap->zero + from, to - from, byte, "what this process wrote");
}

__attribute__((unused))
static void free_heap(struct heap *heap) {
    free(heap->present);
    free(heap->absent);
    free(heap->half);
    free(heap->zero);
    free(heap->small);
}

/* New blocks, recycled ones among them, read as the pattern. */
__attribute__((unused))
static void expect_working_heap(uint64_t seed) {
    unsigned char *blocks[60];
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 60; i++) {
            size_t size = 1 + random_next(&seed) % (i % 6 == 0 ? 2 * MIB : 3000);
            blocks[i] = need(malloc(size));
            EXPECT_PATTERN(blocks[i], size, "malloc after a fork");
            scribble(blocks[i], size, &seed);
        }
        for (size_t i = 0; i < 60; i++)
            free(blocks[i]);
    }
}

#endif
