/* The kernel reads and writes fresh, untouched memory: what it wrote is there, all else is the pattern. */
#include "check.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define BLOCK (2 * MIB)

/* Byte i of what the tests send. */
static unsigned char sent(size_t i) {
    return (unsigned char)(i * 7 + i / 251);
}

static unsigned char *fresh(size_t size) {
    return need(malloc(size));
}

static void expect_sent(const unsigned char *bytes, size_t length, size_t first) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != sent(first + i))
            FAIL("received byte %zu is 0x%02x, not 0x%02x", first + i, bytes[i], sent(first + i));
}

/* An unnamed file of `size` bytes in the working directory. */
static int sent_file(size_t size, int flags) {
    char name[] = "kernel.XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    unsigned char chunk[4096];
    for (size_t at = 0; at < size; at += sizeof chunk) {
        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = sent(at + i);
        size_t length = size - at < sizeof chunk ? size - at : sizeof chunk;
        CHECK(write(fd, chunk, length) == (ssize_t)length);
    }
    CHECK(fsync(fd) == 0);
    int again = open(name, O_RDWR | flags);
    int error = errno;
    CHECK(unlink(name) == 0);
    CHECK(close(fd) == 0);
    errno = error;
    return again;
}

static void read_from_file(void) {
    int fd = sent_file(MIB + 77, 0);
    CHECK(fd >= 0);
    unsigned char *block = fresh(BLOCK);
    CHECK(read(fd, block, BLOCK) == MIB + 77);
    expect_sent(block, MIB + 77, 0);
    EXPECT_PATTERN(block + MIB + 77, BLOCK - MIB - 77, "past what read wrote");
    free(block);
    /* Into the middle, at odd offsets, of a block whose other pages stay untouched. */
    block = fresh(BLOCK);
    CHECK(pread(fd, block + 777777, 100001, 33) == 100001);
    EXPECT_PATTERN(block, 777777, "before what pread wrote");
    expect_sent(block + 777777, 100001, 33);
    EXPECT_PATTERN(block + 877778, BLOCK - 877778, "past what pread wrote");
    free(block);
    close(fd);
}

/* O_DIRECT pins the pages: the device writes to them behind the page table's back. */
static void read_directly(void) {
    int fd = sent_file(MIB, O_DIRECT);
    if (fd < 0) {
        puts("no O_DIRECT here");
        return;
    }
    for (int round = 0; round < 4; round++) {
        void *aligned;
        CHECK(posix_memalign(&aligned, 4096, BLOCK) == 0);
        unsigned char *block = aligned;
        ssize_t length = pread(fd, block + 64 * KIB, MIB, 0);
        if (length < 0 && errno == EINVAL) {
            puts("this file system takes O_DIRECT and does not do it");
            return;
        }
        CHECK(length == MIB);
        EXPECT_PATTERN(block, 64 * KIB, "before a direct read");
        expect_sent(block + 64 * KIB, MIB, 0);
        EXPECT_PATTERN(block + 64 * KIB + MIB, BLOCK - 64 * KIB - MIB, "past a direct read");
        free(block);
    }
    void *aligned;
    CHECK(posix_memalign(&aligned, 4096, BLOCK) == 0);
    CHECK(pwrite(fd, aligned, BLOCK, 0) == BLOCK);
    memset(aligned, other_byte(1), BLOCK);
    CHECK(pread(fd, aligned, BLOCK, 0) == BLOCK);
    EXPECT_PATTERN(aligned, BLOCK, "what a direct write took from fresh memory");
    free(aligned);
    close(fd);
}

static void *send_all(void *fd_pointer) {
    int fd = *(int *)fd_pointer;
    unsigned char chunk[8192];
    for (size_t at = 0; at < MIB; at += sizeof chunk) {
        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = sent(at + i);
        size_t done = 0;
        while (done < sizeof chunk) {
            ssize_t length = write(fd, chunk + done, sizeof chunk - done);
            CHECK(length > 0);
            done += (size_t)length;
        }
    }
    return NULL;
}

