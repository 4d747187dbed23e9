/* Accesses that end the process, and what is told of them. Each behaviour prints the address that it misuses. */
#include "check.h"

#define REFPAGE_WEAK
#include "refpage.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* Where the compiler cannot see what it is. */
static char *volatile hidden;

static void write_to(char *address) {
    dprintf(1, "%p\n", (void *)address);
    hidden = address;
    *hidden = 1;
}

static void read_from(char *address) {
    dprintf(1, "%p\n", (void *)address);
    hidden = address;
    dprintf(1, "it is %d\n", *hidden);
}

static void overflow(void) {
    write_to((char *)need(malloc(MIB)) + MIB);
}

static void overflow_far(void) {
    write_to((char *)need(malloc(MIB - 50000)) + MIB - 20000);
}

static void overread(void) {
    read_from((char *)need(malloc(MIB)) + MIB);
}

static void overread_of_calloc(void) {
    read_from((char *)need(calloc(1, MIB)) + MIB);
}

/* Two runs beside each other, the lower of which leaves pages between them: the upper one. */
static char *upper(void) {
    char *last = need(malloc(MIB - 20000));
    for (int i = 0; i < 50; i++) {
        char *block = need(malloc(MIB - 20000));
        if (block - last == MIB)
            return block;
        last = block;
    }
    FAIL("no two runs beside each other");
}

static void underflow(void) {
    write_to(upper() - 1);
}

static void underread(void) {
    read_from(upper() - 1);
}

/* Behind what is nobody's already. */
static void wild(void) {
    char *block = need(malloc(MIB - 50000));
    free(block);
    read_from(block + MIB - 20000);
}

/* A page that its user never touched is missing. */
__attribute__((noinline))
static char *allocate_here(void) {
    char *block = need(malloc(MIB));
    block[5] = 1;
    return block;
}

__attribute__((noinline))
static void free_here(char *block) {
    free(block);
}

static void use_after_free(void) {
    char *block = allocate_here();
    free_here(block);
    write_to(block + MIB / 2);
}

static void *writes(void *address) {
    prctl(PR_SET_NAME, "a (writer)");
    write_to(address);
    return NULL;
}

static void overflow_by_a_thread(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writes, (char *)need(malloc(MIB)) + MIB) == 0);
    pthread_join(thread, NULL);
}

static void overflow_in_a_system_call(void) {
    char *end = (char *)need(malloc(MIB)) + MIB;
    dprintf(1, "%p\n", (void *)end);
    int zero = open("/dev/zero", O_RDONLY);
    CHECK(zero >= 0 && read(zero, end, 1) == -1 && errno == EFAULT);
}

