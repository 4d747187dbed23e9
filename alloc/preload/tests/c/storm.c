/* Forks without end, among threads that allocate and fault: `storm forks 100000` by hand, and `storm closing 100000`,
 * which closes every descriptor in between. At the end, how many forks there were and how many bytes were looked at. */
#include "check.h"
#include "heaps.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { THREADS = 4, BLOCKS = 24 };

/* Shared with all children. */
static struct {
    atomic_ulong forks, bytes;
} *tally;

static atomic_int stop;
static atomic_ulong steps[THREADS];
static int closing;

static void close_all(void) {
    if (closing && syscall(SYS_close_range, 3, ~0u, 0) != 0)
        CHECK(errno == ENOSYS);
}

static void expect_fresh(const unsigned char *block, size_t length, const char *who) {
    EXPECT_PATTERN(block, length, who);
    tally->bytes += length;
}

static void expect_filled(const unsigned char *block, size_t length, unsigned char byte, const char *who) {
    EXPECT_BYTES(block, length, byte, who);
    tally->bytes += length;
}

/* Blocks of all kinds: fresh and recycled, touched as a whole, in one place, and grown. */
static void *allocate_and_fault(void *which) {
    const size_t thread = (uintptr_t)which;
    uint64_t state = thread * 7 + 1;
    unsigned char *blocks[BLOCKS] = {NULL};
    size_t sizes[BLOCKS] = {0};
    for (; !stop; steps[thread]++) {
        size_t i = random_next(&state) % BLOCKS, old = sizes[i];
        if (old)
            expect_filled(blocks[i], old, (unsigned char)('a' + thread), "a thread's block");
        if (old && random_next(&state) % 4 == 0) {
            sizes[i] = 1 + random_next(&state) % (2 * old);
            blocks[i] = need(realloc(blocks[i], sizes[i]));
            if (sizes[i] > old)
                expect_fresh(blocks[i] + old, sizes[i] - old, "what a realloc added");
        } else {
            free(blocks[i]);
            sizes[i] = 1 + random_next(&state) % (i % 3 == 0 ? 600000 : 5000);
            blocks[i] = need(malloc(sizes[i]));
            size_t at = random_next(&state) % sizes[i];
            expect_fresh(blocks[i] + at, sizes[i] - at, "a thread's fresh block");
        }
        memset(blocks[i], (unsigned char)('a' + thread), sizes[i]);
    }
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    return NULL;
}

struct mine {
    unsigned char *present, *absent, *half, *recycled;
};

enum { SIZE = 512 * 1024, HALF = SIZE / 2 };

static void expect_mine(const struct mine *mine, size_t from, size_t to, const char *who) {
    expect_filled(mine->present + from, to - from, 'p', who);
    expect_fresh(mine->absent + from, to - from, who);
    expect_fresh(mine->recycled + from, to - from, who);
    for (size_t at = from; at < to; at += 65536) {
        expect_filled(mine->half + at, 1, 'h', who);
        expect_fresh(mine->half + at + 1, 65535, who);
    }
}

static void overwrite_mine(const struct mine *mine) {
    memset(mine->present, 'w', HALF);
    memset(mine->absent, 'w', HALF);
    memset(mine->recycled, 'w', HALF);
    memset(mine->half, 'w', HALF);
}

static void expect_overwritten_mine(const struct mine *mine, const char *who) {
    expect_filled(mine->present, HALF, 'w', who);
    expect_filled(mine->absent, HALF, 'w', who);
    expect_filled(mine->recycled, HALF, 'w', who);
    expect_filled(mine->half, HALF, 'w', who);
}

static struct mine prepare(void) {
    struct mine mine;
    free(memset(need(malloc(SIZE)), 'f', SIZE));
    mine.recycled = need(malloc(SIZE));
    mine.present = memset(need(malloc(SIZE)), 'p', SIZE);
    mine.absent = need(malloc(SIZE));
    mine.half = need(malloc(SIZE));
    for (size_t at = 0; at < SIZE; at += 65536)
        mine.half[at] = 'h';
    return mine;
}

static void release(struct mine *mine) {
    free(mine->present);
    free(mine->absent);
    free(mine->half);
    free(mine->recycled);
}

static void one_fork(unsigned long round) {
    struct mine mine = prepare();
    close_all();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        in_child();
        if (round % 2)
            close_all();
        /* One in four is as soon as the parent, the others after it. */
        expect_mine(&mine, 0, round % 4 ? HALF : SIZE, "a child's heap");
        overwrite_mine(&mine);
        expect_overwritten_mine(&mine, "what a child wrote");
        if (round % 16 == 0) {
            pid_t grandchild = fork();
            if (grandchild == 0) {
                in_child();
                expect_overwritten_mine(&mine, "what a grandchild's parent wrote");
                expect_mine(&mine, HALF, SIZE, "a grandchild's heap");
                tally->forks++;
                _exit(0);
            }
            expect_end(grandchild);
        }
        release(&mine);
        mine = prepare();
        expect_mine(&mine, 0, HALF, "a child's own blocks");
        tally->forks++;
        _exit(0);
    }
    if (round % 3) {
        overwrite_mine(&mine);
        expect_end(child);
        expect_overwritten_mine(&mine, "what the parent wrote");
    } else {
        expect_end(child);
        expect_mine(&mine, 0, HALF, "the parent's heap");
    }
    expect_mine(&mine, HALF, SIZE, "the parent's heap");
    release(&mine);
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    const unsigned long forks = argc > 2 ? strtoul(argv[2], NULL, 10) : 200;
    closing = strcmp(argv[1], "closing") == 0;
    CHECK(closing || strcmp(argv[1], "forks") == 0);
    tally = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(tally != MAP_FAILED);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, allocate_and_fault, (void *)i) == 0);
    for (unsigned long round = 0; round < forks; round++)
        one_fork(round);
    /* Each of them has come on. */
    for (int i = 0; i < THREADS; i++)
        for (unsigned long before = steps[i]; steps[i] == before;)
            sched_yield();
    stop = 1;
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(tally->forks == forks + (forks + 15) / 16);
    printf("%lu forks, %lu bytes as they should be\n", tally->forks, tally->bytes);
    return 0;
}
