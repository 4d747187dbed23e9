/* What programs do to their process: close descriptors that are not theirs, load and unload libraries,
 * take signals, throw pages away. */
#include "check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define BLOCK (8 * MIB)

static void touch(unsigned char *block, const char *when) {
    for (size_t at = 0; at < BLOCK; at += 16 * 4096)
        EXPECT_PATTERN(block + at, 4096, when);
    EXPECT_PATTERN(block, BLOCK, when);
    memset(block, 'x', BLOCK);
}

static void expect_served(unsigned char *before, const char *when) {
    touch(before, when);
    for (int round = 0; round < 4; round++) {
        unsigned char *block = need(malloc(BLOCK));
        touch(block, when);
        free(block);
    }
    free(before);
}

/* Every descriptor from 3 on, in one call, then one by one; their numbers are then used for other files. */
static void descriptors_closed(void) {
    unsigned char *first = need(malloc(BLOCK)), *second = need(malloc(BLOCK)), *third = need(malloc(BLOCK));
    first[MIB] = pattern_at(first + MIB);
    if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
        CHECK(errno == ENOSYS);
    expect_served(first, "after close_range");
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    expect_served(second, "after each close");
    for (int i = 0; i < 64; i++)
        CHECK(open(i % 2 ? "/dev/null" : "/dev/zero", O_RDWR) >= 0);
    expect_served(third, "after the numbers were used again");
}

/* Closed before the heap has done anything large. */
static void descriptors_closed_first(void) {
    if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
        CHECK(errno == ENOSYS);
    expect_served(need(malloc(BLOCK)), "after an early close_range");
}

/* Every number that is open becomes another file, which answers where it is taken for one of ours. */
static void descriptors_replaced(void) {
    static const char *const others[] = {"/proc/self/pagemap", "/dev/zero", "/dev/null"};
    free(need(calloc(1, BLOCK)));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        unsigned char *before = need(malloc(BLOCK));
        int other = open(others[i], O_RDWR);
        if (other < 0)
            other = open(others[i], O_RDONLY);
        CHECK(other >= 0);
        for (int fd = 3; fd < 1100; fd++)
            if (fd != other && fcntl(fd, F_GETFD) >= 0)
                CHECK(dup2(other, fd) == fd);
        expect_served(before, others[i]);
        for (size_t size = 100000; size < 2 * MIB; size += 100000) {
            unsigned char *zeros = need(calloc(1, size));
            EXPECT_BYTES(zeros, size, 0, others[i]);
            zeros[size / 2] = 'x';
            free(zeros);
        }
    }
}

static _Atomic int over;

static void *callocs(void *which) {
    for (size_t round = 1; !over; round++) {
        size_t size = 200000 + (round * 7919 + (uintptr_t)which * 104729) % 1000000;
        unsigned char *zeros = need(calloc(1, size));
        EXPECT_BYTES(zeros, size, 0, "beside a thread that replaces descriptors");
        for (size_t at = 0; at < size; at += 3 * 4096)
            zeros[at] = 'x';
        free(zeros);
    }
    return NULL;
}

