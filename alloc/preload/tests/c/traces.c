/* What the handler leaves to be seen: no process, no thread to libc, nothing after an end; and stacks that overflow. */
#include "check.h"
#include "heaps.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>

static void expect_alone(const char *who) {
    if (!__libc_single_threaded)
        FAIL("%s: libc takes this for a process of several threads", who);
    CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
}

/* glibc's fast paths for processes of one thread: no lock in stdio, plain reference counts in C++. */
static void one_thread(void) {
    struct heap heap;
    expect_alone("at first");
    fill(&heap);
    expect_heap(&heap, 0, BLOCK, "in a process of one thread");
    expect_alone("in use");
    pid_t child = fork();
    if (child == 0) {
        in_child();
        expect_working_heap(1);
        expect_heap(&heap, 0, BLOCK, "in a child of one thread");
        expect_alone("in a child");
        _exit(0);
    }
    expect_end(child);
    expect_alone("after a fork");
}

/* Threads of the process, as the kernel counts them: its own and a handler at most, all of one group. */
static int tasks(void) {
    DIR *listing = opendir("/proc/self/task");
    int count = 0;
    if (!listing)
        return 0;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static char self[4096];

/* After exec there is what a new process has, and after an end nothing, neither child nor orphan. */
static void nothing_stays(void) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) {
        puts("skipped: no /proc here");
        return;
    }
    struct heap heap;
    fill(&heap);
    expect_heap(&heap, 0, BLOCK, "before an exec");
    CHECK(tasks() <= 2);
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            in_child();
            expect_heap(&heap, 0, BLOCK, "a child before its exec");
            CHECK(tasks() <= 2);
            if (round % 4 == 0)
                exit(0);
            if (round % 4 == 1)
                _exit(0);
            if (round % 4 == 2)
                raise(SIGKILL);
            execl(self, self, "after-exec", NULL);
            FAIL("exec: errno %d", errno);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(round % 4 == 2 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0);
        CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
        CHECK(kill(child, 0) == -1 && errno == ESRCH);
    }
}

static void *allocates_first(void *block) {
    *(unsigned char **)block = need(malloc(BLOCK));
    return NULL;
}

/* Who starts the handler may be gone, with its thread-local storage, which lies in its stack, when there are faults. */
static void outlives_starter(void) {
    const size_t size = 256 << 10;
    void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, size) == 0);
    pthread_t thread;
    unsigned char *block;
    CHECK(pthread_create(&thread, &attributes, allocates_first, &block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(munmap(stack, size) == 0);
    EXPECT_PATTERN(block, BLOCK, "behind the end of who allocated first");
    /* It gives back what is freed, too, and looks around. */
    memset(block, 'x', BLOCK);
    free(block);
    usleep(600000);
    expect_working_heap(4);
}

static void *ends_by_itself(void *heap) {
    usleep(1000);
    expect_heap(heap, 0, BLOCK, "behind the first thread's end");
    syscall(SYS_exit, 3);
    return NULL;
}

/* No exit of libc's: the kernel ends a process with its last thread, and that is not to be one of ours. Before Linux
 * 5.17, the first thread's code counts, since then the last one's. */
static void threads_end(void) {
    struct heap heap;
    fill(&heap);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, ends_by_itself, &heap) == 0);
        syscall(SYS_exit, 3);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static void after_exec(void) {
    CHECK(tasks() <= 2);
    expect_working_heap(2);
    CHECK(tasks() <= 2);
}

static sigjmp_buf back;
static unsigned char *volatile signal_stack;

static void overflows(int signal) {
    char here[2000];
    memset(here, signal, sizeof here);
    if ((unsigned char *)here < signal_stack || (unsigned char *)here >= signal_stack + MIB)
        FAIL("a handler that is not on its stack");
    siglongjmp(back, 1);
}

static volatile int never;

static int endless(int depth) {
    volatile char frame[4000];
    frame[0] = (char)depth;
    return never ? 0 : endless(depth + 1) + frame[0];
}

/* The handler's stack is fresh heap memory, and it leaves by siglongjmp. */
static void stack_overflows(void) {
    struct rlimit small = {256 * KIB, 256 * KIB};
    CHECK(setrlimit(RLIMIT_STACK, &small) == 0);
    for (int round = 0; round < 12; round++) {
        signal_stack = need(malloc(MIB));
        stack_t stack = {.ss_sp = signal_stack, .ss_size = MIB}, none = {.ss_flags = SS_DISABLE};
        struct sigaction action = {.sa_handler = overflows, .sa_flags = SA_ONSTACK};
        CHECK(sigaltstack(&stack, NULL) == 0);
        CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
        if (sigsetjmp(back, 1) == 0) {
            endless(0);
            FAIL("a stack without end");
        }
        EXPECT_PATTERN(signal_stack, MIB / 2, "the unused part of a signal stack");
        expect_working_heap((uint64_t)round + 1);
        CHECK(sigaltstack(&none, NULL) == 0);
        free(signal_stack);
    }
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"one-thread", one_thread},
        {"nothing-stays", nothing_stays},
        {"outlives-starter", outlives_starter},
        {"threads-end", threads_end},
        {"after-exec", after_exec},
        {"stack-overflows", stack_overflows},
    };
    return RUN_BEHAVIOUR(behaviours);
}
