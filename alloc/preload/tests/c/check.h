/* check.h: what the test programs share. A failed check says what and where, and exits with 1. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB (1024ul)
#define MIB (1024ul * KIB)
#define GIB (1024ul * MIB)

/* The text is formatted on the stack: the heap may be what is broken. */
__attribute__((noreturn, format(printf, 3, 4), unused))
static void fail_at(const char *file, int line, const char *format, ...) {
    char text[512];
    int head = snprintf(text, sizeof text, "%s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
    va_list arguments;
    va_start(arguments, format);
    int body = vsnprintf(text + head, sizeof text - head - 1, format, arguments);
    va_end(arguments);
    size_t length = (size_t)(head + body) < sizeof text - 1 ? (size_t)(head + body) : sizeof text - 2;
    text[length] = '\n';
    if (write(2, text, length + 1) < 0)
        _exit(2);
    _exit(1);
}

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition) \
    do { \
        if (!(condition)) \
            FAIL("not so: %s (errno %d)", #condition, errno); \
    } while (0)

/* What untouched memory must read as at an address: TEST_PATTERN is what the option `pattern` says. A byte is
 * all of it; the digits of a word are as many bytes of a number in the machine's own order. */
__attribute__((unused))
static unsigned char pattern_at(const void *address) {
    static unsigned char bytes[8];
    static int known;
    if (!known) {
        const char *text = getenv("TEST_PATTERN");
        text = text ? text : "0xaa";
        size_t digits = strlen(text) - 2;
        uint64_t number = strtoull(text, NULL, 16);
        if (strncmp(text, "0x", 2) != 0 || (digits != 2 && digits != 4 && digits != 8 && digits != 16))
            FAIL("TEST_PATTERN is %s", text);
        for (size_t bits = digits * 4; bits < 64; bits *= 2)
            number |= number << bits;
        memcpy(bytes, &number, sizeof bytes);
        known = 1;
    }
    return bytes[(uintptr_t)address % 8];
}

/* Copies what untouched memory at `address` must read as. */
__attribute__((unused))
static void copy_pattern(void *to, const void *address, size_t length) {
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)to)[i] = pattern_at((const char *)address + i);
}

/* A byte that is neither zero nor in the pattern, the first one from `byte` on. */
__attribute__((unused))
static unsigned char other_byte(unsigned char byte) {
    static const char phases[8] __attribute__((aligned(8)));
    for (size_t i = 0; i < 8; i++)
        if (byte == 0 || byte == pattern_at(phases + i))
            return other_byte(byte + 1);
    return byte;
}

__attribute__((unused))
static void expect_bytes_at(const char *file, int line, const void *start, size_t length, unsigned char byte,
                            const char *what) {
    const unsigned char *bytes = start;
    /* Equal to itself shifted by one: all bytes are the first. */
    if (length == 0 || (bytes[0] == byte && memcmp(bytes, bytes + 1, length - 1) == 0))
        return;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != byte)
            fail_at(file, line, "%s: byte %zu of %zu at %p is 0x%02x, not 0x%02x", what, i, length, (void *)&bytes[i],
                    bytes[i], byte);
    fail_at(file, line, "%s: %zu bytes at %p changed under the comparison", what, length, start);
}

__attribute__((unused))
static void expect_pattern_at(const char *file, int line, const void *start, size_t length, const char *what) {
    const unsigned char *bytes = start;
    /* Equal to itself shifted by eight: all is as the first eight. */
    size_t first = length < 8 ? length : 8, right = 0;
    while (right < first && bytes[right] == pattern_at(bytes + right))
        right++;
    if (right == length || (right == 8 && memcmp(bytes, bytes + 8, length - 8) == 0))
        return;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != pattern_at(bytes + i))
            fail_at(file, line, "%s: byte %zu of %zu at %p is 0x%02x, not 0x%02x", what, i, length, (void *)&bytes[i],
                    bytes[i], pattern_at(bytes + i));
    fail_at(file, line, "%s: %zu bytes at %p changed under the comparison", what, length, start);
}

#define EXPECT_BYTES(start, length, byte, what) expect_bytes_at(__FILE__, __LINE__, start, length, byte, what)
#define EXPECT_PATTERN(start, length, what) expect_pattern_at(__FILE__, __LINE__, start, length, what)

/* A block that must be there. */
__attribute__((unused))
static void *need(void *block) {
    if (!block)
        FAIL("out of memory");
    return block;
}

/* xorshift64*: the same numbers on every run. */
__attribute__((unused))
static uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* Bytes that are neither in the pattern nor zero. */
__attribute__((unused))
static void scribble(void *start, size_t length, uint64_t *state) {
    memset(start, other_byte((unsigned char)(random_next(state) >> 56)), length);
}

/* Runs the behaviour that argv[1] names. */
struct behaviour {
    const char *name;
    void (*run)(void);
};

__attribute__((unused))
static int run_behaviour(int argc, char **argv, const struct behaviour *behaviours, size_t count) {
    for (size_t i = 0; argc > 1 && i < count; i++)
        if (strcmp(argv[1], behaviours[i].name) == 0) {
            behaviours[i].run();
            return 0;
        }
    FAIL("no behaviour named %s", argc > 1 ? argv[1] : "(nothing)");
}

#define RUN_BEHAVIOUR(behaviours) run_behaviour(argc, argv, behaviours, sizeof behaviours / sizeof *behaviours)

#endif
