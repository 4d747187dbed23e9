/* Fork where it is seldom looked for: in signal handlers, amid the fork handlers of others, without libc, without
 * a parent, without descriptors. */
#include "check.h"
#include "heaps.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* A thing that all processes of the test see. */
static atomic_int *shared;

static void share(void) {
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
}

/* Orphans become children of this process. */
static void adopt(void) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
}

static void close_from(unsigned first) {
    if (syscall(SYS_close_range, first, ~0u, 0) != 0)
        for (int fd = (int)first; fd < 2048; fd++)
            close(fd);
}

static unsigned char *volatile fresh;
static atomic_int forked;

/* The child looks at what nobody has touched, and so does the parent once it is back. */
static void forks(int signal) {
    (void)signal;
    int error = errno;
    unsigned char *block = fresh;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        in_child();
        EXPECT_PATTERN(block + 3 * MIB, MIB, "in a child that a signal handler made");
        memset(block + 3 * MIB, 'c', MIB);
        _exit(0);
    }
    expect_end(child);
    EXPECT_PATTERN(block + 3 * MIB + 4096 * (size_t)(forked++ % 200), 4096, "in a signal handler that forked");
    errno = error;
}

/* The child may call what a signal handler may, and this one does not come back from it. */
static void forks_amid_malloc(int signal) {
    (void)signal;
    int error = errno;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT_BYTES(fresh, MIB, 'p', "in a child of a signal handler amid malloc");
        _exit(0);
    }
    expect_end(child);
    forked++;
    errno = error;
}

/* One signal: another one while a fork goes on would leave no time for anything else. */
static void after(int us) {
    struct itimerval once = {{0, 0}, {0, us}};
    CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

/* What the signal interrupts is a thread that allocates and frees, and holds what locks that takes. */
static void amid_malloc(void) {
    struct sigaction action = {.sa_handler = forks_amid_malloc, .sa_flags = SA_RESTART};
    uint64_t state = 1;
    fresh = need(malloc(MIB));
    memset(fresh, 'p', MIB);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    enum { COUNT = 64 };
    unsigned char *blocks[COUNT] = {NULL};
    size_t sizes[COUNT] = {0};
    for (int before = -1, now; (now = forked) < 200;) {
        if (before != now)
            after(200 + (int)(random_next(&state) % 2000));
        before = now;
        size_t i = random_next(&state) % COUNT;
        if (sizes[i])
            EXPECT_BYTES(blocks[i], sizes[i], (unsigned char)i, "kept over forks amid malloc");
        free(blocks[i]);
        sizes[i] = 1 + random_next(&state) % (i % 2 ? 300000 : 3000);
        blocks[i] = need(malloc(sizes[i]));
        EXPECT_PATTERN(blocks[i], sizes[i], "fresh amid forks");
        memset(blocks[i], (int)i, sizes[i]);
    }
    for (size_t i = 0; i < COUNT; i++)
        free(blocks[i]);
}

/* What the signal interrupts is a thread that touches memory. */
static void from_a_signal_handler(void) {
    struct sigaction action = {.sa_handler = forks, .sa_flags = SA_RESTART};
    fresh = need(malloc(BLOCK));
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    while (forked < 30) {
        unsigned char *block = need(malloc(BLOCK));
        const int before = forked;
        after(1000);
        for (int byte = 0; forked == before; byte++) {
            if (byte == 0)
                EXPECT_PATTERN(block, BLOCK, "while a signal handler forks");
            memset(block, byte, BLOCK);
            EXPECT_BYTES(block, BLOCK, (unsigned char)byte, "while a signal handler forks");
        }
        free(block);
    }
    EXPECT_PATTERN(fresh, BLOCK, "what only children wrote to");
    free(fresh);
}

/* Each handler makes and frees blocks of all sizes, and looks at one that came from the handler before it. */
static unsigned char *kept;
static int prepared, parents, children;

static void use_heap(const char *when) {
    if (kept) {
        EXPECT_PATTERN(kept, BLOCK / 2, when);
        free(kept);
    }
    expect_working_heap((uint64_t)(prepared + parents + children) + 1);
    kept = need(malloc(BLOCK));
    EXPECT_PATTERN(kept + BLOCK / 2, BLOCK / 2, when);
    memset(kept + BLOCK / 2, 'k', BLOCK / 2);
}

static void before(void) {
    prepared++;
    use_heap("before a fork");
}

static void in_parent(void) {
    parents++;
    use_heap("after a fork, in the parent");
}

static void in_the_child(void) {
    children++;
    use_heap("after a fork, in the child");
}

/* A library that is preloaded with this one may have done the same, before anyone had asked for memory. */
static void amid_fork_handlers(void) {
    struct heap heap;
    fill(&heap);
    CHECK(pthread_atfork(before, in_parent, in_the_child) == 0);
    int (*calls)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "library_fork_calls");
    for (int round = 1; round <= 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            in_child();
            CHECK(children == 1 && prepared == round);
            CHECK(!calls || calls() == 2 * round);
            expect_heap(&heap, 0, BLOCK, "the child's heap, amid fork handlers");
            pid_t grandchild = fork();
            if (grandchild == 0) {
                in_child();
                CHECK(children == 2 && prepared == round + 1);
                expect_heap(&heap, 0, BLOCK, "the grandchild's heap, amid fork handlers");
                _exit(0);
            }
            expect_end(grandchild);
            _exit(0);
        }
        expect_end(child);
        CHECK(parents == round && prepared == round);
        CHECK(!calls || calls() == 2 * round);
        expect_heap(&heap, BLOCK / 2, BLOCK, "the parent's heap, amid fork handlers");
    }
}