/* Another process, which is told only that it cannot be read. */
static void looked_into(void) {
    char *end = (char *)need(malloc(MIB)) + MIB, byte;
    pid_t child = fork();
    if (child == 0) {
        struct iovec here = {&byte, 1}, there = {end, 1};
        _exit(process_vm_readv(getppid(), &here, 1, &there, 1, 0) == -1 ? errno == EPERM ? 2 : 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        puts("skipped: no process may read another's memory here");
    else
        CHECK(WEXITSTATUS(status) == 0);
}

static char *expected;

static void handler(int signal, siginfo_t *info, void *context) {
    CHECK(signal == SIGSEGV || signal == SIGBUS);
    CHECK(context != NULL);
    CHECK(info->si_addr == expected);
    dprintf(1, "handled\n");
    _exit(3);
}

static void handle(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
}

static void handled_by_a_handler_of_before(void) {
    handle();
    expected = (char *)need(malloc(MIB)) + MIB;
    write_to(expected);
}

static void handled_by_a_handler_of_after(void) {
    expected = (char *)need(malloc(MIB)) + MIB;
    handle();
    write_to(expected);
}

/* What a runtime looks at before it installs a handler of its own. */
static void default_disposition(void) {
    char *block = need(malloc(MIB));
    memset(block, 1, MIB);
    free(block);
    struct sigaction segv, bus;
    CHECK(sigaction(SIGSEGV, NULL, &segv) == 0 && sigaction(SIGBUS, NULL, &bus) == 0);
    CHECK(segv.sa_handler == SIG_DFL && bus.sa_handler == SIG_DFL);
}

static void many(void) {
    for (int i = 0; i < 40; i++) {
        int pipes[2];
        char *end = (char *)need(malloc(MIB)) + MIB;
        CHECK(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1);
        CHECK(read(pipes[0], end, 1) == -1 && errno == EFAULT);
        close(pipes[0]);
        close(pipes[1]);
    }
}

static void foreign(void) {
    dprintf(1, "16\n");
    *(volatile char *)16 = 1;
}

static void double_free(void) {
    char *block = allocate_here();
    free_here(block);
    dprintf(1, "%p\n", (void *)block);
    free_here(block);
}

static struct refpage_description told(const char *address) {
    struct refpage_description told;
    CHECK(refpage_describe(address, &told, sizeof told) == 1);
    return told;
}

static void describe(void) {
    struct refpage_description it;
    char *block = need(malloc(MIB - 50000)), *small = need(malloc(200)), *other = need(malloc(200));
    it = told(block + MIB - 50001);
    CHECK(it.state == REFPAGE_LIVE && it.start == (uintptr_t)block && it.offset == MIB - 50001);
    it = told(block + MIB - 50000);
    CHECK(it.state == REFPAGE_GAP && it.sort == REFPAGE_LARGE);
    CHECK(it.start == (uintptr_t)block && it.size == MIB - 50000 && it.offset == MIB - 50000);
    it = told(small + 199);
    CHECK(it.state == REFPAGE_LIVE && it.sort == REFPAGE_SMALL && it.offset == 199);
    free(small);
    it = told(small + 16);
    CHECK(it.state == REFPAGE_FREED && it.sort == REFPAGE_SMALL && it.start == (uintptr_t)small);
    it = told(other);
    CHECK(it.state == REFPAGE_LIVE && it.offset == 0);
    char *high = upper();
    it = told(high - 1);
    CHECK(it.state == REFPAGE_GAP && it.start == (uintptr_t)high && it.offset == -1);
    it = told(high - 20000);
    CHECK(it.state == REFPAGE_GAP && it.start == (uintptr_t)high - MIB && it.offset == MIB - 20000);
    usleep(20000);
    CHECK(told(block).age_ms >= 20);
    free(block);
    it = told(block + 7);
    CHECK(it.state == REFPAGE_FREED || it.state == REFPAGE_QUARANTINED);
    CHECK(it.sort == REFPAGE_LARGE && it.start == (uintptr_t)block && it.size == MIB - 50000 && it.offset == 7);
    CHECK(it.age_ms < 60000);
    it = told(high + 40 * MIB);
    CHECK(it.state == REFPAGE_UNKNOWN && it.size == 0 && it.start == (uintptr_t)high + 40 * MIB);
    CHECK(refpage_describe(&it, &it, sizeof it) == 0);
    CHECK(refpage_describe((void *)-1, &it, sizeof it) == 0);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"overflow", overflow},
        {"overflow-far", overflow_far},
        {"overread", overread},
        {"overread-of-calloc", overread_of_calloc},
        {"underflow", underflow},
        {"underread", underread},
        {"wild", wild},
        {"use-after-free", use_after_free},
        {"overflow-by-a-thread", overflow_by_a_thread},
        {"overflow-in-a-system-call", overflow_in_a_system_call},
        {"looked-into", looked_into},
        {"handled-before", handled_by_a_handler_of_before},
        {"handled-after", handled_by_a_handler_of_after},
        {"default-disposition", default_disposition},
        {"many", many},
        {"foreign", foreign},
        {"double-free", double_free},
        {"describe", describe},
    };
    return RUN_BEHAVIOUR(behaviours);
}
