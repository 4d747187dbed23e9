/* Pools of threads: very many at once, very many one after another, and what they leave when they end. */
#include "check.h"
#include "stamps.h"

#include <limits.h>
#include <pthread.h>

/* Little stacks: there are thousands. */
static pthread_attr_t attributes;

static void choose_stacks(void) {
    long least = sysconf(_SC_THREAD_STACK_MIN);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, (size_t)(least > 0 ? least : 16384) + 64 * KIB) == 0);
}

static void start_thread(pthread_t *thread, void *(*body)(void *), size_t which) {
    CHECK(pthread_create(thread, &attributes, body, (void *)which) == 0);
}

/* ---- Thousands alive at once ---- */

enum { MANY = 4000, HANDED = 6, ROUNDS = 4 };

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t round_ends;
static size_t alive;
static struct stamped *handed[MANY][HANDED];

static void *hand_to_a_neighbour(void *argument) {
    size_t which = (uintptr_t)argument;
    uint64_t state = which + 1;
    /* Each has a block of its own before there are as many as there will be. */
    struct stamped *own = make_stamped(stamped_size(&state, 10), which);
    pthread_mutex_lock(&gate);
    while (!alive)
        pthread_cond_wait(&opened, &gate);
    pthread_mutex_unlock(&gate);
    size_t neighbour = (which + 1) % alive;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < HANDED; i++)
            handed[neighbour][i] = make_stamped(stamped_size(&state, 12), which * HANDED + (size_t)i);
        pthread_barrier_wait(&round_ends);
        size_t from = (which + alive - 1) % alive;
        for (int i = 0; i < HANDED; i++) {
            CHECK(handed[which][i]->id == from * HANDED + (size_t)i);
            free_stamped(handed[which][i], "a block from a neighbour");
        }
        pthread_barrier_wait(&round_ends);
    }
    CHECK(own->id == which);
    free_stamped(own, "a block that a thread kept");
    return NULL;
}