/* No fork handler runs. What the child touches before its first call into the heap is the documented limit: it may
 * be zero. From that call on everything else is in order. */
static void without_fork_handlers(void) {
    pid_t (*fork_alone)(void) = (pid_t(*)(void))dlsym(RTLD_DEFAULT, "_Fork");
    for (int round = 0; round < 6; round++) {
        struct heap heap;
        fill(&heap);
        pid_t child = fork_alone && round % 2 ? fork_alone() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0) {
            in_child();
            unsigned char early = heap.absent[BLOCK - 1];
            if (early != 0 && early != pattern_at(heap.absent + BLOCK - 1))
                FAIL("an untouched byte of a child without fork handlers is 0x%02x", early);
            free(need(malloc(100000)));
            expect_heap(&heap, 0, BLOCK - 64 * KIB, "a child without fork handlers");
            overwrite(&heap, 'c', 0, BLOCK);
            expect_overwritten(&heap, 'c', 0, BLOCK);
            expect_working_heap(21);
            pid_t grandchild = fork();
            if (grandchild == 0) {
                in_child();
                expect_overwritten(&heap, 'c', 0, BLOCK);
                free_heap(&heap);
                expect_working_heap(22);
                _exit(0);
            }
            expect_end(grandchild);
            _exit(0);
        }
        expect_end(child);
        expect_heap(&heap, 0, BLOCK, "the parent of a child without fork handlers");
        free_heap(&heap);
        expect_working_heap(23);
    }
}

static void expect_no_children(void) {
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
}

/* The parent ends while its child is about to touch what both had, and the child's child after it. */
static void outlives(void) {
    adopt();
    share();
    for (int round = 0; round < 20; round++) {
        struct heap heap;
        fill(&heap);
        *shared = 0;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            in_child();
            expect_heap(&heap, 0, BLOCK / 8, "a parent that ends early");
            for (int generation = 0; generation < 3; generation++)
                if (fork() != 0) {
                    /* In half of the rounds it ends at once, in the others while its child is at work. */
                    while (round % 2 && *shared <= generation)
                        sched_yield();
                    _exit(0);
                } else {
                    in_child();
                    expect_heap(&heap, 0, BLOCK / 4, "a child whose parent may be gone");
                    ++*shared;
                    expect_heap(&heap, 0, BLOCK, "a child whose parent may be gone");
                    expect_working_heap((uint64_t)round + 1);
                }
            free_heap(&heap);
            expect_working_heap(31);
            ++*shared;
            _exit(0);
        }
        for (int ended = 0; ended < 4; ended++)
            expect_one_end();
        CHECK(*shared == 4);
        expect_no_children();
        expect_heap(&heap, 0, BLOCK, "after all that came of a fork");
        free_heap(&heap);
    }
}

/* As daemons do it, and more: nothing stays open, not even stderr. */
static void as_a_daemon(void) {
    adopt();
    share();
    for (int round = 0; round < 10; round++) {
        struct heap heap;
        fill(&heap);
        *shared = 0;
        pid_t child = fork();
        if (child == 0) {
            in_child();
            CHECK(setsid() > 0 && chdir("/") == 0);
            if (fork() != 0)
                _exit(0);
            in_child();
            close_from(0);
            expect_heap(&heap, 0, BLOCK, "a daemon's heap");
            expect_working_heap(41);
            /* The lowest numbers are the first files that it opens. */
            CHECK(open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2);
            free_heap(&heap);
            expect_working_heap(42);
            pid_t worker = fork();
            if (worker == 0) {
                in_child();
                close_from(0);
                expect_working_heap(43);
                ++*shared;
                _exit(0);
            }
            expect_end(worker);
            ++*shared;
            _exit(0);
        }
        expect_one_end();
        expect_one_end();
        CHECK(*shared == 2);
        expect_no_children();
        free_heap(&heap);
    }
}

