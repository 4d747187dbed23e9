/* Signal handlers that allocate and free, in the midst of threads that do so. POSIX does not ask for it. */
#include "check.h"
#include "stamps.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { SECONDS = 2, MOST_THREADS = 4, OWN = 256, MAILBOXES = 64, BUCKETS = 1 << 14, PLACES = 8 };

/* ---- Which blocks there are ---- */

/* The addresses of all live blocks, apart from them: one that is handed out twice is here twice. */
static _Atomic(uintptr_t) live[BUCKETS][PLACES];

static _Atomic(uintptr_t) *bucket_of(const void *block) {
    return live[(uintptr_t)block * 0x9e3779b97f4a7c15ull >> 50];
}

static void now_live(const void *block) {
    _Atomic(uintptr_t) *bucket = bucket_of(block);
    for (int i = 0; i < PLACES; i++)
        if (bucket[i] == (uintptr_t)block)
            FAIL("%p was handed out while it was somebody's", block);
    for (int i = 0; i < PLACES; i++) {
        uintptr_t none = 0;
        if (atomic_compare_exchange_strong(&bucket[i], &none, (uintptr_t)block))
            return;
    }
    FAIL("too many blocks for the test's own list");
}

static void not_live(const void *block) {
    _Atomic(uintptr_t) *bucket = bucket_of(block);
    int found = 0;
    for (int i = 0; i < PLACES; i++) {
        uintptr_t address = (uintptr_t)block;
        found += atomic_compare_exchange_strong(&bucket[i], &address, 0);
    }
    if (found != 1)
        FAIL("%p was handed out to %d at a time", block, found);
}

/* ---- What a thread and its handler do ---- */

struct actor {
    uint64_t state, next_id;
    /* A handler may be told that there is no memory that time: it may have interrupted who holds it. */
    int is_handler;
    unsigned long asked, refused;
};

/* Null for a handler only. */
static void *granted(struct actor *actor, void *block) {
    actor->asked++;
    if (!block) {
        if (!actor->is_handler)
            FAIL("a thread was refused memory");
        CHECK(errno == ENOMEM);
        actor->refused++;
    }
    return block;
}

static size_t some_size(struct actor *actor) {
    uint64_t dice = random_next(&actor->state) >> 32;
    if (dice % 64 == 0)
        return 64 * KIB + random_next(&actor->state) % (200 * KIB);
    return stamped_size(&actor->state, dice % 8 == 0 ? 15 : 10);
}

static struct stamped *make(struct actor *actor) {
    size_t size = some_size(actor);
    uint64_t id = actor->next_id++;
    void *block = granted(actor, id % 4 == 0 ? calloc(1, size) : malloc(size));
    if (!block)
        return NULL;
    now_live(block);
    if (id % 4 == 0) {
        EXPECT_BYTES(block, size, 0, "calloc");
    } else {
        fresh(block, "malloc");
    }
    return stamp(block, size, id);
}

static void drop(struct stamped *block, const char *what) {
    if (block) {
        expect_stamp(block, what);
        not_live(block);
        free_stamped(block, what);
    }
}

static struct stamped *resize(struct actor *actor, struct stamped *block) {
    if (!block)
        return NULL;
    size_t size = some_size(actor), least = size < block->size ? size : block->size;
    uint64_t id = block->id;
    expect_stamp(block, "a block to be resized");
    not_live(block);
    struct stamped *old = block;
    block = granted(actor, realloc(old, size));
    if (!block) {
        now_live(old);
        expect_stamp(old, "a block whose realloc was refused");
        return old;
    }
    now_live(block);
    CHECK(block->id == id);
    EXPECT_BYTES(block->bytes, least - sizeof *block, (unsigned char)(id * 31 + 7), "a resized block");
    if (patterned())
        EXPECT_PATTERN((char *)block + least, malloc_usable_size(block) - least, "what realloc added");
    return stamp(block, size, id);
}

/* Blocks that go from threads to handlers, from handlers to threads, and to others of each. */
static _Atomic(struct stamped *) mailboxes[MAILBOXES];
static atomic_ulong handled, done;
static atomic_int stop;

static void exchange(struct actor *actor, const char *what) {
    drop(atomic_exchange(&mailboxes[random_next(&actor->state) % MAILBOXES], make(actor)), what);
}

/* ---- The handler ---- */

struct thread {
    pthread_t thread;
    struct actor in_thread, in_handler;
    timer_t timer;
};