static void thousands_at_once(void) {
    pthread_t *threads = aside(MANY * sizeof *threads);
    const size_t most = affordable(MANY * 64 * KIB) / (64 * KIB), before = rss();
    size_t count = 0;
    int error = 0;
    while (count < most && (error = pthread_create(&threads[count], &attributes, hand_to_a_neighbour,
                                                   (void *)count)) == 0)
        count++;
    if (error)
        printf("skipped: %zu threads at once, there can be %zu: %s\n", most, count, strerror(error));
    CHECK(count > 1);
    CHECK(pthread_barrier_init(&round_ends, NULL, (unsigned)count) == 0);
    pthread_mutex_lock(&gate);
    alive = count;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
    for (size_t i = 0; i < count; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    figure("with the threads, at most", peak_rss());
    malloc_trim(0);
    figure("without them, trimmed", rss());
    /* libc keeps 40 MiB of stacks. What a thread's cache is made of may stay for the next thread. */
    EXPECT_AT_MOST(rss(), before + 48 * MIB + count * 24 * KIB);
    free_stamped(make_stamped(1000, 1), "a block after them all");
}

/* ---- One after another ---- */

enum { LIVES = 20000, KEPT_SIZE = 48, LEFT = 8 };

/* What each thread leaves for the one that comes next, and what stays to the end. */
static _Atomic(struct stamped *) left[64][LEFT];
static struct stamped **kept;

static void *short_life(void *argument) {
    size_t which = (uintptr_t)argument;
    uint64_t state = which + 1;
    struct stamped *own[40];
    for (size_t i = 0; i < 40; i++)
        own[i] = make_stamped(stamped_size(&state, 13), which * 64 + i);
    kept[which] = make_stamped(KEPT_SIZE, which);
    for (size_t i = 0; i < 40; i++) {
        struct stamped *other = own[i];
        if (i < LEFT)
            other = atomic_exchange(&left[which % 64][i], own[i]);
        if (other)
            free_stamped(other, "a block of a short life");
    }
    return NULL;
}

static void one_after_another(size_t at_once) {
    pthread_t threads[64];
    kept = aside(LIVES * sizeof *kept);
    size_t early = 0;
    for (size_t first = 0; first < LIVES; first += at_once) {
        if (!early && first >= LIVES / 10)
            early = rss();
        size_t count = LIVES - first < at_once ? LIVES - first : at_once;
        for (size_t i = 0; i < count; i++)
            start_thread(&threads[i], short_life, first + i);
        for (size_t i = 0; i < count; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
    size_t late = rss();
    figure("after 2000 threads", early);
    figure("after 20000 threads", late);
    /* Beyond what stays, and how many happened to run at the same time: much less than a page for each. */
    EXPECT_AT_MOST(late, early + LIVES * KEPT_SIZE * 3 / 2 + at_once * 128 * KIB + 4 * MIB);
    for (size_t i = 0; i < LIVES; i++) {
        CHECK(kept[i]->id == i);
        free_stamped(kept[i], "a block that a thread left for good");
    }
    for (size_t i = 0; i < 64 * LEFT; i++)
        if (left[i / LEFT][i % LEFT])
            free_stamped(left[i / LEFT][i % LEFT], "a block that one of the last threads left");
    malloc_trim(0);
    figure("after the trim", rss());
}

static void one_at_a_time(void) {
    one_after_another(1);
}

static void sixty_four_at_a_time(void) {
    one_after_another(64);
}

/* ---- What the dead leave ---- */

enum { HEIRS = 8, ESTATE = 12000 };

static struct stamped **estate;
static size_t estate_bytes;

static size_t estate_size(size_t i) {
    uint64_t state = i * 2654435761u + 1;
    random_next(&state);
    return stamped_size(&state, 13);
}

static void *leave(void *argument) {
    size_t which = (uintptr_t)argument;
    for (size_t i = which * ESTATE; i < (which + 1) * ESTATE; i++) {
        estate[i] = make_stamped(estate_size(i), i);
        /* And memory that it frees itself lies in between. */
        if (i % 3 == 0)
            free_stamped(make_stamped(estate_size(i), i), "a block of its own");
    }
    return NULL;
}

/* Every second block of all the dead. */
static void *inherit(void *argument) {
    for (size_t i = (uintptr_t)argument; i < (size_t)HEIRS * ESTATE; i += HEIRS) {
        CHECK(estate[i]->id == i && estate[i]->size == estate_size(i));
        free_stamped(estate[i], "a block that a dead thread left");
        estate[i] = NULL;
    }
    return NULL;
}

static void run_threads(void *(*body)(void *), size_t first, size_t step) {
    pthread_t threads[HEIRS];
    for (size_t i = first; i < HEIRS; i += step)
        start_thread(&threads[i], body, i);
    for (size_t i = first; i < HEIRS; i += step)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static void the_dead_leave_blocks(void) {
    estate = aside(HEIRS * ESTATE * sizeof *estate);
    for (size_t i = 0; i < HEIRS * ESTATE; i++)
        estate_bytes += estate_size(i);
    free_stamped(make_stamped(1000, 1), "the first block");
    const size_t start = rss();
    run_threads(leave, 0, 1);
    const size_t full = rss();
    figure("blocks that dead threads left", estate_bytes);
    figure("RSS with them", full - start);
    EXPECT_AT_MOST(full - start, estate_bytes * 3 / 2 + 24 * MIB);
    /* Some are freed by other threads, some by this one, one here and one there. */
    run_threads(inherit, 0, 2);
    for (size_t i = 1; i < HEIRS; i += 2)
        inherit((void *)i);
    figure("after they are freed", rss() - start);
    /* There is room for as much again where they were. */
    for (size_t i = 0; i < HEIRS * ESTATE; i++)
        estate[i] = make_stamped(estate_size(i), i);
    const size_t again = rss();
    figure("with as much again", again - start);
    EXPECT_AT_MOST(again, full + estate_bytes / 4 + 8 * MIB);
    run_threads(inherit, 0, 1);
    malloc_trim(0);
    const size_t end = rss() < start ? start : rss();
    figure("trimmed", end - start);
    EXPECT_AT_MOST(end - start, estate_bytes / 10 + 4 * MIB);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"thousands-at-once", thousands_at_once},
        {"one-at-a-time", one_at_a_time},
        {"64-at-a-time", sixty_four_at_a_time},
        {"heirs", the_dead_leave_blocks},
    };
    choose_stacks();
    return RUN_BEHAVIOUR(behaviours);
}
