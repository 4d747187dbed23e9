/* Touches of what is not a program's: argv says which allocation, of how many bytes, at which place of it, by what, and
 * where. What is touched is printed first: its address, which byte it is, of how many, and the allocation. A touch must
 * not come back; by "none" nothing is touched, and all must be well. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

static size_t page, size;
static const char *place, *access_by;

/* The allocation, and the byte to be touched. */
static char *block;
static volatile char *touched;
static ptrdiff_t byte;
static int is_freed;

/* Where the compiler cannot see what it is. */
static void *volatile hidden;

static void free_hidden(void *pointer) {
    hidden = pointer;
    free(hidden);
}

static char *written(void *pointer, size_t length) {
    char *bytes = need(pointer);
    bytes[0] = 1;
    bytes[length / 2] = 2;
    bytes[length - 1] = 3;
    return bytes;
}

static void of_malloc(void) {
    block = written(malloc(size), size);
}

static void of_calloc(void) {
    block = written(calloc(size / 4, 4), size / 4 * 4);
    size = size / 4 * 4;
}

static void of_aligned_alloc(void) {
    block = written(aligned_alloc(2 * MIB, size), size);
    CHECK((uintptr_t)block % (2 * MIB) == 0);
}

/* Others of the same size are beside it. */
static void of_one_among_others(void) {
    written(malloc(size), size);
    of_malloc();
    written(malloc(size), size);
}

static void of_freed(void) {
    of_malloc();
    free_hidden(block);
    is_freed = 1;
}

static void of_untouched_freed(void) {
    block = need(malloc(size));
    free_hidden(block);
    is_freed = 1;
}

static void of_freed_calloc(void) {
    of_calloc();
    free_hidden(block);
    is_freed = 1;
}

static void of_freed_long_ago(void) {
    size_t others = size < MIB ? size : MIB;
    of_one_among_others();
    free_hidden(block);
    is_freed = 1;
    for (int i = 0; i < 1000; i++)
        free_hidden(written(malloc(others), others));
}

static void *free_it(void *pointer) {
    free_hidden(pointer);
    return NULL;
}

static void in_a_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0 && pthread_join(thread, NULL) == 0);
}

static void of_freed_by_a_thread(void) {
    of_malloc();
    in_a_thread(free_it, block);
    is_freed = 1;
}

/* What realloc left behind. */
static void of_moved_from(void) {
    of_one_among_others();
    hidden = block;
    char *moved = written(realloc(hidden, 16 * size), 16 * size);
    CHECK(moved != block);
    is_freed = 1;
}

static void of_moved_to(void) {
    char *small = written(malloc(size / 8), size / 8);
    written(malloc(size / 8), size / 8);
    block = written(realloc(small, size), size);
}

static void of_shrunk(void) {
    size_t large = 3 * MIB + 5 + size;
    char *wide = written(malloc(large), large);
    block = written(realloc(wide, size), size);
}

/* Behind what is left to it there may be something else by now, or nothing. */
static void of_grown_again(void) {
    of_shrunk();
    size += 40000;
    block = written(realloc(block, size), size);
}

static void locate(void) {
    uintptr_t start = (uintptr_t)block;
    ptrdiff_t behind = (ptrdiff_t)(((start + size + page - 1) & ~(page - 1)) - start);
    ptrdiff_t before = -(ptrdiff_t)(start % page);
    const struct {
        const char *name;
        ptrdiff_t byte;
    } places[] = {
        {"first", 0},
        {"middle", (ptrdiff_t)(size / 2)},
        {"last", (ptrdiff_t)size - 1},
        /* The first byte that malloc's alignment leaves to nobody. */
        {"rounded", (ptrdiff_t)((size + 15) & ~15ul)},
        {"end-of-page", behind - 1},
        {"behind", behind},
        {"page-behind", behind + (ptrdiff_t)page - 1},
        {"before", before - 1},
        {"page-before", before - (ptrdiff_t)page},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strcmp(place, places[i].name) == 0) {
            byte = places[i].byte;
            touched = block + byte;
            dprintf(1, "%p %td %zu %p\n", (void *)touched, byte, size, (void *)block);
            return;
        }
    FAIL("no place named %s", place);
}

static int is_by(const char *name) {
    return strcmp(access_by, name) == 0;
}

static void expect_no_access(ssize_t result, const char *what) {
    if (result != -1 || errno != EFAULT)
        FAIL("%s: %zd, errno %d", what, result, errno);
}

