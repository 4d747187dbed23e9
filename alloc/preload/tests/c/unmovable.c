/* Pages that the kernel will not move, or that are not in memory: pinned, merged, swapped out, on their way. Whatever
 * becomes of them, each byte is what it has to be. */
#include "check.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* Headers older than Linux 6.4 do not have it. */
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

#define BLOCK (3 * MIB)

static size_t page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

__attribute__((noreturn, format(printf, 1, 2)))
static void skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vdprintf(1, format, arguments);
    va_end(arguments);
    dprintf(1, "\n");
    _exit(0);
}

/* The whole pages of a block. */
static unsigned char *first_page(unsigned char *block) {
    return block + (page_size() - (uintptr_t)block % page_size()) % page_size();
}

static size_t whole_pages(unsigned char *block, size_t size) {
    return (size - (size_t)(first_page(block) - block)) / page_size() * page_size();
}

/* What this process has read back from swap so far. */
static long read_back(void) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_majflt;
}

static size_t swapped_kib(void) {
    char line[256];
    size_t kib = SIZE_MAX;
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status);
    while (fgets(line, sizeof line, status))
        sscanf(line, "VmSwap: %zu kB", &kib);
    fclose(status);
    CHECK(kib != SIZE_MAX);
    return kib;
}

/* Has the kernel swap a block's pages out, which may take a while: it goes round pages that somebody holds on to for a
 * moment. Most must go. */
static void swap_out(unsigned char *block, size_t size) {
    size_t before = swapped_kib(), length = whole_pages(block, size);
    for (int tries = 0; tries < 100; tries++) {
        CHECK(madvise(first_page(block), length, MADV_PAGEOUT) == 0);
        if (swapped_kib() - before >= length / KIB * 9 / 10)
            return;
        usleep(10000);
    }
    FAIL("of %zu KiB, %zu are swapped out", length / KIB, swapped_kib() - before);
}

/* A block that has been in use for long enough to be worth a question. */
static unsigned char *swapped_block(size_t size, unsigned char byte) {
    unsigned char *block = need(malloc(size));
    memset(block, byte, size);
    swap_out(block, size);
    usleep(250000);
    return block;
}

/* What is freed is not read back only to be overwritten; nor what waits to be used again. */
static void swapped_and_freed(void) {
    unsigned char *block = swapped_block(BLOCK, other_byte('s'));
    long before = read_back();
    free(block);
    long read = read_back() - before;
    if (read > 16)
        FAIL("to free %zu swapped pages, %ld were read back", BLOCK / page_size(), read);
    unsigned char *again = need(malloc(BLOCK));
    EXPECT_PATTERN(again, BLOCK, "a block that was swapped out when it was freed");
    memset(again, 'x', BLOCK);
    free(again);
    /* What waits is the program's no more: to see to it that it is out takes an address from before. */
    swap_out(again, BLOCK);
    usleep(250000);
    before = read_back();
    unsigned char *third = need(malloc(BLOCK));
    EXPECT_PATTERN(third, BLOCK, "a block that was swapped out while it was free");
    read = read_back() - before;
    if (read > 16)
        FAIL("to use %zu swapped pages again, %ld were read back", BLOCK / page_size(), read);
    free(third);
}

/* Longer, elsewhere: the pages that are out come along. */
static void swapped_and_moved(void) {
    unsigned char byte = other_byte('m');
    for (int round = 0; round < 3; round++) {
        unsigned char *block = swapped_block(BLOCK, byte), *next = need(malloc(BLOCK));
        next[0] = block[0];
        unsigned char *longer = need(realloc(block, 4 * BLOCK));
        EXPECT_BYTES(longer, BLOCK, byte, "a block that was swapped out when it was moved");
        EXPECT_PATTERN(longer + BLOCK, 3 * BLOCK, "the new part of a swapped block");
        swap_out(longer, BLOCK);
        unsigned char *shorter = need(realloc(longer, BLOCK / 2));
        EXPECT_BYTES(shorter, BLOCK / 2, byte, "a block that was swapped out when it shrank");
        shorter = need(realloc(shorter, BLOCK));
        EXPECT_PATTERN(shorter + BLOCK / 2, BLOCK / 2, "what a swapped block gave up");
        free(shorter);
        free(next);
    }
}

