/* Which pages of large allocations, and of other memory, were written to. */
#include "check.h"

#define REFPAGE_WEAK
#include "refpage.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define RESET REFPAGE_WRITE_WATCH_RESET
#define MOST 65536ul
/* Not a whole number of pages. */
#define SIZE (2 * MIB + 100)

static void *found[MOST];
static uintptr_t page_size;
static unsigned char mark;

static uintptr_t untagged(const void *pointer) {
    return (uintptr_t)pointer << 8 >> 8;
}

/* The address of the page that the first byte of a block is on. */
static uintptr_t base_of(const void *block) {
    return untagged(block) / page_size * page_size;
}

/* How many pages a block is on. */
static size_t pages_of(const void *block, size_t size) {
    return (untagged(block) + size - base_of(block) + page_size - 1) / page_size;
}

/* A byte of a block on its page of that number. */
static unsigned char *at(unsigned char *block, size_t page) {
    uintptr_t offset = untagged(block) - base_of(block);
    return page == 0 ? block : block + page * page_size - offset + 5;
}

/* Never what is there. */
static void write_to(unsigned char *block, size_t page) {
    unsigned char *byte = at(block, page);
    *byte = *byte == mark ? other_byte(mark + 1) : mark;
}

/* Exactly these pages of a block are in `found`, as many as `count` says; the numbers end with -1. */
static void expect_found_at(int line, const void *block, size_t count, const long *numbers) {
    size_t n = 0;
    while (numbers[n] >= 0)
        n++;
    for (size_t i = 0; i < count && i < n; i++)
        if ((uintptr_t)found[i] != base_of(block) + (size_t)numbers[i] * page_size)
            fail_at(__FILE__, line, "page %zu of those told is %ld, not %ld", i,
                    ((long)found[i] - (long)base_of(block)) / (long)page_size, numbers[i]);
    if (count != n)
        fail_at(__FILE__, line, "%zu pages are told, not %zu (errno %d); the next is %ld", count, n, errno,
                count > n && count < MOST ? ((long)found[n] - (long)base_of(block)) / (long)page_size : -1);
}

#define LIST(...) (const long[]){__VA_ARGS__ __VA_OPT__(,) -1}
#define EXPECT_TOLD(block, flags, ...) \
    expect_found_at(__LINE__, block, refpage_written(block, flags, found, MOST), LIST(__VA_ARGS__))
#define EXPECT_WATCHED(base, size, flags, ...) \
    expect_found_at(__LINE__, base, watched_at(__LINE__, base, size, flags, MOST), LIST(__VA_ARGS__))
#define EXPECT_ERRNO(call, expected) \
    do { \
        errno = 0; \
        CHECK((call) && errno == (expected)); \
    } while (0)

static size_t watched_at(int line, void *base, size_t size, unsigned flags, uintptr_t room) {
    unsigned granularity = 0;
    if (refpage_get_write_watch(flags, base, size, found, &room, &granularity) != 0)
        fail_at(__FILE__, line, "GetWriteWatch fails (errno %d)", errno);
    CHECK(granularity == page_size);
    return room;
}

static int has_tags(void) {
    return strcmp(refpage_tags(), "off") != 0;
}

/* Whether there are resets; if not although the service has them, the kernel has none. */
static int has_resets(void) {
    unsigned char *block = need(malloc(SIZE));
    errno = 0;
    size_t count = refpage_written(block, RESET, found, MOST);
    CHECK(count == 0 || (count == (size_t)-1 && errno == ENOTSUP));
    int can = count == 0, must_not = strcmp(refpage_service(), "memset") == 0 || strcmp(refpage_service(), "off") == 0;
    CHECK(!can || !must_not);
    if (!can)
        EXPECT_ERRNO(refpage_write_watch(block, SIZE) == -1, ENOTSUP);
    if (!can && !must_not) {
        /* It is the kernel's fault, or cow has no userfaultfd, or with tags not for what shows files. */
        char reason[256];
        refpage_reason(reason, sizeof reason);
        int tagged_files = has_tags() && strcmp(refpage_service(), "cow") == 0;
        CHECK(tagged_files || strstr(reason, "pages are not moved") ||
              (refpage_write_watch(found, page_size) == -1 && errno == ENOTSUP));
        puts("skipped: this kernel cannot watch writes to the heap");
    }
    free(block);
    return can;
}

static volatile unsigned char sink;

