/* Two processes with what was one heap: both read what they should, and neither sees the other's writes. */
#include "check.h"
#include "heaps.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

/* The other side is there, too, or has ended: then there is nothing to read. */
static void meet(int end) {
    char token = 'm';
    CHECK(send(end, &token, 1, MSG_NOSIGNAL) == 1);
    CHECK(recv(end, &token, 1, 0) == 1);
}

/* The second half stays untouched in both processes until the other one is long at work. */
static void both_sides(pid_t child, struct heap *heap, int ends[2]) {
    close(ends[child == 0]);
    int end = ends[child != 0];
    if (child == 0) {
        in_child();
        expect_heap(heap, 0, BLOCK / 4, "the child's heap");
        overwrite(heap, 'c', 0, BLOCK / 4);
        meet(end);
        expect_heap(heap, BLOCK / 4, BLOCK / 2, "the child's heap");
        meet(end);
        expect_heap(heap, BLOCK / 4, BLOCK, "the child's heap, after the parent wrote to its own");
        expect_overwritten(heap, 'c', 0, BLOCK / 4);
        expect_working_heap(1);
        free_heap(heap);
        expect_working_heap(2);
        _exit(0);
    }
    meet(end);
    expect_heap(heap, 0, BLOCK / 2, "the parent's heap, after the child wrote to its own");
    overwrite(heap, 'w', 0, BLOCK / 2);
    meet(end);
    expect_working_heap(3);
    close(end);
    expect_end(child);
    expect_heap(heap, BLOCK / 2, BLOCK, "the parent's heap, after the child ended");
    expect_overwritten(heap, 'w', 0, BLOCK / 2);
    free_heap(heap);
    expect_working_heap(4);
}

static void with_fork(void) {
    for (int round = 0; round < 5; round++) {
        struct heap heap;
        int ends[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        fill(&heap);
        both_sides(fork(), &heap, ends);
    }
}

/* No atfork handler runs: the child's first heap call must notice. */
static void with_raw_clone(void) {
    for (int round = 0; round < 3; round++) {
        struct heap heap;
        int ends[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        fill(&heap);
        pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0)
            free(need(malloc(100000)));
        both_sides(child, &heap, ends);
    }
}

static void generations(void) {
    struct heap heap;
    fill(&heap);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        expect_heap(&heap, 0, BLOCK / 4, "the child's heap");
        pid_t grandchild = fork();
        if (grandchild == 0) {
            in_child();
            expect_heap(&heap, 0, BLOCK, "the grandchild's heap");
            pid_t next = fork();
            if (next == 0) {
                in_child();
                expect_heap(&heap, 0, BLOCK, "the great-grandchild's heap");
                expect_working_heap(9);
                _exit(0);
            }
            expect_working_heap(8);
            expect_end(next);
            _exit(0);
        }
        expect_working_heap(7);
        expect_end(grandchild);
        expect_heap(&heap, 0, BLOCK, "the child's heap, in the end");
        _exit(0);
    }
    expect_end(child);
    expect_heap(&heap, 0, BLOCK, "the parent's heap, in the end");
}

/* The child shares the memory, and the parent waits for it. */
static void with_vfork(void) {
    for (int round = 0; round < 20; round++) {
        unsigned char *block = need(malloc(BLOCK));
        volatile int fine = 0;
        pid_t child = vfork();
        if (child == 0) {
            fine = block[MIB] == pattern_at(block + MIB) && block[3 * MIB] == pattern_at(block + 3 * MIB);
            block[2 * MIB] = 'v';
            _exit(0);
        }
        expect_end(child);
        CHECK(fine && block[2 * MIB] == 'v');
        block[2 * MIB] = pattern_at(block + 2 * MIB);
        EXPECT_PATTERN(block, BLOCK, "a block that a vforked child touched");
        free(block);
    }
}

static atomic_int stop;
static atomic_ulong work_done;