/* The same all the time, while others allocate, with so few numbers that all are used again and again. */
static void descriptors_replaced_by_threads(void) {
    struct rlimit few = {128, 128};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    pthread_t threads[6];
    for (size_t i = 0; i < 6; i++)
        CHECK(pthread_create(&threads[i], NULL, callocs, (void *)i) == 0);
    for (int round = 0; round < 4000; round++) {
        int other = open("/dev/zero", O_RDWR);
        for (int fd = 3; fd < 60 && other >= 0; fd++)
            if (fd != other)
                dup2(other, fd);
        if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
            CHECK(errno == ENOSYS);
        usleep(200);
    }
    over = 1;
    for (size_t i = 0; i < 6; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static void *closes_and_touches(void *unused) {
    if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
        CHECK(errno == ENOSYS);
    expect_served(need(malloc(BLOCK)), "in a thread that closes descriptors");
    return unused;
}

static void descriptors_closed_by_threads(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, closes_and_touches, NULL) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static volatile sig_atomic_t handled, on_another_thread;

static void handle(int number) {
    (void)number;
    handled++;
    on_another_thread |= syscall(SYS_gettid) != getpid();
}

/* A signal to the process goes to a thread of the program, and waits while that blocks it. */
static void signals(void) {
    sigset_t set;
    unsigned char *block = need(malloc(BLOCK));
    CHECK(signal(SIGUSR1, handle) != SIG_ERR && signal(SIGPROF, handle) != SIG_ERR);
    CHECK(sigemptyset(&set) == 0 && sigaddset(&set, SIGUSR1) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    for (int i = 0; i < 1000; i++) {
        CHECK(kill(getpid(), SIGUSR1) == 0);
        block[i * 4096] = 'x';
    }
    CHECK(handled == 0);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    CHECK(handled == 1);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    while (handled < 20) {
        unsigned char *fresh = need(malloc(BLOCK));
        touch(fresh, "while signals arrive");
        free(fresh);
    }
    CHECK(!on_another_thread);
    free(block);
}

/* The program throws its pages away; what it frees and gets again is in order all the same. */
static void pages_given_up(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int round = 0; round < 4; round++) {
        unsigned char *block = round % 2 ? need(malloc(BLOCK)) : need(calloc(1, BLOCK));
        if (round % 2)
            EXPECT_PATTERN(block, BLOCK, "malloc after madvise");
        else
            EXPECT_BYTES(block, BLOCK, 0, "calloc after madvise");
        memset(block, 'x', BLOCK);
        uintptr_t from = ((uintptr_t)block + page - 1) / page * page;
        CHECK(madvise((void *)from, BLOCK / 2, MADV_DONTNEED) == 0);
        memset((void *)(from + BLOCK / 4), 'y', BLOCK / 8);
        free(block);
    }
}

static void *outlives_main(void *unused) {
    usleep(20000);
    expect_served(need(malloc(BLOCK)), "after the main thread's end");
    CHECK(write(1, "outlived\n", 9) == 9);
    return unused;
}

/* The process ends when the last thread of the program does. */
static void main_thread_ends(void) {
    pthread_t thread;
    free(need(malloc(BLOCK)));
    CHECK(pthread_create(&thread, NULL, outlives_main, NULL) == 0);
    pthread_exit(NULL);
}

typedef int work_function(int);

static void *work_in_all(void *handles) {
    for (void **handle = handles; *handle; handle++) {
        work_function *work = (work_function *)dlsym(*handle, "library_work");
        CHECK(work && work(0) && work(1));
    }
    return NULL;
}

/* Each .so of the directory that TEST_LIBRARIES names, all at once, with threads that meet their TLS. */
static void libraries_come_and_go(void) {
    const char *directory = getenv("TEST_LIBRARIES");
    CHECK(directory);
    for (int round = 0; round < 3; round++) {
        void *handles[200];
        size_t count = 0;
        DIR *listing = opendir(directory);
        CHECK(listing);
        for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
            char path[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
            CHECK(count < 199);
            handles[count] = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (!handles[count])
                FAIL("%s", dlerror());
            count++;
        }
        handles[count] = NULL;
        closedir(listing);
        CHECK(count >= 50);
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, work_in_all, handles) == 0);
        work_in_all(handles);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        while (count > 0)
            CHECK(dlclose(handles[--count]) == 0);
    }
    /* And some that are written by others. */
    const char *others[] = {"libm.so.6", "libstdc++.so.6", "libz.so.1", "libcrypto.so.3", "libssl.so.3",
                            "libsqlite3.so.0", "libxml2.so.2", "libgcc_s.so.1", "libresolv.so.2", "libcurl.so.4"};
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            void *handle = dlopen(others[i], RTLD_NOW);
            if (handle)
                CHECK(dlclose(handle) == 0);
        }
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"descriptors-closed", descriptors_closed},
        {"descriptors-closed-first", descriptors_closed_first},
        {"descriptors-replaced", descriptors_replaced},
        {"descriptors-replaced-by-threads", descriptors_replaced_by_threads},
        {"descriptors-closed-by-threads", descriptors_closed_by_threads},
        {"signals", signals},
        {"pages-given-up", pages_given_up},
        {"main-thread-ends", main_thread_ends},
        {"libraries", libraries_come_and_go},
    };
    return RUN_BEHAVIOUR(behaviours);
}