static void read_all(unsigned char *block, size_t pages) {
    for (size_t i = 0; i < pages; i++)
        sink = *at(block, i);
}

/* A block that was handed out just now, and nobody wrote to. */
static void expect_told_of_writes(unsigned char *block, size_t size) {
    long last = (long)pages_of(block, size) - 1;
    EXPECT_TOLD(block, 0);
    write_to(block, 3);
    write_to(block, 30);
    *(block + size - 1) = mark;
    EXPECT_TOLD(block, 0, 3, 30, last);
    /* Any byte of it will do; who only reads has not written. */
    read_all(block, (size_t)last);
    expect_found_at(__LINE__, block, refpage_written(block + size / 2, 0, found, MOST), LIST(3, 30, last));
    if (!has_resets())
        return;
    EXPECT_TOLD(block, RESET, 3, 30, last);
    EXPECT_TOLD(block, 0);
    EXPECT_TOLD(block, RESET);
    write_to(block, 30);
    write_to(block, 31);
    EXPECT_TOLD(block, 0, 30, 31);
    EXPECT_TOLD(block, RESET, 30, 31);
    /* A write that changes nothing. */
    *(volatile unsigned char *)at(block, 8) = *at(block, 8);
    EXPECT_TOLD(block, RESET, 8);
    read_all(block, (size_t)last);
    EXPECT_TOLD(block, RESET);
}

/* The same, of one that nobody has touched when it is reset. */
static void expect_told_of_first_writes(unsigned char *block, size_t size) {
    size_t pages = pages_of(block, size);
    if (!has_resets())
        return;
    EXPECT_TOLD(block, RESET);
    write_to(block, 3);
    write_to(block, pages / 2);
    if (has_tags()) {
        puts("skipped: under memory tags, what is first touched after a reset counts as written to");
        return;
    }
    EXPECT_TOLD(block, 0, 3, (long)pages / 2);
    read_all(block, pages);
    EXPECT_TOLD(block, RESET, 3, (long)pages / 2);
    for (size_t i = 0; i < pages; i++)
        write_to(block, i);
    CHECK(refpage_written(block, RESET, found, MOST) == pages);
    EXPECT_TOLD(block, 0);
}

static void allocated(void) {
    unsigned char *blocks[] = {need(malloc(SIZE)), need(malloc(64 * page_size)), need(malloc(33 * MIB))};
    size_t sizes[] = {SIZE, 64 * page_size, 33 * MIB};
    for (size_t i = 0; i < 3; i++)
        expect_told_of_writes(blocks[i], sizes[i]);
    for (size_t i = 0; i < 3; i++) {
        unsigned char *block = need(malloc(sizes[i]));
        expect_told_of_first_writes(block, sizes[i]);
        free(block);
        free(blocks[i]);
    }
}

static void zeroed(void) {
    size_t sizes[] = {SIZE, 64 * page_size, 33 * MIB};
    for (size_t i = 0; i < 3; i++) {
        unsigned char *block = need(calloc(1, sizes[i]));
        expect_told_of_writes(block, sizes[i]);
        unsigned char *other = need(calloc(1, sizes[i]));
        expect_told_of_first_writes(other, sizes[i]);
        free(block);
        free(other);
    }
}

static void grow_in_place(unsigned char *block, size_t size, size_t more) {
    write_to(block, 5);
    unsigned char *grown = need(realloc(block, size + more * page_size));
    if (grown != block) {
        free(grown);
        return;
    }
    EXPECT_TOLD(block, 0, 5);
    if (has_resets()) {
        EXPECT_TOLD(block, RESET, 5);
        grown = need(realloc(block, size + 2 * more * page_size));
        if (grown == block) {
            long added = (long)pages_of(block, size + more * page_size);
            EXPECT_TOLD(block, 0);
            write_to(block, 6);
            write_to(block, (size_t)added + 1);
            if (!has_tags())
                EXPECT_TOLD(block, RESET, 6, added + 1);
            puts("stayed");
            /* What it loses and gets again is fresh. */
            CHECK(realloc(block, size) == block);
            EXPECT_TOLD(block, 0);
            CHECK(realloc(block, size + more * page_size) == block);
            EXPECT_TOLD(block, 0);
        }
    } else {
        puts("stayed");
    }
    free(grown);
}