/* A pipe that is open while handlers start: its end is seen when the program's own last writer has closed it. */
static void pipes_end(void) {
    int before_heap[2], ends[2];
    CHECK(pipe(before_heap) == 0);
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; round < 40; round++) {
        char byte;
        CHECK(pipe(ends) == 0);
        unsigned char *block = need(malloc(BLOCK));
        EXPECT_PATTERN(block, BLOCK / 2, "beside an open pipe");
        pid_t child = fork();
        if (child == 0) {
            in_child();
            EXPECT_PATTERN(block, BLOCK, "beside an open pipe, in a child");
            expect_working_heap(51);
            close(ends[1]);
            /* Until the parent, or its handler, lets go of it. */
            CHECK(read(ends[0], &byte, 1) == 0);
            EXPECT_PATTERN(need(malloc(BLOCK)), BLOCK, "after the end of a pipe");
            _exit(0);
        }
        close(ends[0]);
        close(ends[1]);
        expect_end(child);
        /* And the other way round: the child is the writer, and its handler has begun. */
        CHECK(pipe(ends) == 0);
        child = fork();
        if (child == 0) {
            in_child();
            EXPECT_PATTERN(block, BLOCK, "beside an open pipe, in a child");
            close(ends[0]);
            close(ends[1]);
            CHECK(read(before_heap[0], &byte, 1) == 1);
            _exit(0);
        }
        close(ends[1]);
        alarm(60);
        CHECK(read(ends[0], &byte, 1) == 0);
        alarm(0);
        CHECK(write(before_heap[1], "e", 1) == 1);
        expect_end(child);
        close(ends[0]);
        free(block);
    }
    close(before_heap[0]);
    CHECK(write(before_heap[1], "e", 1) == -1 && errno == EPIPE);
}

/* Not one number is left to a child's own channel. */
static void without_descriptors(void) {
    struct heap heap;
    fill(&heap);
    struct rlimit none = {0, 0};
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        expect_heap(&heap, 0, BLOCK, "a child that can open nothing");
        expect_working_heap(61);
        free_heap(&heap);
        expect_working_heap(62);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            in_child();
            expect_working_heap(63);
            _exit(0);
        }
        expect_end(grandchild);
        _exit(0);
    }
    expect_end(child);
    expect_heap(&heap, 0, BLOCK, "the parent of a child that can open nothing");
    expect_working_heap(64);
    free_heap(&heap);
}

/* What the program sees in /proc/self/fd: its own files, and numbers that are out of the way. */
static void expect_own_descriptors(const char *who) {
    DIR *listing = opendir("/proc/self/fd");
    if (!listing) {
        puts("no /proc/self/fd here");
        return;
    }
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        int fd = atoi(entry->d_name);
        char path[64] = "", target[128] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (entry->d_name[0] == '.' || fd <= 2 || fd == dirfd(listing))
            continue;
        CHECK(readlink(path, target, sizeof target - 1) > 0);
        if (fd < 1000)
            FAIL("%s: descriptor %d is open: %s", who, fd, target);
        int flags = fcntl(fd, F_GETFD);
        if (!(flags & FD_CLOEXEC))
            FAIL("%s: descriptor %d outlives an exec: %s", who, fd, target);
    }
    closedir(listing);
}

static void descriptors_out_of_the_way(void) {
    struct heap heap;
    /* Those that came with the process are its caller's business. */
    close_from(3);
    expect_own_descriptors("at first");
    for (int round = 0; round < 3; round++) {
        fill(&heap);
        expect_working_heap(71);
        expect_own_descriptors("in use");
        pid_t child = fork();
        if (child == 0) {
            in_child();
            expect_own_descriptors("in a child");
            expect_heap(&heap, 0, BLOCK, "a child that lists its descriptors");
            expect_working_heap(72);
            expect_own_descriptors("in a child, in use");
            _exit(0);
        }
        expect_end(child);
        free_heap(&heap);
    }
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"from-a-signal-handler", from_a_signal_handler},
        {"amid-malloc", amid_malloc},
        {"amid-fork-handlers", amid_fork_handlers},
        {"without-fork-handlers", without_fork_handlers},
        {"outlives", outlives},
        {"as-a-daemon", as_a_daemon},
        {"pipes-end", pipes_end},
        {"without-descriptors", without_descriptors},
        {"descriptors-out-of-the-way", descriptors_out_of_the_way},
    };
    return RUN_BEHAVIOUR(behaviours);
}