static void touch(void) {
    if (is_by("read")) {
        (void)*touched;
    } else if (is_by("write")) {
        *touched = 'x';
    } else if (is_by("free")) {
        free_hidden((void *)touched);
    } else if (is_by("read-call")) {
        int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        CHECK(zeros >= 0);
        expect_no_access(read(zeros, (void *)touched, 1), "read");
    } else if (is_by("write-call")) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        expect_no_access(write(ends[1], (void *)touched, 1), "write");
    } else {
        CHECK(is_by("none"));
    }
}

/* What is a program's own stays so. */
static void go_on(void) {
    if (!is_freed) {
        if (block)
            EXPECT_BYTES(block + size - 1, 1, 3, "the last byte");
        free_hidden(block);
    }
    for (int i = 0; i < 20; i++)
        free_hidden(written(malloc(100000 + 4096 * i), 100000));
}

static void must_not_come_back(void) {
    touch();
    if (!is_by("none") && !is_by("read-call") && !is_by("write-call"))
        FAIL("%s of byte %td came back", access_by, byte);
    go_on();
}

static void *in_thread(void *unused) {
    must_not_come_back();
    return unused;
}

static void by_a_thread(void) {
    in_a_thread(in_thread, NULL);
}

/* The exit code tells of the child's signal. */
static void wait_for(pid_t child) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    free_hidden(written(malloc(100000), 100000));
    _exit(WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void by_a_child(void) {
    pid_t child = fork();
    if (child != 0)
        wait_for(child);
    written(malloc(200000), 200000);
    must_not_come_back();
}

/* In the page of the last byte, and found when the allocation is freed. */
static void then_freed(void) {
    touch();
    if (is_by("none"))
        return go_on();
    free_hidden(block);
    FAIL("byte %td was written, and nobody minds", byte);
}

static sigjmp_buf back;
static volatile sig_atomic_t is_to_jump;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    /* A pointer may have a tag. */
    uintptr_t address = (uintptr_t)touched << 8 >> 8, told = (uintptr_t)info->si_addr << 8 >> 8;
    if (address != told)
        FAIL("signal %d is about %p", signal, info->si_addr);
    if (is_to_jump)
        siglongjmp(back, 1);
    _exit(7);
}

static void handle_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
}

static void by_one_who_handles(void) {
    handle_faults();
    must_not_come_back();
}

/* A program that lives on, and does it again. */
static void by_one_who_jumps(void) {
    static volatile int times;
    handle_faults();
    is_to_jump = 1;
    sigsetjmp(back, 1);
    if (times++ < 3)
        must_not_come_back();
    else
        go_on();
}

static const struct behaviour allocations[] = {
    {"malloc", of_malloc},
    {"calloc", of_calloc},
    {"aligned-alloc", of_aligned_alloc},
    {"among-others", of_one_among_others},
    {"freed", of_freed},
    {"untouched-freed", of_untouched_freed},
    {"freed-calloc", of_freed_calloc},
    {"freed-long-ago", of_freed_long_ago},
    {"freed-by-a-thread", of_freed_by_a_thread},
    {"moved-from", of_moved_from},
    {"moved-to", of_moved_to},
    {"shrunk", of_shrunk},
    {"grown-again", of_grown_again},
};

static const struct behaviour circumstances[] = {
    {"here", must_not_come_back},
    {"thread", by_a_thread},
    {"child", by_a_child},
    {"then-freed", then_freed},
    {"handled", by_one_who_handles},
    {"jumped", by_one_who_jumps},
};

static void run_named(const char *name, const struct behaviour *behaviours, size_t count) {
    char *argv[] = {NULL, (char *)name};
    run_behaviour(2, argv, behaviours, count);
}

int main(int argc, char **argv) {
    if (argc != 6)
        FAIL("an allocation, its size, a place, by what and where");
    page = (size_t)sysconf(_SC_PAGESIZE);
    size = strtoul(argv[2], NULL, 10);
    place = argv[3];
    access_by = argv[4];
    const char *where = argv[5];
    if (strcmp(where, "born-child") == 0) {
        /* All of it in a child. */
        pid_t child = fork();
        if (child != 0)
            wait_for(child);
        where = "here";
    }
    run_named(argv[1], allocations, sizeof allocations / sizeof *allocations);
    locate();
    run_named(where, circumstances, sizeof circumstances / sizeof *circumstances);
    return 0;
}