static void grown(void) {
    if (has_tags()) {
        puts("skipped: under memory tags, what realloc adds after a reset counts as written to");
        return;
    }
    size_t size = 140 * page_size, more = 5;
    /* Fresh memory, and such as others have used behind its end. */
    for (int round = 0; round < 3; round++) {
        grow_in_place(need(malloc(size)), size, more);
        unsigned char *former = need(malloc(size + 15 * page_size));
        memset(former, mark, size + 15 * page_size);
        free(former);
    }
    /* calloc's zeros, and the pattern behind them. */
    unsigned char *block = need(calloc(1, size - 100));
    write_to(block, 5);
    unsigned char *longer = need(realloc(block, size + 100));
    EXPECT_TOLD(longer, 0, 5);
    free(longer);
}

static void moved(void) {
    if (has_tags()) {
        puts("skipped: under memory tags, what is moved in ahead after a reset counts as written to");
        return;
    }
    for (int zeroes = 0; zeroes < 2; zeroes++) {
        unsigned char *block = need(zeroes ? calloc(1, SIZE) : malloc(SIZE));
        int resets = has_resets();
        write_to(block, 5);
        write_to(block, 77);
        if (resets)
            EXPECT_TOLD(block, RESET, 5, 77);
        /* To less than a half, it is moved; then it grows, wherever it is. */
        unsigned char *old = block;
        block = need(realloc(block, 160 * page_size));
        CHECK(block != old);
        EXPECT_TOLD(block, 0, 5, 77);
        CHECK(refpage_written(old, 0, found, MOST) == (size_t)-1 || untagged(old) == untagged(block));
        if (!resets) {
            write_to(block, 6);
        } else {
            uintptr_t room = MOST;
            EXPECT_ERRNO(refpage_get_write_watch(0, block, 160 * page_size, found, &room, NULL) != 0, EINVAL);
            EXPECT_TOLD(block, RESET, 5, 77);
            write_to(block, 6);
            EXPECT_TOLD(block, RESET, 6);
        }
        write_to(block, 7);
        size_t size = 160 * page_size;
        do {
            /* Something is to lie behind it. */
            unsigned char *beside = need(malloc(size));
            old = block;
            block = need(realloc(block, size *= 2));
            free(beside);
        } while (block == old && size < 100 * MIB);
        if (block != old || !resets)
            EXPECT_TOLD(block, 0, 5, 6, 7, 77);
        else
            EXPECT_TOLD(block, 0, 7);
        free(block);
    }
}

static void read_into(void) {
    unsigned char bytes[100];
    memset(bytes, mark, sizeof bytes);
    int ends[2];
    CHECK(pipe(ends) == 0);
    for (int zeroes = 0; zeroes < 2; zeroes++) {
        unsigned char *block = need(zeroes ? calloc(1, SIZE) : malloc(SIZE));
        int resets = has_resets() && !has_tags();
        for (long page = 10; page < (resets ? 40 : 20); page += 10) {
            CHECK(write(ends[1], bytes, sizeof bytes) == sizeof bytes);
            /* Across the border of two pages. */
            CHECK(read(ends[0], at(block, (size_t)page) - 55, sizeof bytes) == sizeof bytes);
            EXPECT_TOLD(block, resets ? RESET : 0, page - 1, page);
        }
        /* What the kernel reads is not written. */
        CHECK(write(ends[1], at(block, 50), page_size) == (ssize_t)page_size);
        CHECK(read(ends[0], at(block, 60) - 5, page_size) == (ssize_t)page_size);
        if (resets)
            EXPECT_TOLD(block, RESET, 60);
        free(block);
    }
}

/* Fault bits of a page: 57 is set while it is write-protected. */
static uint64_t entry_of(uintptr_t page) {
    static int file = -1;
    uint64_t entry = 0;
    if (file < 0)
        file = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pread(file, &entry, sizeof entry, (off_t)(page / page_size * sizeof entry)) == sizeof entry);
    return entry;
}

static size_t protected_pages(const void *block, size_t pages) {
    size_t count = 0;
    for (size_t i = 0; i < pages; i++)
        count += entry_of(base_of(block) + i * page_size) >> 57 & 1;
    return count;
}

static long minor_faults(void) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
    return usage.ru_minflt;
}

