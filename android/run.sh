#!/usr/bin/env bash
# Builds refpage for an Arm phone, pushes it with adb, runs `doctor`, the tags' own tests, the demonstration and the
# PDFium experiment there, and collects what they print. docs/pixel.md says more.
set -euo pipefail

# Where things lie on the device: the one place that adb's user may write to and execute from.
readonly device_dir=/data/local/tmp/refpage
readonly program=${0##*/}

usage() {
    cat <<USAGE
usage: $program [--libc glibc|bionic] [--pdfium FILE] [--runs N] [--out DIR] [--serial NAME]
       [--without-mte] [--keep] [--dry-run]

  --libc         glibc brings its own C library along; bionic is the phone's, and needs the NDK
                 in ANDROID_NDK_HOME [default: glibc]
  --pdfium       libpdfium.so for that C library [default: the pinned wheel's for glibc; none for bionic]
  --runs         counted runs of each configuration of the PDFium experiment [default: 5]
  --out          where to put what was printed [default: android-results]
  --serial       the device, as \`adb devices\` names it [default: ANDROID_SERIAL, or the only one]
  --without-mte  go on without memory tags
  --keep         leave the files on the device
  --dry-run      print what would be done
USAGE
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

mistake() {
    printf 'error: %s; --help tells more\n' "$*" >&2
    exit 2
}

libc=glibc pdfium='' runs=5 out=android-results serial=${ANDROID_SERIAL-}
needs_mte=1 keep='' dry=''
while [ $# -gt 0 ]; do
    case $1 in
        --libc | --pdfium | --runs | --out | --serial)
            [ $# -gt 1 ] || mistake "$1 needs a value"
            case $1 in
                --libc) libc=$2 ;;
                --pdfium) pdfium=$2 ;;
                --runs) runs=$2 ;;
                --out) out=$2 ;;
                --serial) serial=$2 ;;
            esac
            shift 2
            ;;
        --without-mte) needs_mte='' && shift ;;
        --keep) keep=1 && shift ;;
        --dry-run) dry=1 && shift ;;
        --help | -h) usage && exit ;;
        *) mistake "unknown argument $1" ;;
    esac
done
case $libc in
    glibc) target=aarch64-unknown-linux-gnu ;;
    bionic) target=aarch64-linux-android ;;
    *) mistake "--libc is glibc or bionic, not $libc" ;;
esac
[[ $runs =~ ^[1-9][0-9]*$ ]] || mistake "--runs is a number from 1 on, not $runs"
[ -z "$pdfium" ] || [ -f "$pdfium" ] || mistake "$pdfium: no such file"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=${CARGO_TARGET_DIR:-$root/target}/android
# Mirrors what is pushed.
stage=$target_dir/stage-$libc

# Does it, or prints what it would do.
run() {
    if [ -n "$dry" ]; then
        printf '+'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# adb for the one device; printed, too, where nothing is done.
phone() { run adb ${serial:+-s "$serial"} "$@"; }

# One command line on the device. adb would read the script's input.
on_device() { adb ${serial:+-s "$serial"} shell "$1" </dev/null; }

have() { command -v "$1" >/dev/null 2>&1; }

find_device() {
    have adb || fail "there is no adb: install Android's platform tools"
    local devices
    devices=$(adb devices) || fail "adb does not answer"
    devices=$(awk 'NR > 1 && NF > 1 { print $1 "=" $2 }' <<<"$devices")
    if [ -n "$serial" ]; then
        devices=$(grep -F -- "$serial=" <<<"$devices") || fail "there is no device $serial: see \`adb devices\`"
    fi
    # shellcheck disable=SC2086 # words are wanted: the names of the devices
    set -- $devices
    [ $# -gt 0 ] || fail "no device is connected: see \`adb devices\`"
    [ $# -eq 1 ] || fail "several devices are connected: choose one of ${*%=*} with --serial"
    serial=${1%=*}
    [ "${1##*=}" = device ] || fail "device $serial is ${1##*=}: unlock it and allow debugging"
}

check_device() {
    local abi
    abi=$(on_device 'getprop ro.product.cpu.abi')
    [ "$abi" = arm64-v8a ] || fail "device $serial is $abi, not arm64-v8a"
    [ -n "$needs_mte" ] || return 0
    on_device 'grep -qw mte /proc/cpuinfo' && return
    if [ "$(on_device 'getprop ro.arm64.memtag.bootctl_supported')" = 1 ]; then
        fail "memory tags are not enabled: adb shell setprop arm64.memtag.bootctl memtag, then adb reboot (or --without-mte)"
    fi
    fail "device $serial has no memory tags (--without-mte goes on)"
}

check_toolchain() {
    local tool
    for tool in cargo rustc; do
        have "$tool" || fail "there is no $tool: install Rust"
    done
    local std
    std=$(rustc --print target-libdir --target "$target") || fail "rustc knows no target $target"
    compgen -G "$std/libstd-*" >/dev/null || fail "Rust has no library for $target: rustup target add $target"
    if [ "$libc" = glibc ]; then
        have aarch64-linux-gnu-gcc || fail "there is no aarch64-linux-gnu-gcc: install gcc-aarch64-linux-gnu"
    else
        [ -n "${ANDROID_NDK_HOME-}" ] || fail "there is no NDK: set ANDROID_NDK_HOME"
        [ -x "$(ndk_linker)" ] || fail "$ANDROID_NDK_HOME is no NDK for this machine: it has no linker for API 30"
    fi
}

# API 30: thread-local storage as the ELF standard has it came with 29.
ndk_linker() {
    printf '%s' "${ANDROID_NDK_HOME-NDK}/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android30-clang"
}

build() {
    local flags linker=aarch64-linux-gnu-gcc
    if [ "$libc" = glibc ]; then
        # The phone has no glibc: programs find the loader and the libraries that are pushed with them. An old-style
        # path, since it also holds for the libraries of libraries.
        flags="-C link-arg=-Wl,--dynamic-linker=$device_dir/lib/ld-linux-aarch64.so.1"
        flags+=" -C link-arg=-Wl,--disable-new-dtags,-rpath,$device_dir/lib"
    else
        flags=''
        linker=$(ndk_linker)
    fi
    local name=${target^^}
    local -a cargo=(env "CARGO_TARGET_${name//-/_}_LINKER=$linker" "CARGO_TARGET_${name//-/_}_RUSTFLAGS=$flags"
        cargo)
    local -a options=(--manifest-path "$root/Cargo.toml" --target-dir "$target_dir" --release --target "$target")
    run "${cargo[@]}" build "${options[@]}" -p refpage-cli -p refpage-preload -p pdfium-harness
    if [ -n "$dry" ]; then
        run "${cargo[@]}" test "${options[@]}" --no-run -p refpage-mte
    else
        # Its last lines name the test programs: `Executable tests/checks.rs (path)`.
        "${cargo[@]}" test "${options[@]}" --no-run -p refpage-mte 2>&1 | tee "$target_dir/tests.txt" >&2
    fi
}

# The pinned wheel's PDFium, which pdfium-harness would fetch if it ran here.
fetch_pdfium() {
    local pin=$root/pdfium-harness/src/pdfium.rs version hash
    version=$(sed -n 's/^const VERSION: .*"\(.*\)";/\1/p' "$pin")
    hash=$(grep -A1 manylinux_2_17_aarch64 "$pin" | sed -n 's/^ *"\([0-9a-f]\{64\}\)".*/\1/p')
    local wheel_dir=$target_dir/pdfium-$version
    pdfium=$wheel_dir/pypdfium2_raw/libpdfium.so
    [ ! -f "$pdfium" ] || return 0
    run mkdir -p "$wheel_dir"
    run python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform manylinux_2_17_aarch64 --dest "$wheel_dir" "pypdfium2==$version" ||
        fail "pip could not fetch pypdfium2 $version: pass --pdfium PATH/libpdfium.so"
    [ -z "$dry" ] || return 0
    local wheel
    wheel=$(compgen -G "$wheel_dir/*.whl") || fail "pip left no wheel"
    sha256sum --check --quiet <<<"$hash  $wheel" || fail "the wheel of pypdfium2 $version is not the pinned one"
    python3 -m zipfile -e "$wheel" "$wheel_dir"
}

# Where the cross compiler has a library: by its name if there is no compiler, in a dry run.
library_path() { aarch64-linux-gnu-gcc -print-file-name="$1" 2>/dev/null || printf '%s\n' "$1"; }

# Lays out what is pushed. The programs look for librefpage.so beside them.
make_stage() {
    run rm -rf "$stage"
    run mkdir -p "$stage/release" "$stage/lib" "$stage/tests" "$stage/tmp"
    run cp "$target_dir/$target/release"/{refpage,librefpage.so,pdfium-harness} "$stage/release/"
    [ -z "$pdfium" ] || run cp "$pdfium" "$stage/lib/libpdfium.so"
    if [ "$libc" = glibc ]; then
        local library
        for library in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libgcc_s.so.1 libpthread.so.0 libdl.so.2 librt.so.1; do
            run cp -L "$(library_path "$library")" "$stage/lib/"
        done
    fi
    if [ -n "$dry" ]; then
        run cp "$target_dir/$target/release/deps"/{checks,instructions,ranges} "$stage/tests/"
        return
    fi
    local source path
    while IFS=$'\t' read -r source path; do
        cp "$path" "$stage/tests/$(basename "$source" .rs)"
    done < <(sed -n 's/^ *Executable tests\/\([a-z_]*\.rs\) (\(.*\))$/\1\t\2/p' "$target_dir/tests.txt")
    [ -n "$(ls "$stage/tests")" ] || fail "cargo has built no tests of the tags"
}

# Runs a command line on the device and keeps what it prints; goes on if it fails, and says so in the end.
failures=()
collect() {
    local name=$1 line=$2
    line="cd $device_dir && export HOME=$device_dir TMPDIR=$device_dir/tmp && $line"
    if [ -n "$dry" ]; then
        phone shell "$line"
        return
    fi
    printf '\n== %s\n' "$name"
    on_device "$line" 2>&1 | tee "$out/$name.txt" || failures+=("$name")
}

run_all() {
    collect device 'getprop ro.build.fingerprint; getprop ro.product.model; uname -a; grep -m1 Features /proc/cpuinfo; cat /sys/devices/system/cpu/cpu*/mte_tcf_preferred'
    collect doctor './release/refpage doctor'
    local test
    for test in instructions ranges checks; do
        collect "test-$test" "./tests/$test --show-output"
    done
    collect demonstration './release/refpage'
    if [ -z "$pdfium" ]; then
        printf 'skipped: the PDFium experiment: no --pdfium for bionic\n'
        return
    fi
    local mode
    for mode in off async sync; do
        collect "pdfium-mte-$mode" "./release/pdfium-harness --pdfium lib/libpdfium.so --runs $runs --with glibc \
--options mte=$mode --json tmp/pdfium-mte-$mode.json && mv pdfium-harness/pdfium.svg tmp/pdfium-mte-$mode.svg"
    done
}

# The files that the programs have written.
fetch() { phone pull "$device_dir/tmp/." "$out" || failures+=(pull); }

push() {
    phone shell "rm -rf $device_dir"
    phone push "$stage" "$device_dir"
    phone shell "chmod -R 755 $device_dir"
}

if [ -z "$dry" ]; then
    find_device
    check_device
    check_toolchain
    mkdir -p "$target_dir" "$out"
fi
build
[ -n "$pdfium" ] || [ "$libc" = bionic ] || fetch_pdfium
make_stage
push
run_all
fetch
[ -n "$keep" ] || phone shell "rm -rf $device_dir"
if [ -z "$dry" ]; then
    [ ${#failures[@]} -eq 0 ] || fail "failed on the device: ${failures[*]}; see $out"
    printf '\nall done: %s\n' "$out"
fi