static void swapped_calloc(void) {
    for (int round = 0; round < 3; round++) {
        unsigned char *block = need(calloc(1, BLOCK));
        memset(block, other_byte('c'), BLOCK);
        swap_out(block, BLOCK);
        usleep(250000);
        free(block);
        block = need(calloc(1, BLOCK));
        EXPECT_BYTES(block, BLOCK, 0, "calloc of what was swapped out");
        free(block);
        block = need(malloc(BLOCK));
        EXPECT_PATTERN(block, BLOCK, "malloc of what was swapped out");
        memset(block, 'x', BLOCK);
        free(block);
    }
}

/* Both sides have the swapped pages, and neither the other's. */
static void swapped_and_forked(void) {
    unsigned char mine = other_byte('p'), other = other_byte('q');
    unsigned char *block = swapped_block(BLOCK, mine);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT_BYTES(block, BLOCK / 2, mine, "in a child, what was swapped out");
        memset(block, other, BLOCK);
        block = need(realloc(block, 2 * BLOCK));
        EXPECT_BYTES(block, BLOCK, other, "in a child, what grew");
        EXPECT_PATTERN(block + BLOCK, BLOCK, "in a child, the new part");
        free(block);
        EXPECT_PATTERN(need(malloc(BLOCK)), BLOCK, "in a child, what was used again");
        _exit(0);
    }
    unsigned char *longer = need(realloc(block, 2 * BLOCK));
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    EXPECT_BYTES(longer, BLOCK, mine, "in a parent, what was swapped out");
    EXPECT_PATTERN(longer + BLOCK, BLOCK, "in a parent, the new part");
    free(longer);
}

/* A registered buffer: io_uring holds on to its pages until it is told to let go. */
static int ring_with(void *start, size_t length, struct io_uring_params *parameters) {
    memset(parameters, 0, sizeof *parameters);
    int ring = (int)syscall(SYS_io_uring_setup, 4, parameters);
    if (ring < 0)
        skip("no io_uring: %s", strerror(errno));
    struct iovec buffer = {start, length};
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) != 0)
        skip("io_uring registers no buffer of %zu bytes: %s", length, strerror(errno));
    return ring;
}

/* Has the kernel write to the beginning of the registered pages, wherever they are by now: from /dev/zero, which gives
 * less than was asked for when the ring has other news for the process. */
static void write_zeros(int ring, const struct io_uring_params *parameters, unsigned char *to, unsigned length) {
    CHECK(parameters->features & IORING_FEAT_SINGLE_MMAP);
    size_t submitted = parameters->sq_off.array + parameters->sq_entries * sizeof(unsigned);
    size_t completed = parameters->cq_off.cqes + parameters->cq_entries * sizeof(struct io_uring_cqe);
    size_t size = submitted > completed ? submitted : completed;
    unsigned char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, parameters->sq_entries * sizeof *entries, PROT_READ | PROT_WRITE,
                                        MAP_SHARED, ring, IORING_OFF_SQES);
    CHECK(rings != MAP_FAILED && entries != MAP_FAILED);
    unsigned *head = (unsigned *)(void *)(rings + parameters->cq_off.head);
    const struct io_uring_cqe *results = (void *)(rings + parameters->cq_off.cqes);
    int zeros = open("/dev/zero", O_RDONLY);
    CHECK(zeros >= 0);
    for (unsigned done = 0; done < length;) {
        entries[0] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED, .fd = zeros, .addr = (uintptr_t)(to + done),
                                           .len = length - done, .buf_index = 0};
        /* Each place of the queue says that it is the first entry. */
        memset(rings + parameters->sq_off.array, 0, parameters->sq_entries * sizeof(unsigned));
        __atomic_add_fetch((unsigned *)(void *)(rings + parameters->sq_off.tail), 1, __ATOMIC_RELEASE);
        CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
        int result = results[*head % parameters->cq_entries].res;
        CHECK(result > 0);
        done += (unsigned)result;
        __atomic_add_fetch(head, 1, __ATOMIC_RELEASE);
    }
    close(zeros);
    munmap(entries, parameters->sq_entries * sizeof *entries);
    munmap(rings, size);
}