static void read_from_pipe(void) {
    int ends[2];
    pthread_t sender;
    CHECK(pipe(ends) == 0);
    CHECK(pthread_create(&sender, NULL, send_all, &ends[1]) == 0);
    unsigned char *block = fresh(BLOCK);
    for (size_t at = 0; at < MIB;) {
        ssize_t length = read(ends[0], block + at, BLOCK - at);
        CHECK(length > 0);
        at += (size_t)length;
    }
    CHECK(pthread_join(sender, NULL) == 0);
    expect_sent(block, MIB, 0);
    EXPECT_PATTERN(block + MIB, BLOCK - MIB, "past what came out of the pipe");
    free(block);
}

static void receive_from_socket(void) {
    int ends[2];
    pthread_t sender;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(pthread_create(&sender, NULL, send_all, &ends[1]) == 0);
    unsigned char *block = fresh(BLOCK);
    /* recvmsg has its own structures in fresh memory, too. */
    struct msghdr *message = (void *)fresh(MIB);
    struct iovec *vector = (void *)fresh(MIB);
    *message = (struct msghdr){.msg_iov = vector, .msg_iovlen = 1};
    for (size_t at = 0; at < MIB;) {
        *vector = (struct iovec){block + at, MIB - at};
        ssize_t length = at < MIB / 2 ? recv(ends[0], block + at, MIB - at, MSG_WAITALL) : recvmsg(ends[0], message, 0);
        CHECK(length > 0);
        at += (size_t)length;
    }
    CHECK(pthread_join(sender, NULL) == 0);
    expect_sent(block, MIB, 0);
    EXPECT_PATTERN(block + MIB, BLOCK - MIB, "past what came out of the socket");
    free(block);
    free(message);
    free(vector);
}

static void read_into_many(void) {
    enum { COUNT = 6 };
    int fd = sent_file(COUNT * 100000, 0);
    CHECK(fd >= 0);
    struct iovec vectors[COUNT];
    unsigned char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = fresh(BLOCK);
        vectors[i] = (struct iovec){blocks[i] + 4000 * i, 100000};
    }
    CHECK(readv(fd, vectors, COUNT) == COUNT * 100000);
    for (int i = 0; i < COUNT; i++) {
        size_t from = 4000 * (size_t)i;
        EXPECT_PATTERN(blocks[i], from, "before one of readv's buffers");
        expect_sent(blocks[i] + from, 100000, (size_t)i * 100000);
        EXPECT_PATTERN(blocks[i] + from + 100000, BLOCK - from - 100000, "past one of readv's buffers");
        free(blocks[i]);
    }
    close(fd);
}

static void random_bytes(void) {
    unsigned char *block = fresh(BLOCK);
    size_t seen[256] = {0};
    for (size_t at = 0; at < MIB;) {
        ssize_t length = getrandom(block + at, MIB - at, 0);
        CHECK(length > 0);
        at += (size_t)length;
    }
    for (size_t i = 0; i < MIB; i++)
        seen[block[i]]++;
    /* 4,096 of each on average: no byte can be missing, and none can have half. */
    for (int byte = 0; byte < 256; byte++)
        CHECK(seen[byte] > 3000 && seen[byte] < 6000);
    EXPECT_PATTERN(block + MIB, BLOCK - MIB, "past what getrandom wrote");
    free(block);
}

/* Waits on a word of memory that nobody has touched. */
static void *wait_on(void *word) {
    uint32_t untouched;
    copy_pattern(&untouched, word, sizeof untouched);
    while (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, untouched, NULL, NULL, 0) != 0)
        if (errno == EAGAIN)
            break;
        else
            CHECK(errno == EINTR);
    CHECK(*(volatile uint32_t *)word == 1);
    return NULL;
}

