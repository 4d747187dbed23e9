/* profile.c: programs whose allocations, and what is written to them, are known to the page. */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>

enum { BLOCKS = 50, FEW = 10, THREADS = 4, ROUNDS = 25, SMALL = 1000 };

static size_t page(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Writes one byte to each of `count` pages, every `step`th, at `offset` in them. */
static void write_pages(char *block, size_t count, size_t step, size_t offset) {
    for (size_t i = 0; i < count; i++)
        block[i * step * page() + offset] = (char)other_byte(1);
}

static char *blocks[BLOCKS];

static void allocate(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++)
        blocks[i] = need(malloc(size));
}

static void free_all(size_t count) {
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
}

/* The first tenth of each block, all of them at once. */
static void prefix(void) {
    allocate(BLOCKS, MIB);
    for (size_t i = 0; i < BLOCKS; i++)
        write_pages(blocks[i], MIB / page() / 10, 1, 0);
    free_all(BLOCKS);
}

/* Every fourth page, at its last byte. */
static void scattered(void) {
    allocate(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], MIB / page() / 4, 4, page() - 1);
    free_all(FEW);
}

/* Nothing of one size, all of another; what is written with the content itself is not told from what is not. */
static void nothing_and_all(void) {
    allocate(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        copy_pattern(blocks[i], blocks[i], 3 * page());
    free_all(FEW);
    allocate(FEW, 2 * MIB);
    for (size_t i = 0; i < FEW; i++)
        memset(blocks[i], other_byte(1), 2 * MIB);
    free_all(FEW);
}

/* Five pages of each calloc, the last one with zeros; and of a small one. */
static void callocs(void) {
    for (size_t i = 0; i < FEW; i++) {
        blocks[i] = need(calloc(2, MIB));
        write_pages(blocks[i], 5, 3, 7);
        memset(blocks[i] + 2 * MIB - page(), 0, page());
    }
    free_all(FEW);
    free(need(calloc(1, 5000)));
}

static void resize(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++)
        blocks[i] = need(realloc(blocks[i], size));
}

static void grown(void) {
    allocate(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], MIB / page(), 1, 0);
    resize(FEW, 4 * MIB);
    free_all(FEW);
}

/* Half is written, and of that a quarter of the whole is left. */
static void shrunk(void) {
    allocate(FEW, 4 * MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], 2 * MIB / page(), 1, 0);
    resize(FEW, MIB);
    free_all(FEW);
}

static void grown_callocs(void) {
    for (size_t i = 0; i < FEW; i++) {
        blocks[i] = need(calloc(1, MIB));
        write_pages(blocks[i], 3, 1, 0);
    }
    resize(FEW, 4 * MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i] + 2 * MIB, 2, 1, 0);
    free_all(FEW);
}

/* From a small block to a large one, and back. */
static void crossed(void) {
    for (size_t i = 0; i < FEW; i++)
        blocks[i] = need(malloc(5000));
    resize(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], 2, 1, 0);
    resize(FEW, 5000);
    free_all(FEW);
}

static void live(void) {
    allocate(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], 7, 2, 0);
    blocks[0] = need(calloc(1, 2 * MIB));
    write_pages(blocks[0], 9, 1, 0);
}

/* The same memory again and again, less of it each time. */
static void recycled(void) {
    for (size_t i = 0; i < FEW; i++) {
        char *block = need(malloc(MIB));
        write_pages(block, i == 0 ? MIB / page() : 1, 1, 0);
        free(block);
    }
}

static void *work(void *unused) {
    for (size_t i = 0; i < ROUNDS; i++) {
        char *block = need(malloc(MIB));
        write_pages(block, 3, 1, 0);
        free(block);
    }
    for (size_t i = 0; i < SMALL; i++) {
        char *block = need(malloc(5000));
        *block = 1;
        free(block);
    }
    return unused;
}

static void threads(void) {
    pthread_t all[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&all[i], NULL, work, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(all[i], NULL) == 0);
}

/* The child's own blocks are twice as long; it frees the parent's, and leaves one of its own. */
static void child(void) {
    allocate(FEW, MIB);
    for (size_t i = 0; i < FEW; i++)
        write_pages(blocks[i], 7, 1, 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        blocks[1] = need(realloc(blocks[1], 8 * MIB));
        free_all(FEW);
        allocate(3, 2 * MIB);
        for (size_t i = 0; i < 3; i++)
            write_pages(blocks[i], 2, 1, 0);
        free_all(2);
        exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    free_all(FEW);
    printf("%d %d\n", (int)getpid(), (int)pid);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"prefix", prefix},       {"scattered", scattered}, {"nothing-and-all", nothing_and_all},
        {"callocs", callocs},     {"grown", grown},         {"shrunk", shrunk},
        {"grown-callocs", grown_callocs}, {"crossed", crossed}, {"live", live},
        {"recycled", recycled},   {"threads", threads},     {"child", child},
    };
    return RUN_BEHAVIOUR(behaviours);
}