/* The kernel writes to a live block through its registered buffer, and all else of the block stays the pattern. */
static void pinned_and_used(void) {
    for (int round = 0; round < 4; round++) {
        unsigned char *block = need(malloc(BLOCK));
        struct io_uring_params parameters;
        unsigned char *start = first_page(block);
        int ring = ring_with(start, MIB, &parameters);
        EXPECT_PATTERN(block, BLOCK, "a block that was registered untouched");
        write_zeros(ring, &parameters, start, 100000);
        EXPECT_BYTES(start, 100000, 0, "what the kernel wrote to registered memory");
        EXPECT_PATTERN(start + 100000, BLOCK - 100000 - (size_t)(start - block), "behind what the kernel wrote");
        close(ring);
        free(block);
    }
}

/* Freed, used again, resized, given up, while its pages are pinned: its owners' bytes are theirs. */
static void pinned_and_freed(void) {
    uint64_t state = 11;
    for (int round = 0; round < 8; round++) {
        unsigned char *block = need(malloc(BLOCK));
        scribble(block, BLOCK, &state);
        struct io_uring_params parameters;
        int ring = ring_with(first_page(block), MIB, &parameters);
        free(block);
        if (round % 2)
            malloc_trim(0);
        unsigned char *again = need(malloc(BLOCK)), *zeroed = need(calloc(1, BLOCK));
        EXPECT_PATTERN(again, BLOCK, "a block that was pinned when it was freed");
        EXPECT_BYTES(zeroed, BLOCK, 0, "calloc beside pinned pages");
        scribble(zeroed, BLOCK, &state);
        free(zeroed);
        memset(again, 'x', BLOCK);
        int another = ring_with(first_page(again) + MIB, MIB, &parameters);
        again = need(realloc(again, 4 * BLOCK));
        EXPECT_BYTES(again, BLOCK, 'x', "a pinned block that was moved");
        EXPECT_PATTERN(again + BLOCK, 3 * BLOCK, "the new part of a pinned block");
        again = need(realloc(again, BLOCK));
        free(again);
        close(ring);
        close(another);
    }
}

/* A ring that is still at work on memory that the program has freed is the program's fault; but whoever is elsewhere
 * does not feel it: pinned pages go to no other address. */
static void pinned_and_written(void) {
    enum { OTHERS = 40 };
    unsigned char *others[OTHERS];
    uint64_t state = 17;
    for (int round = 0; round < 6; round++) {
        unsigned char *block = need(malloc(BLOCK));
        scribble(block, BLOCK, &state);
        struct io_uring_params parameters;
        unsigned char *start = first_page(block);
        int ring = ring_with(start, MIB, &parameters);
        if (round % 2)
            /* Shorter: what is behind the cut goes to the pool, as far as it can be moved. */
            block = need(realloc(block, BLOCK / 2 - page_size()));
        uintptr_t from = (uintptr_t)block, end = from + BLOCK;
        free(block);
        malloc_trim(0);
        for (int i = 0; i < OTHERS; i++) {
            others[i] = need(malloc(200 * KIB));
            EXPECT_PATTERN(others[i], 200 * KIB, "beside a pinned block that was freed");
        }
        write_zeros(ring, &parameters, start, MIB);
        for (int i = 0; i < OTHERS; i++) {
            uintptr_t other = (uintptr_t)others[i];
            if (other + 200 * KIB <= from || other >= end)
                EXPECT_PATTERN(others[i], 200 * KIB, "elsewhere, after the kernel wrote to pinned pages");
            free(others[i]);
        }
        close(ring);
        malloc_trim(0);
    }
}

static unsigned long number_in(const char *path) {
    unsigned long number = 0;
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%lu", &number) != 1)
            number = 0;
        fclose(file);
    }
    return number;
}

/* How much of this process is merged with pages like it. */
static unsigned long merged_pages(void) {
    return number_in("/proc/self/ksm_merging_pages");
}