static void futex_word(void) {
    for (int round = 0; round < 10; round++) {
        unsigned char *block = fresh(BLOCK);
        uint32_t *word = (uint32_t *)(block + MIB);
        struct timespec instant = {0, 1000};
        uint32_t untouched;
        copy_pattern(&untouched, word, sizeof untouched);
        CHECK(syscall(SYS_futex, block + 4096, FUTEX_WAIT_PRIVATE, untouched, &instant, NULL, 0) == -1);
        CHECK(errno == ETIMEDOUT);
        pthread_t waiter;
        CHECK(pthread_create(&waiter, NULL, wait_on, word) == 0);
        usleep(1000);
        __atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
        CHECK(syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) >= 0);
        CHECK(pthread_join(waiter, NULL) == 0);
        EXPECT_PATTERN(block, MIB, "before the futex word");
        EXPECT_PATTERN(block + MIB + 4, BLOCK - MIB - 4, "past the futex word");
        free(block);
    }
}

static void write_from_fresh(void) {
    int fd = sent_file(0, 0);
    CHECK(fd >= 0);
    unsigned char *block = fresh(BLOCK);
    CHECK(write(fd, block, BLOCK) == BLOCK);
    unsigned char *back = fresh(BLOCK);
    memset(back, other_byte(1), BLOCK);
    CHECK(pread(fd, back, BLOCK, 0) == BLOCK);
    EXPECT_PATTERN(back, BLOCK, "what write took from fresh memory");
    EXPECT_PATTERN(block, BLOCK, "what write left");
    free(block);
    free(back);
    close(fd);
}

static void results_in_fresh_memory(void) {
    struct stat on_stack, *in_heap = (void *)(fresh(MIB) + 12345 / 16 * 16);
    CHECK(stat("/proc/self/exe", &on_stack) == 0);
    CHECK(stat("/proc/self/exe", in_heap) == 0);
    CHECK(in_heap->st_ino == on_stack.st_ino && in_heap->st_size == on_stack.st_size);
    int *ends = (void *)fresh(MIB);
    CHECK(pipe(ends) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    int epoll = epoll_create1(0);
    struct epoll_event *event = (void *)fresh(MIB), wanted = {.events = EPOLLIN, .data.u64 = 17};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &wanted) == 0);
    CHECK(epoll_wait(epoll, event, 1000, -1) == 1 && event->data.u64 == 17);
    char *cwd = (void *)fresh(MIB);
    CHECK(getcwd(cwd, MIB) == cwd && cwd[0] == '/');
    int *status = (void *)fresh(MIB);
    pid_t child = fork();
    if (child == 0)
        _exit(42);
    CHECK(waitpid(child, status, 0) == child && WEXITSTATUS(*status) == 42);
}

static volatile sig_atomic_t handled;

static void handle(int number) {
    char on_stack[20000];
    memset(on_stack, number, sizeof on_stack);
    handled += on_stack[number] == number;
}

/* The kernel writes the signal frame, and the handler its locals, to a stack that nobody has touched. */
static void signal_stack(void) {
    stack_t stack = {.ss_sp = fresh(MIB), .ss_size = MIB};
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(handled == 1);
    EXPECT_PATTERN(stack.ss_sp, MIB / 2, "the unused part of a signal stack");
}

static void *use_stack(void *depth) {
    char on_stack[10000];
    memset(on_stack, 1, sizeof on_stack);
    if (depth)
        use_stack((char *)depth - 1);
    return (void *)(uintptr_t)on_stack[5000];
}

static void thread_stack(void) {
    void *stack, *result;
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(posix_memalign(&stack, (size_t)sysconf(_SC_PAGESIZE), BLOCK) == 0);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, stack, BLOCK) == 0);
    CHECK(pthread_create(&thread, &attributes, use_stack, (void *)50) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == (void *)1);
    EXPECT_PATTERN(stack, MIB / 2, "the unused part of a thread's stack");
    free(stack);
}

