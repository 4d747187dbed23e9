/* A process that gives up rights while its heap is in use: its user, being looked into, system calls. */
#include "check.h"
#include "heaps.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

/* Forgotten by older headers. */
#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#endif

static char **arguments;

/* Installs a filter that answers `listed` calls one way and all others another way. */
static void filter(const int *listed, size_t count, unsigned for_listed, unsigned for_others, unsigned flags) {
    struct sock_filter steps[64];
    size_t length = 0;
    CHECK(count < 60);
    steps[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        steps[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)listed[i],
                                                       (unsigned char)(count - i), 0);
    steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, for_others);
    steps[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, for_listed);
    struct sock_fprog program = {(unsigned short)length, steps};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

static int number_of(const char *call) {
    static const struct {
        const char *name;
        int number;
    } calls[] = {{"read", SYS_read}, {"ioctl", SYS_ioctl}, {"ppoll", SYS_ppoll}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strcmp(calls[i].name, call) == 0)
            return calls[i].number;
    FAIL("no call named %s", call);
}

static unsigned char *volatile late;

static void touches_what_nobody_serves(int signal) {
    (void)signal;
    memset(late, 's', BLOCK);
    _exit(77);
}

/* ACTION CALL WHOM dies|lives: what the threads that WHOM means get for a system call that the handler needs. */
static void filtered(void) {
    const char *action = arguments[2], *whom = arguments[4];
    int call = number_of(arguments[3]), dies = strcmp(arguments[5], "dies") == 0;
    enum { BLOCKS = 16 };
    unsigned char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = need(malloc(BLOCK));
    late = need(malloc(BLOCK));
    signal(SIGABRT, touches_what_nobody_serves);
    in_child();
    unsigned answer = strcmp(action, "errno") == 0 ? SECCOMP_RET_ERRNO | EPERM
                    : strcmp(action, "trap") == 0  ? SECCOMP_RET_TRAP
                                                   : SECCOMP_RET_KILL_PROCESS;
    filter(&call, 1, answer, SECCOMP_RET_ALLOW, strcmp(whom, "all") == 0 ? SECCOMP_FILTER_FLAG_TSYNC : 0);
    for (int i = 0; i < BLOCKS; i++) {
        EXPECT_PATTERN(blocks[i], BLOCK, "under a filter");
        if (dies)
            usleep(1000);
    }
    while (dies)
        usleep(1000);
    _exit(0);
}

/* What README says that the handler does once it has begun, and not one call more, on pain of SIGSYS. */
static void allowed(void) {
    static const int calls[] = {
        /* the handler's */
        SYS_ppoll, SYS_read, SYS_ioctl, SYS_madvise, SYS_sched_yield, SYS_clock_gettime, SYS_getcpu,
        SYS_mincore, SYS_sysinfo, SYS_newfstatat, SYS_openat, SYS_fstat, SYS_close,
#ifdef SYS_open
        SYS_open,
#endif
        /* the test's own */
        SYS_exit_group, SYS_write, SYS_clock_nanosleep,
        /* after a signal that stops and continues */
        SYS_restart_syscall,
    };
    enum { BLOCKS = 24 };
    static unsigned char *blocks[BLOCKS], *freed[BLOCKS];
    uint64_t state = 5;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = need(malloc(BLOCK));
        freed[i] = need(malloc(300000 * (i + 1)));
        scribble(freed[i], 300000 * (i + 1), &state);
    }
    for (int i = 0; i < BLOCKS; i++)
        free(freed[i]);
    in_child();
    filter(calls, sizeof calls / sizeof *calls, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_FILTER_FLAG_TSYNC);
    for (int i = 0; i < BLOCKS; i++) {
        /* From one end, from the other, and here and there; between them it sleeps, and gives back what was freed. */
        for (size_t at = 0; at < BLOCK; at += 4096) {
            size_t place = i % 3 == 0 ? at : i % 3 == 1 ? BLOCK - 4096 - at : at * 37 % BLOCK;
            EXPECT_PATTERN(blocks[i] + place, 4096, "under a filter that allows what the handler needs");
        }
        usleep(i % 4 == 0 ? 400000 : 1000);
    }
    _exit(0);
}

