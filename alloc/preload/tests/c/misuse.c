/* Misuse of free. Each behaviour prints the pointer that it misuses, and must not come back from that. */
#include "check.h"

static char static_bytes[256] __attribute__((aligned(64)));

/* Where the compiler cannot see what it is, and so cannot warn. */
static void *volatile hidden;

/* dprintf, unlike printf, has no buffer to allocate, which could be the freed block again. */
static void misuse(void *pointer) {
    dprintf(1, "%p\n", pointer);
    hidden = pointer;
    free(hidden);
    FAIL("free(%p) came back", pointer);
}

static void freed_twice(size_t size) {
    void *block = need(malloc(size)), *neighbour = need(malloc(size));
    hidden = block;
    free(hidden);
    misuse(block);
    free(neighbour);
}

static void double_free_small(void) {
    freed_twice(100);
}

static void double_free_medium(void) {
    freed_twice(20000);
}

static void double_free_large(void) {
    freed_twice(3 * MIB);
}

/* Other blocks came and went since; a neighbour keeps the span. */
static void double_free_later(void) {
    void *blocks[100], *block = need(malloc(64)), *neighbour = need(malloc(64));
    hidden = block;
    free(hidden);
    for (int i = 0; i < 100; i++)
        blocks[i] = need(malloc(2000));
    for (int i = 0; i < 100; i++)
        free(blocks[i]);
    misuse(block);
    free(neighbour);
}

static void free_of_stack(void) {
    char on_stack[64] __attribute__((aligned(16)));
    misuse(on_stack);
}

static void free_of_static(void) {
    misuse(static_bytes);
}

static void free_of_null_page(void) {
    misuse((void *)64);
}

static void free_inside_small(void) {
    misuse((char *)need(malloc(500)) + 16);
}

static void free_misaligned(void) {
    misuse((char *)need(malloc(500)) + 8);
}

static void free_inside_large(void) {
    misuse((char *)need(malloc(3 * MIB)) + 64 * KIB);
}

static void free_large_misaligned(void) {
    misuse((char *)need(malloc(3 * MIB)) + 8);
}

static void realloc_of_freed(void) {
    void *block = need(malloc(3 * MIB));
    hidden = block;
    free(hidden);
    dprintf(1, "%p\n", block);
    FAIL("realloc came back with %p", realloc(hidden, 4 * MIB));
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"double-free-small", double_free_small},
        {"double-free-medium", double_free_medium},
        {"double-free-large", double_free_large},
        {"double-free-later", double_free_later},
        {"free-of-stack", free_of_stack},
        {"free-of-static", free_of_static},
        {"free-of-null-page", free_of_null_page},
        {"free-inside-small", free_inside_small},
        {"free-misaligned", free_misaligned},
        {"free-inside-large", free_inside_large},
        {"free-large-misaligned", free_large_misaligned},
        {"realloc-of-freed", realloc_of_freed},
    };
    return RUN_BEHAVIOUR(behaviours);
}