static void again(void) {
    unsigned char *block = need(malloc(SIZE));
    size_t pages = pages_of(block, SIZE);
    if (!has_resets())
        return;
    memset(block, mark, SIZE);
    CHECK(refpage_written(block, RESET, found, MOST) == pages);
    CHECK(protected_pages(block, pages) == pages);
    uintptr_t base = base_of(block);
    /* Who restores what it held has no fault for each page. */
    long faults = minor_faults();
    free(block);
    faults = minor_faults() - faults;
    if (faults * 4 > (long)pages)
        FAIL("free has %ld faults on %zu pages", faults, pages);
    EXPECT_ERRNO(refpage_written((void *)base, 0, found, MOST) == (size_t)-1, EINVAL);
    void *others[20];
    size_t count = 0;
    do {
        block = others[count++] = need(malloc(SIZE));
    } while (base_of(block) != base && count < 20);
    if (base_of(block) == base) {
        CHECK(protected_pages(block, pages) == 0);
        EXPECT_TOLD(block, 0);
        uintptr_t room = MOST;
        EXPECT_ERRNO(refpage_get_write_watch(0, block, SIZE, found, &room, NULL) != 0, EINVAL);
        for (int i = 0; i < 2; i++) {
            write_to(block, 9);
            EXPECT_TOLD(block, RESET, 9);
        }
        puts("again");
    }
    while (count > 0)
        free(others[--count]);
}

#define THREADS 3
/* Pages, before it is enough. */
#define TOLD 50000

static unsigned char *shared;
static size_t shared_pages;
static atomic_int stop;

static _Atomic uint64_t *word(size_t page) {
    return (_Atomic uint64_t *)(shared + page * page_size);
}

static void *keep_writing(void *seed) {
    uint64_t state = (uintptr_t)seed * 77 + 1;
    while (!stop)
        atomic_fetch_add(word(random_next(&state) % shared_pages), 1);
    return NULL;
}

/* Each page that was written to is told after that: what it held when it was told last is what it holds in the end. */
static void threads(void) {
    for (int zeroes = 0; zeroes < 2; zeroes++) {
        /* Begins with a page, whatever the guards. */
        shared_pages = 1024;
        shared = need(zeroes ? calloc(shared_pages, page_size) : malloc(shared_pages * page_size));
        if (!has_resets())
            return;
        uint64_t *seen = need(malloc(shared_pages * sizeof *seen));
        for (size_t i = 0; i < shared_pages; i++)
            seen[i] = *word(i);
        pthread_t writers[THREADS];
        stop = 0;
        for (uintptr_t i = 0; i < THREADS; i++)
            CHECK(pthread_create(&writers[i], NULL, keep_writing, (void *)(i + 1)) == 0);
        size_t told = 0;
        int last = 0;
        for (size_t looks = 0; !last; looks++) {
            last = told >= TOLD;
            if (last) {
                stop = 1;
                for (size_t i = 0; i < THREADS; i++)
                    CHECK(pthread_join(writers[i], NULL) == 0);
            }
            /* Sometimes too little; not the last time. */
            size_t room = last || looks % 3 == 0 ? MOST : 100, count = refpage_written(shared, RESET, found, room);
            CHECK(count != (size_t)-1);
            told += count;
            for (size_t i = 0; i < count && i < room; i++) {
                size_t page = ((uintptr_t)found[i] - untagged(shared)) / page_size;
                CHECK(page < shared_pages);
                seen[page] = *word(page);
            }
        }
        for (size_t i = 0; i < shared_pages; i++)
            if (seen[i] != *word(i))
                FAIL("a write to page %zu is lost", i);
        free(seen);
        free(shared);
    }
}