/* Another way into the memory: not the accessing thread's own page faults. */
static void remote_access(void) {
    unsigned char *from = fresh(BLOCK), *to = fresh(BLOCK);
    struct iovec local = {to, MIB}, remote = {from, MIB};
    ssize_t length = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (length < 0 && (errno == EPERM || errno == ENOSYS)) {
        puts("no process_vm_readv here");
        return;
    }
    CHECK(length == MIB);
    EXPECT_PATTERN(to, BLOCK, "what process_vm_readv took from fresh memory");
    free(from);
    free(to);
}

/* Programs lock, protect and advise pages of their own blocks; the heap lives on with what that leaves. */
static void locked_and_protected(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t state = 3;
    for (int round = 0; round < 20; round++) {
        void *aligned;
        CHECK(posix_memalign(&aligned, page, BLOCK) == 0);
        unsigned char *block = aligned;
        if (mlock(block + page, 4 * page) == 0) {
            EXPECT_PATTERN(block, 8 * page, "locked memory");
            CHECK(munlock(block + page, 4 * page) == 0);
        }
        CHECK(mprotect(block + MIB, 4 * page, PROT_READ) == 0);
        EXPECT_PATTERN(block + MIB, 8 * page, "read-only memory");
        CHECK(mprotect(block + MIB, 4 * page, PROT_READ | PROT_WRITE) == 0);
        CHECK(madvise(block + MIB + 16 * page, 4 * page, MADV_WILLNEED) == 0 || errno == EINVAL || errno == EBADF);
        EXPECT_PATTERN(block, BLOCK, "memory that was locked and protected");
        scribble(block, BLOCK, &state);
        free(block);
    }
}

/* Blocks of many sizes from malloc and calloc, grown, freed and used again: each byte is what it has to be. */
static void use_in_turn(int rounds) {
    static const size_t sizes[] = {70000, 1500000, 4096000, 5 * MIB, 9000000};
    uint64_t state = 7;
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t size = sizes[i], more = size + size / 2;
            unsigned char *filled = need(malloc(size)), *zeroed = need(calloc(1, size));
            EXPECT_PATTERN(filled, size, "malloc");
            EXPECT_BYTES(zeroed, size, 0, "calloc");
            scribble(zeroed, round % 2 ? size : size / 3, &state);
            memset(filled, 'f', size);
            filled = need(realloc(filled, more));
            EXPECT_BYTES(filled, size, 'f', "the old part of a block that grew");
            EXPECT_PATTERN(filled + size, more - size, "the new part of a block that grew");
            zeroed = need(realloc(zeroed, more));
            EXPECT_PATTERN(zeroed + size, more - size, "the new part of a calloc block that grew");
            free(filled);
            if (round % 3 == 0)
                malloc_trim(0);
            free(zeroed);
            if (round % 4 == 1)
                malloc_trim(0);
        }
}

/* Nothing that is freed can be dropped without ado. */
static void locked_heap(void) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        dprintf(1, "memory is not locked: mlockall: %s\n", strerror(errno));
    use_in_turn(8);
}

static void count_alarm(int signal) {
    (void)signal;
}

/* A thread that waits for a page is taken out of its wait, and comes back to it. */
static void faults_under_signals(void) {
    struct sigaction action = {.sa_handler = count_alarm, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    use_in_turn(6);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"read-from-file", read_from_file},
        {"read-directly", read_directly},
        {"read-from-pipe", read_from_pipe},
        {"receive-from-socket", receive_from_socket},
        {"read-into-many", read_into_many},
        {"random-bytes", random_bytes},
        {"futex-word", futex_word},
        {"write-from-fresh", write_from_fresh},
        {"results", results_in_fresh_memory},
        {"signal-stack", signal_stack},
        {"thread-stack", thread_stack},
        {"remote-access", remote_access},
        {"locked-and-protected", locked_and_protected},
        {"locked-heap", locked_heap},
        {"faults-under-signals", faults_under_signals},
    };
    return RUN_BEHAVIOUR(behaviours);
}