/* A child that cannot get a channel of its own. */
static void forks_filtered(void) {
    static const int calls[] = {
        SYS_userfaultfd, SYS_openat,
#ifdef SYS_open
        SYS_open,
#endif
    };
    struct heap heap;
    fill(&heap);
    filter(calls, sizeof calls / sizeof *calls, SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_TSYNC);
    pid_t child = fork();
    if (child == 0) {
        in_child();
        expect_heap(&heap, 0, BLOCK, "a child under a filter");
        expect_working_heap(81);
        free_heap(&heap);
        expect_working_heap(82);
        _exit(0);
    }
    expect_end(child);
    expect_heap(&heap, 0, BLOCK, "the parent of a child under a filter");
    free_heap(&heap);
    expect_working_heap(83);
}

static atomic_int over;

static void *works(void *seed) {
    for (uint64_t round = 1; !over; round++)
        expect_working_heap((uintptr_t)seed + round);
    return NULL;
}

/* Of all threads, as libc does it: it must not wait for one that it does not know. */
static void becomes_nobody(void) {
    CHECK(setgroups(0, NULL) == 0);
    CHECK(setresgid(65534, 65534, 65534) == 0);
    CHECK(setresuid(65534, 65534, 65534) == 0);
    CHECK(setuid(0) == -1);
}

static void cannot_be_looked_into(void) {
    CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
}

static void gives_up(void (*rights)(void)) {
    struct heap heap;
    pthread_t threads[3];
    fill(&heap);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, works, (void *)(i + 1)) == 0);
    expect_working_heap(91);
    rights();
    expect_heap(&heap, 0, BLOCK / 2, "after rights were given up");
    expect_working_heap(92);
    for (int round = 0; round < 4; round++) {
        pid_t child = fork();
        if (child == 0) {
            in_child();
            expect_heap(&heap, 0, BLOCK, "a child with fewer rights");
            expect_working_heap(93);
            free_heap(&heap);
            expect_working_heap(94);
            _exit(0);
        }
        expect_end(child);
    }
    over = 1;
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    expect_heap(&heap, 0, BLOCK, "after rights were given up and forks");
    free_heap(&heap);
    expect_working_heap(95);
}

/* A process with a second thread could not: nothing that is small makes one. */
static void unshares_user(void) {
    uint64_t state = 3;
    for (int i = 0; i < 2000; i++)
        scribble(need(malloc(1 + (size_t)i)), 1 + (size_t)i, &state);
    if (unshare(CLONE_NEWUSER) != 0) {
        /* Before Linux 6.8 nothing moves, and the handler starts at once. */
        struct utsname system;
        int major = 0, minor = 0;
        int error = errno;
        CHECK(uname(&system) == 0 && sscanf(system.release, "%d.%d", &major, &minor) == 2);
        CHECK(error != EINVAL || major < 6 || (major == 6 && minor < 8));
        printf("skipped: no user namespace: %s\n", strerror(error));
        return;
    }
    struct heap heap;
    fill(&heap);
    expect_heap(&heap, 0, BLOCK, "in a user namespace of its own");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        in_child();
        expect_heap(&heap, 0, BLOCK, "in a child in that namespace");
        expect_working_heap(8);
        _exit(0);
    }
    expect_end(child);
    free_heap(&heap);
}

static void user_given_up(void) {
    gives_up(becomes_nobody);
}

static void dumpable_given_up(void) {
    gives_up(cannot_be_looked_into);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"filtered", filtered},
        {"allowed", allowed},
        {"forks-filtered", forks_filtered},
        {"unshares-user", unshares_user},
        {"user-given-up", user_given_up},
        {"dumpable-given-up", dumpable_given_up},
    };
    arguments = argv;
    CHECK(argc != 3 && (argc == 2 || argc == 6));
    return RUN_BEHAVIOUR(behaviours);
}