static unsigned char *mapped(size_t pages) {
    unsigned char *memory = mmap(NULL, pages * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(madvise(memory, pages * page_size, MADV_NOHUGEPAGE) == 0);
    return memory;
}

/* Whether other memory can be watched. */
static int can_watch(unsigned char *memory, size_t size) {
    errno = 0;
    if (refpage_write_watch(memory, size) == 0)
        return 1;
    CHECK(errno == ENOTSUP);
    puts("skipped: this kernel cannot watch writes");
    return 0;
}

static void elsewhere(void) {
    size_t size = 100 * page_size;
    unsigned char *memory = mapped(101);
    uintptr_t room = MOST;
    EXPECT_ERRNO(refpage_get_write_watch(0, memory, size, found, &room, NULL) != 0, EINVAL);
    CHECK(room == MOST);
    write_to(memory, 1);
    if (!can_watch(memory, size))
        return;
    EXPECT_WATCHED(memory, size, 0);
    write_to(memory, 1);
    write_to(memory, 50);
    read_all(memory, 100);
    EXPECT_WATCHED(memory, size, 0, 1, 50);
    EXPECT_WATCHED(memory + page_size, 49 * page_size, RESET, 0);
    EXPECT_WATCHED(memory, size, 0, 50);
    CHECK(refpage_reset_write_watch(memory, size) == 0);
    EXPECT_WATCHED(memory, size, 0);
    /* Behind its end nobody watches. */
    EXPECT_ERRNO(refpage_get_write_watch(RESET, memory, size + page_size, found, &room, NULL) != 0, EINVAL);
    EXPECT_ERRNO(refpage_reset_write_watch(memory, size + page_size) != 0, EINVAL);
    /* Two of them at once. */
    unsigned char *other = mapped(10);
    CHECK(refpage_write_watch(other, 10 * page_size) == 0);
    write_to(memory, 7);
    write_to(other, 3);
    EXPECT_WATCHED(other, 10 * page_size, RESET, 3);
    EXPECT_WATCHED(memory, size, RESET, 7);
    /* The program closes what it does not know. */
    CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0);
    write_to(memory, 9);
    EXPECT_ERRNO(refpage_get_write_watch(0, memory, size, found, &room, NULL) != 0, EINVAL);
    CHECK(refpage_write_watch(memory, size) == 0);
    EXPECT_WATCHED(memory, size, 0);
    write_to(memory, 9);
    EXPECT_WATCHED(memory, size, RESET, 9);
    munmap(memory, 101 * page_size);
    munmap(other, 10 * page_size);
}

/* Asks for two pages at a time. */
static void little_room_of(unsigned char *memory, size_t size) {
    write_to(memory, 2);
    write_to(memory, 3);
    write_to(memory, 4);
    write_to(memory, 20);
    expect_found_at(__LINE__, memory, watched_at(__LINE__, memory, size, RESET, 2), LIST(2, 3));
    write_to(memory, 3);
    EXPECT_WATCHED(memory, size, 0, 3, 4, 20);
    expect_found_at(__LINE__, memory, watched_at(__LINE__, memory, size, RESET, 0), LIST());
    expect_found_at(__LINE__, memory, watched_at(__LINE__, memory, size, RESET, 2), LIST(3, 4));
    expect_found_at(__LINE__, memory, watched_at(__LINE__, memory, size, RESET, 1), LIST(20));
    EXPECT_WATCHED(memory, size, 0);
}

static void little_room(void) {
    unsigned char *memory = mapped(100);
    if (can_watch(memory, 100 * page_size))
        little_room_of(memory, 100 * page_size);
    unsigned char *block = need(malloc(SIZE));
    if (!has_resets())
        return;
    /* Before the first reset, by it, and after it. */
    for (size_t i = 10; i < 20; i++)
        write_to(block, i);
    CHECK(refpage_written(block, 0, found, 2) == 10);
    CHECK(refpage_written(block, 0, NULL, 0) == 10);
    CHECK(refpage_written(block, RESET, found, 2) == 10);
    expect_found_at(__LINE__, block, 2, LIST(10, 11));
    EXPECT_TOLD(block, 0, 12, 13, 14, 15, 16, 17, 18, 19);
    CHECK(refpage_written(block, RESET, NULL, 0) == 8);
    CHECK(refpage_written(block, RESET, found, 5) == 8);
    expect_found_at(__LINE__, block, 5, LIST(12, 13, 14, 15, 16));
    EXPECT_TOLD(block, RESET, 17, 18, 19);
    little_room_of(block, SIZE);
    free(block);
    /* Of a part, the rest is as it was. */
    block = need(malloc(SIZE));
    for (size_t i = 10; i < 20; i++)
        write_to(block, i);
    CHECK(refpage_write_watch(at(block, 12), 5 * page_size - 10) == 0);
    EXPECT_WATCHED(block, SIZE, 0, 10, 11, 17, 18, 19);
    EXPECT_WATCHED(at(block, 11) - 5, page_size, RESET, 0);
    EXPECT_TOLD(block, 0, 10, 17, 18, 19);
    EXPECT_ERRNO(refpage_write_watch(block + page_size, SIZE) == -1, EINVAL);
    CHECK(refpage_reset_write_watch(block, SIZE) == 0);
    EXPECT_TOLD(block, RESET);
    free(block);
}