static void *allocate_all_the_time(void *seed) {
    uint64_t state = (uintptr_t)seed;
    unsigned char *blocks[64] = {NULL};
    size_t sizes[64] = {0};
    while (!stop) {
        size_t i = random_next(&state) % 64;
        if (blocks[i])
            EXPECT_BYTES(blocks[i], sizes[i], 't', "a block of a thread that forks go on around");
        free(blocks[i]);
        sizes[i] = 1 + random_next(&state) % (i % 8 == 0 ? 300000 : 2000);
        blocks[i] = need(malloc(sizes[i]));
        EXPECT_PATTERN(blocks[i], sizes[i], "malloc while forks go on");
        memset(blocks[i], 't', sizes[i]);
        work_done++;
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    return NULL;
}

static void *nothing(void *unused) {
    free(need(malloc(100)));
    return unused;
}

static void among_threads(void) {
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, allocate_all_the_time, (void *)(i + 1)) == 0);
    for (int round = 0; round < 200; round++) {
        unsigned long before = work_done;
        unsigned char *absent = need(malloc(BLOCK));
        pid_t child = fork();
        if (child == 0) {
            in_child();
            EXPECT_PATTERN(absent, BLOCK / 4, "what no one had touched before the fork");
            expect_working_heap((uint64_t)round + 1);
            if (round % 10 == 0) {
                pthread_t thread;
                CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0);
                CHECK(pthread_join(thread, NULL) == 0);
                pid_t grandchild = fork();
                if (grandchild == 0) {
                    in_child();
                    expect_working_heap(99);
                    _exit(0);
                }
                expect_end(grandchild);
            }
            free(absent);
            _exit(0);
        }
        expect_end(child);
        free(absent);
        while (work_done == before)
            sched_yield();
    }
    stop = 1;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Other ways to another program; its end says that its heap works. */
static char self[4096];

static char *const *arguments(void) {
    static char *list[] = {self, "work", NULL};
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    self[length] = 0;
    return list;
}

static void work(void) {
    expect_working_heap(5);
}

static void *exec_self(void *unused) {
    char *const *list = arguments();
    execv(self, list);
    return unused;
}

static void with_exec(void) {
    struct heap heap;
    pthread_t other, thread;
    fill(&heap);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        exec_self(NULL);
        FAIL("exec: errno %d", errno);
    }
    expect_end(child);
    /* And from a thread beside the first, with another at work. */
    CHECK(pthread_create(&other, NULL, allocate_all_the_time, (void *)3) == 0);
    CHECK(pthread_create(&thread, NULL, exec_self, NULL) == 0);
    pthread_join(thread, NULL);
    FAIL("exec came back: errno %d", errno);
}

static void with_spawn(void) {
    struct heap heap;
    fill(&heap);
    for (int round = 0; round < 10; round++) {
        pid_t child;
        /* The path and the arguments lie in memory that the new process's setup is the first to touch. */
        char *const *list = arguments();
        char **fresh = need(malloc(MIB));
        char *path = strcpy((char *)need(malloc(MIB)) + 500000, self);
        fresh[0] = path;
        fresh[1] = list[1];
        fresh[2] = NULL;
        CHECK(posix_spawn(&child, path, NULL, NULL, fresh, environ) == 0);
        expect_end(child);
    }
    expect_heap(&heap, 0, BLOCK, "the heap after posix_spawn");
}

static void with_system(void) {
    struct heap heap;
    fill(&heap);
    CHECK(system("exit 7") == 7 << 8);
    FILE *stream = popen("echo $((6 * 7))", "r");
    int answer = 0;
    CHECK(stream && fscanf(stream, "%d", &answer) == 1 && answer == 42);
    CHECK(pclose(stream) == 0);
    expect_heap(&heap, 0, BLOCK, "the heap after system and popen");
}

/* As daemons do it: the child closes whatever is open, and lives on without its parent. */
static void with_daemon(void) {
    struct heap heap;
    int ends[2];
    fill(&heap);
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        CHECK(setsid() > 0);
        if (fork() != 0)
            _exit(0);
        in_child();
        for (int fd = 0; fd < 1024; fd++)
            if (fd != ends[1] && fd != 2)
                close(fd);
        expect_heap(&heap, 0, BLOCK, "the daemon's heap");
        expect_working_heap(12);
        CHECK(write(ends[1], "d", 1) == 1);
        _exit(0);
    }
    char token = 0;
    close(ends[1]);
    expect_end(child);
    CHECK(read(ends[0], &token, 1) == 1 && token == 'd');
}

static unsigned char *fresh;
static volatile sig_atomic_t seen;

static void looks_at_fresh_memory(int signal) {
    (void)signal;
    seen = fresh[5 * 4096] == pattern_at(fresh + 5 * 4096) ? 1 : 2;
}

/* A signal that is there before the child has begun: its handler is the first to touch the heap there. */
static void early_signals(void) {
    signal(SIGUSR1, looks_at_fresh_memory);
    fresh = need(malloc(MIB));
    for (int round = 0; round < 1000; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            in_child();
            while (!seen)
                usleep(1000);
            _exit(seen == 1 ? 0 : 3);
        }
        CHECK(kill(child, SIGUSR1) == 0);
        expect_end(child);
    }
    CHECK(!seen);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"fork", with_fork},
        {"raw-clone", with_raw_clone},
        {"generations", generations},
        {"vfork", with_vfork},
        {"among-threads", among_threads},
        {"work", work},
        {"exec", with_exec},
        {"spawn", with_spawn},
        {"system", with_system},
        {"daemon", with_daemon},
        {"early-signals", early_signals},
    };
    return RUN_BEHAVIOUR(behaviours);
}