static struct thread threads[MOST_THREADS];
static _Thread_local struct thread *self;

/* Once, some 50 to 300 us from now. The handler asks for the next one at its end: the thread comes on in between. */
static void interrupt_soon(struct thread *thread) {
    long ns = 50000 + (long)(random_next(&thread->in_handler.state) % 250000);
    struct itimerspec spec = {{0, 0}, {0, ns}};
    CHECK(timer_settime(thread->timer, 0, &spec, NULL) == 0);
}

static void handler(int signal) {
    (void)signal;
    int error = errno;
    struct actor *actor = &self->in_handler;
    for (int i = 0; i < 4; i++)
        exchange(actor, "a block that a handler found");
    struct stamped *own = make(actor);
    own = resize(actor, own);
    drop(own, "a handler's own block");
    handled++;
    if (!stop)
        interrupt_soon(self);
    errno = error;
}

static void start_timer(void) {
    struct sigevent event = {0};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &self->timer) == 0);
    interrupt_soon(self);
}

static void *work(void *argument) {
    static _Thread_local struct stamped *own[OWN];
    self = argument;
    start_timer();
    struct actor *actor = &self->in_thread;
    while (!stop) {
        size_t i = random_next(&actor->state) % OWN;
        if (random_next(&actor->state) % 8 == 0)
            exchange(actor, "a block that a thread found");
        else if (own[i] && random_next(&actor->state) % 4 == 0)
            own[i] = resize(actor, own[i]);
        else {
            drop(own[i], "a thread's own block");
            own[i] = make(actor);
        }
        /* Tight: nothing but malloc and free of a block that is in no magazine's way. */
        for (int j = 0; j < 16; j++) {
            void *block = need(malloc(16u << j % 8));
            now_live(block);
            not_live(block);
            free(block);
        }
        done++;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &signals, NULL) == 0);
    CHECK(timer_delete(self->timer) == 0);
    for (int i = 0; i < OWN; i++)
        drop(own[i], "a thread's block at the end");
    return NULL;
}

static void interrupt(int count) {
    struct sigaction action = {0};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    /* Who waits for itself is ended. */
    alarm(30);
    pattern_at(&action);
    patterned();
    const size_t before = mallinfo2().uordblks;
    for (int i = 0; i < count; i++) {
        threads[i].in_thread = (struct actor){.state = (uint64_t)i * 2 + 1, .next_id = (uint64_t)(i * 2) << 32};
        threads[i].in_handler =
            (struct actor){.state = (uint64_t)i * 2 + 2, .next_id = (uint64_t)(i * 2 + 1) << 32, .is_handler = 1};
        CHECK(pthread_create(&threads[i].thread, NULL, work, &threads[i]) == 0);
    }
    /* So long, and until something has happened: an emulated machine takes longer. */
    for (int i = 0; i < SECONDS * 10 || handled < 100ul * (unsigned)count; i++) {
        struct timespec time = {0, 100000000};
        nanosleep(&time, NULL);
    }
    stop = 1;
    for (int i = 0; i < count; i++)
        CHECK(pthread_join(threads[i].thread, NULL) == 0);
    for (int i = 0; i < MAILBOXES; i++)
        drop(mailboxes[i], "a block that nobody fetched");
    for (int i = 0; i < BUCKETS * PLACES; i++)
        CHECK(live[i / PLACES][i % PLACES] == 0);
    /* What handlers freed while nobody could take it is free as soon as somebody can; what this thread keeps to
       itself counts as used. */
    for (int i = 0; i < 4; i++) {
        void *small = need(malloc(5000)), *large = need(malloc(100 * KIB));
        free(small);
        free(large);
    }
    EXPECT_AT_MOST(mallinfo2().uordblks, before + 3 * MIB / 2);
    unsigned long asked = 0, refused = 0;
    for (int i = 0; i < count; i++) {
        asked += threads[i].in_handler.asked;
        refused += threads[i].in_handler.refused;
    }
    printf("figure: handlers asked for %lu blocks, %lu were refused\n", asked, refused);
    CHECK(refused < asked / 2);
    printf("figure: %lu handlers ran, %lu rounds\n", (unsigned long)handled, (unsigned long)done);
}

static void one_thread(void) {
    interrupt(1);
}

static void four_threads(void) {
    interrupt(4);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"one-thread", one_thread},
        {"four-threads", four_threads},
    };
    return RUN_BEHAVIOUR(behaviours);
}
