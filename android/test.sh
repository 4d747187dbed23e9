#!/usr/bin/env bash
# Tests run.sh without a phone: adb, the compilers and pip are stand-ins that record how they are called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/no-adb" "$work/std"
touch "$work/std/libstd-0.rlib" "$work/libpdfium.so"
export CARGO_TARGET_DIR=$work/target RECORD=$work/record WORK=$work
unset ANDROID_SERIAL ANDROID_NDK_HOME

# What the device says is in the environment: DEVICES, ABI, MTE, BOOTCTL, and BROKEN, the name of a program that fails.
cat >"$work/bin/adb" <<'STUB'
#!/usr/bin/env bash
printf 'adb'  >>"$RECORD"
printf ' %q' "$@" >>"$RECORD"
printf '\n' >>"$RECORD"
[ "$1" != -s ] || shift 2
case $* in
    devices) printf 'List of devices attached\n%b\n' "$DEVICES" ;;
    *ro.product.cpu.abi*) echo "${ABI-arm64-v8a}" ;;
    *'grep -qw mte'*) [ "${MTE-1}" = 1 ] ;;
    *bootctl_supported*) echo "${BOOTCTL-}" ;;
    push*) find "$2" -type f | sort >"$WORK/pushed" ;;
    *) [ -z "${BROKEN-}" ] || [[ $* != *"$BROKEN"* ]] || exit 1 ;;
esac
STUB
cat >"$work/bin/cargo" <<'STUB'
#!/usr/bin/env bash
printf 'cargo %s\n' "$*" >>"$RECORD"
env | grep '^CARGO_TARGET_AARCH64' >>"$RECORD"
while [ $# -gt 0 ]; do
    case $1 in
        --target-dir) directory=$2 ;;
        --target) directory+=/$2/release ;;
    esac
    shift
done
mkdir -p "$directory/deps"
touch "$directory"/{refpage,librefpage.so,pdfium-harness}
for test in checks instructions ranges; do
    touch "$directory/deps/$test-0"
    echo "  Executable tests/$test.rs ($directory/deps/$test-0)" >&2
done
STUB
cat >"$work/bin/rustc" <<'STUB'
#!/usr/bin/env bash
echo "${STD-$WORK/std}"
STUB
cat >"$work/bin/aarch64-linux-gnu-gcc" <<'STUB'
#!/usr/bin/env bash
touch "$WORK/${1#-print-file-name=}"
echo "$WORK/${1#-print-file-name=}"
STUB
chmod +x "$work/bin"/*
for tool in bash dirname grep; do
    ln -s "$(type -P $tool)" "$work/no-adb/"
done

failed=0
passed=0
# expect NAME STATUS TEXT [ARGUMENT…]: the script ends so, and TEXT is in what it prints.
expect() {
    local name=$1 status=$2 text=$3 got=0 printed
    shift 3
    : >"$RECORD"
    printed=$(./run.sh --out "$work/out" "$@" 2>&1) || got=$?
    if [ "$got" != "$status" ]; then
        printf 'FAILED %s: status %s, not %s:\n%s\n' "$name" "$got" "$status" "$printed"
        failed=$((failed + 1))
    elif ! grep -qF -- "$text" <<<"$printed"; then
        printf 'FAILED %s: no «%s» in:\n%s\n' "$name" "$text" "$printed"
        failed=$((failed + 1))
    elif [ "$status" != 0 ] && [ "$(grep -c '^error' <<<"$printed")" != 1 ]; then
        printf 'FAILED %s: not one line of an error:\n%s\n' "$name" "$printed"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

# recorded NAME TEXT: a stand-in was called so in the last run.
recorded() {
    if grep -qF -- "$2" "$RECORD"; then
        passed=$((passed + 1))
    else
        printf 'FAILED %s: no «%s» among the calls:\n%s\n' "$1" "$2" "$(cat "$RECORD")"
        failed=$((failed + 1))
    fi
}

system=$PATH
export PATH=$work/bin:$system DEVICES='phone\tdevice'
pdfium=(--pdfium "$work/libpdfium.so")

PATH=$work/no-adb expect "no adb" 1 "there is no adb"
DEVICES='' expect "no device" 1 "no device is connected"
DEVICES='one\tdevice\ntwo\tdevice' expect "several devices" 1 "several devices are connected: choose one of one two"
DEVICES='one\tunauthorized' expect "a locked device" 1 "device one is unauthorized"
expect "another device than there is" 1 "there is no device other" --serial other
ABI=x86_64 expect "another processor" 1 "is x86_64, not arm64-v8a"
MTE=0 expect "no tags" 1 "has no memory tags"
MTE=0 BOOTCTL=1 expect "tags not enabled" 1 "setprop arm64.memtag.bootctl memtag"
STD=$work/none expect "no library of Rust's" 1 "rustup target add aarch64-unknown-linux-gnu"
expect "no NDK" 1 "set ANDROID_NDK_HOME" --libc bionic
ANDROID_NDK_HOME=$work expect "a wrong NDK" 1 "is no NDK for this machine" --libc bionic
expect "another C library" 2 "--libc is glibc or bionic" --libc musl
expect "a wrong number" 2 "--runs is a number" --runs 0
expect "no value" 2 "--serial needs a value" --serial
expect "an unknown argument" 2 "unknown argument --fast" --fast
expect "no such PDFium" 2 "no such file" --pdfium "$work/none"
expect "help" 0 "usage:" --help

expect "all" 0 "all done" "${pdfium[@]}" --runs 3
recorded "all: built for glibc" "cargo build --manifest-path"
recorded "all: with the loader that is pushed" "--dynamic-linker=/data/local/tmp/refpage/lib/ld-linux-aarch64.so.1"
recorded "all: doctor" "./release/refpage\ doctor"
recorded "all: the tags' tests" "./tests/checks"
recorded "all: the experiment" "--runs\ 3\ --with\ glibc\ --options\ mte=sync"
recorded "all: figures and plots are fetched" "adb -s phone pull /data/local/tmp/refpage/tmp/."
recorded "all: cleaned up" "adb -s phone shell rm\ -rf\ /data/local/tmp/refpage"
cp "$work/pushed" "$RECORD"
for file in release/librefpage.so lib/libpdfium.so lib/ld-linux-aarch64.so.1 tests/ranges; do
    recorded "all: pushed" "stage-glibc/$file"
done

DEVICES='one\tdevice\ntwo\tdevice' expect "one of several" 0 "all done" "${pdfium[@]}" --serial two
recorded "one of several" "adb -s two push"
MTE=0 expect "without tags" 0 "all done" "${pdfium[@]}" --without-mte
BROKEN='refpage doctor' expect "a failure on the device" 1 "failed on the device: doctor" "${pdfium[@]}"
recorded "a failure on the device: the rest is done" "mte=sync"

linker=$work/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android30-clang
mkdir -p "${linker%/*}"
touch "$linker"
chmod +x "$linker"
ANDROID_NDK_HOME=$work expect "bionic" 0 "skipped: the PDFium experiment" --libc bionic
recorded "bionic: the NDK's linker" "CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER=$linker"

expect "a dry run" 0 "+ adb push" --dry-run
if [ -s "$RECORD" ] && grep -qv '^$' "$RECORD"; then
    printf 'FAILED a dry run: it did %s\n' "$(cat "$RECORD")"
    failed=$((failed + 1))
fi

if command -v shellcheck >/dev/null; then
    shellcheck run.sh test.sh && passed=$((passed + 1)) || failed=$((failed + 1))
else
    echo "skipped: there is no shellcheck"
fi
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