/* Blocks whose pages are all alike, until some are one: then each gets what is its own. */
static void merged(void) {
    enum { COUNT = 6 };
    unsigned char *blocks[COUNT], byte = other_byte('k');
    bool all = prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0;
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = need(malloc(BLOCK));
        memset(blocks[i], byte, BLOCK / 2);
        EXPECT_PATTERN(blocks[i] + BLOCK / 2, BLOCK / 2, "before it is merged");
        if (!all && madvise(first_page(blocks[i]), whole_pages(blocks[i], BLOCK), MADV_MERGEABLE) != 0)
            skip("nothing can be merged: %s", strerror(errno));
    }
    for (int tries = 0; merged_pages() < 1000; tries++) {
        if (tries == 600)
            skip("the kernel has merged %lu pages in a minute", merged_pages());
        usleep(100000);
    }
    /* Read, written, grown elsewhere, freed and used again. */
    for (int i = 0; i < COUNT; i++) {
        EXPECT_BYTES(blocks[i], BLOCK / 2, byte, "merged");
        EXPECT_PATTERN(blocks[i] + BLOCK / 2, BLOCK / 2, "merged pattern");
        blocks[i][page_size() * 3] = 'x';
        unsigned char *longer = need(realloc(blocks[i], 3 * BLOCK));
        CHECK(longer[page_size() * 3] == 'x');
        longer[page_size() * 3] = byte;
        EXPECT_BYTES(longer, BLOCK / 2, byte, "a merged block that was moved");
        EXPECT_PATTERN(longer + BLOCK / 2, 3 * BLOCK - BLOCK / 2, "the rest of a merged block that was moved");
        free(longer);
        if (i % 2)
            malloc_trim(0);
        blocks[i] = need(i % 3 ? malloc(BLOCK) : calloc(1, BLOCK));
        if (i % 3)
            EXPECT_PATTERN(blocks[i], BLOCK, "a merged block, used again");
        else
            EXPECT_BYTES(blocks[i], BLOCK, 0, "a merged block, zeroed");
    }
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
}

/* Blocks of many sizes come, grow and go. */
static void *churn(void *seed) {
    uint64_t state = 1 + (uintptr_t)seed;
    for (int round = 0; round < 150; round++) {
        size_t size = 70000 + random_next(&state) % BLOCK, more = size + size / 2;
        unsigned char *block = need(malloc(size)), *zeroed = need(calloc(1, size));
        EXPECT_PATTERN(block, size, "malloc");
        EXPECT_BYTES(zeroed, size, 0, "calloc");
        memset(block, 'c', size);
        scribble(zeroed, size / 2, &state);
        free(zeroed);
        block = need(realloc(block, more));
        EXPECT_BYTES(block, size, 'c', "the old part of a block that grew");
        EXPECT_PATTERN(block + size, more - size, "the new part of a block that grew");
        free(block);
    }
    return NULL;
}

static volatile bool over;

static void churn_beside(void *(*disturb)(void *)) {
    pthread_t threads[2], disturber;
    CHECK(pthread_create(&disturber, NULL, disturb, NULL) == 0);
    for (uintptr_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, churn, (void *)i) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    over = true;
    CHECK(pthread_join(disturber, NULL) == 0);
}

/* Every page of the machine that can be moved may be. */
static void *compact(void *unused) {
    int file = open("/proc/sys/vm/compact_memory", O_WRONLY);
    CHECK(file >= 0);
    do
        CHECK(write(file, "1", 1) == 1);
    while (!over);
    close(file);
    return unused;
}

static void compacted(void) {
    if (access("/proc/sys/vm/compact_memory", W_OK) != 0)
        skip("memory cannot be compacted: %s", strerror(errno));
    churn_beside(compact);
}

/* All of the heap is said to be cold, and then to be swapped out, again and again. */
static void *cool(void *unused) {
    unsigned long ranges[2][2] = {{0, 0}, {0, 0}};
    unsigned count = 0;
    char *inside = need(malloc(BLOCK)), line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps) && count == 0)
        if (sscanf(line, "%lx-%lx", &ranges[0][0], &ranges[0][1]) == 2 && ranges[0][0] <= (uintptr_t)inside
            && (uintptr_t)inside < ranges[0][1])
            count++;
    fclose(maps);
    CHECK(count == 1);
    free(inside);
    size_t length = ranges[0][1] - ranges[0][0];
    if (length > 256 * MIB)
        length = 256 * MIB;
    do {
        CHECK(madvise((void *)ranges[0][0], length, MADV_COLD) == 0);
        CHECK(madvise((void *)ranges[0][0], length, MADV_PAGEOUT) == 0);
    } while (!over);
    return unused;
}

static void cooled(void) {
    churn_beside(cool);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"swapped-and-freed", swapped_and_freed},
        {"swapped-and-moved", swapped_and_moved},
        {"swapped-calloc", swapped_calloc},
        {"swapped-and-forked", swapped_and_forked},
        {"pinned-and-used", pinned_and_used},
        {"pinned-and-freed", pinned_and_freed},
        {"pinned-and-written", pinned_and_written},
        {"merged", merged},
        {"compacted", compacted},
        {"cooled", cooled},
    };
    return RUN_BEHAVIOUR(behaviours);
}