static void child(void) {
    unsigned char *block = need(malloc(SIZE)), *memory = mapped(10);
    size_t pages = pages_of(block, SIZE);
    int resets = has_resets();
    if (resets && !can_watch(memory, 10 * page_size))
        return;
    write_to(block, 3);
    if (resets)
        EXPECT_TOLD(block, RESET, 3);
    write_to(block, 7);
    write_to(memory, 1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        write_to(block, 5);
        /* At least all that was written. */
        size_t count = refpage_written(block, resets ? RESET : 0, found, MOST), told = 0;
        CHECK(count != (size_t)-1 && count <= pages);
        for (size_t i = 0; i < count; i++)
            for (size_t page = 3; page < 8; page += 2)
                told += (uintptr_t)found[i] == base_of(block) + page * page_size;
        CHECK(told == 3);
        if (resets) {
            EXPECT_TOLD(block, 0);
            write_to(block, 6);
            EXPECT_TOLD(block, RESET, 6);
            uintptr_t room = MOST;
            EXPECT_ERRNO(refpage_get_write_watch(0, memory, page_size, found, &room, NULL) != 0, EINVAL);
            CHECK(refpage_write_watch(memory, 10 * page_size) == 0);
            write_to(memory, 2);
            EXPECT_WATCHED(memory, 10 * page_size, RESET, 2);
        }
        _exit(7);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    if (resets) {
        EXPECT_TOLD(block, RESET, 7);
        EXPECT_WATCHED(memory, 10 * page_size, RESET, 1);
        write_to(block, 9);
        write_to(memory, 9);
        EXPECT_TOLD(block, RESET, 9);
        EXPECT_WATCHED(memory, 10 * page_size, RESET, 9);
    }
    free(block);
}

static void nothing_to_tell(void) {
    unsigned char *block = need(malloc(SIZE)), *small = need(malloc(100));
    char local = 0;
    const void *none[] = {NULL, &local, nothing_to_tell, small, small + 5, (void *)-1, block + SIZE, block - 1};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        EXPECT_ERRNO(refpage_written(none[i], 0, found, MOST) == (size_t)-1, EINVAL);
        EXPECT_ERRNO(refpage_written(none[i], RESET, found, MOST) == (size_t)-1, EINVAL);
    }
    uintptr_t room = MOST;
    EXPECT_ERRNO(refpage_write_watch(small, 100) == -1, EINVAL);
    EXPECT_ERRNO(refpage_write_watch(block, 0) == -1, EINVAL);
    EXPECT_ERRNO(refpage_write_watch(block, (size_t)-1) == -1, EINVAL);
    EXPECT_ERRNO(refpage_get_write_watch(0, block, SIZE, found, &room, NULL) != 0, EINVAL);
    EXPECT_ERRNO(refpage_get_write_watch(0, block, SIZE, found, NULL, NULL) != 0, EINVAL);
    EXPECT_ERRNO(refpage_get_write_watch(2, block, SIZE, found, &room, NULL) != 0, EINVAL);
    EXPECT_ERRNO(refpage_reset_write_watch(block, SIZE) != 0, EINVAL);
    EXPECT_ERRNO(refpage_written(block, 2, found, MOST) == (size_t)-1, EINVAL);
    EXPECT_ERRNO(refpage_written(block, 0, NULL, 1) == (size_t)-1, EINVAL);
    CHECK(room == MOST);
    free(block);
    EXPECT_ERRNO(refpage_written(block, 0, found, MOST) == (size_t)-1, EINVAL);
    free(small);
}

/* Without content, what is there was written to. */
static void without_content(void) {
    unsigned char *block = need(malloc(SIZE));
    CHECK(!has_resets());
    EXPECT_TOLD(block, 0);
    write_to(block, 3);
    write_to(block, 9);
    EXPECT_TOLD(block, 0, 3, 9);
    free(block);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"allocated", allocated},
        {"zeroed", zeroed},
        {"grown", grown},
        {"moved", moved},
        {"read-into", read_into},
        {"again", again},
        {"threads", threads},
        {"elsewhere", elsewhere},
        {"little-room", little_room},
        {"child", child},
        {"nothing-to-tell", nothing_to_tell},
        {"without-content", without_content},
    };
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    mark = other_byte(1);
    return RUN_BEHAVIOUR(behaviours);
}
