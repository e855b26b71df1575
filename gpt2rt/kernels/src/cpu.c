/* Chooses the kernels for this processor. */
#define _GNU_SOURCE /* syscall */
#include "cpu.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#define X86 1
extern const Kernels gpt2rt_kernels_avx2, gpt2rt_kernels_avx512, gpt2rt_kernels_amx;

static uint64_t enabled_states(void) { /* what the system saves when it switches threads */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

typedef struct { uint32_t a, b, c, d; } Registers;

static Registers cpuid(uint32_t leaf, uint32_t part) {
    Registers r = {0, 0, 0, 0};
    __cpuid_count(leaf, part, r.a, r.b, r.c, r.d);
    return r;
}

static int bits(uint32_t value, uint32_t wanted) { return (value & wanted) == wanted; }

static int has_avx2(void) {
    if (cpuid(0, 0).a < 7) return 0;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    return bits(cpuid(1, 0).c, fma | osxsave | avx | f16c) && bits((uint32_t)enabled_states(), 6) &&
           bits(cpuid(7, 0).b, 1u << 5);
}

static int has_avx512(void) {
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    if (!has_avx2()) return 0;
    const Registers r = cpuid(7, 0);
    return bits(r.b, f | dq | bw | vl) && bits(r.c, vnni) && bits((uint32_t)enabled_states(), 0xE6);
}

#if defined(AMX_EMULATED)
static int has_amx(void) { return has_avx512() && gpt2rt_kernels_amx.sound(); }
#elif defined(__linux__)
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static sigjmp_buf refused;
static void refuse(int number) {
    (void)number;
    siglongjmp(refused, 1);
}

/* Whether the kernels for AMX work, without an end of the process if an instruction is refused. */
static int tiles_work(void) {
    struct sigaction now = {.sa_handler = refuse}, before;
    volatile int work = 0;
    if (sigaction(SIGILL, &now, &before)) return 0;
    if (!sigsetjmp(refused, 1)) work = gpt2rt_kernels_amx.sound();
    sigaction(SIGILL, &before, NULL);
    return work;
}

/* A process has to ask the system for the tiles' registers. */
static int asked_for_tiles(void) {
    const uint32_t tile = 1u << 24, int8 = 1u << 25;
    const long ask = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM */
    return has_avx512() && bits(cpuid(7, 0).d, tile | int8) &&
           bits((uint32_t)enabled_states(), 3u << 17) && !syscall(SYS_arch_prctl, ask, tile_data);
}

static int has_amx(void) {
    static _Atomic int known; /* 0: not yet, 1: no, 2: yes */
    if (!known) known = asked_for_tiles() && tiles_work() ? 2 : 1;
    return known == 2;
}
#else
static int has_amx(void) { return 0; }
#endif
#elif defined(__aarch64__)
#define ARM 1
extern const Kernels gpt2rt_kernels_neon;
#if defined(__linux__)
#include <sys/auxv.h>
static int has_neon(void) {
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP: dot products */
}
#elif defined(_WIN32)
__declspec(dllimport) int IsProcessorFeaturePresent(unsigned long); /* windows.h has a FLOAT, too */
static int has_neon(void) { return IsProcessorFeaturePresent(43); } /* dot products */
#else
static int has_neon(void) { return 1; } /* every 64-bit Mac has dot products */
#endif
#endif

extern const Kernels gpt2rt_kernels_scalar;

/* The versions that this processor runs, best first. */
static const Kernels *usable(size_t number) {
    const Kernels *found[4];
    size_t count = 0;
#if X86
    if (has_amx()) found[count++] = &gpt2rt_kernels_amx;
    if (has_avx512()) found[count++] = &gpt2rt_kernels_avx512;
    if (has_avx2()) found[count++] = &gpt2rt_kernels_avx2;
#elif ARM
    if (has_neon()) found[count++] = &gpt2rt_kernels_neon;
#endif
    found[count++] = &gpt2rt_kernels_scalar;
    return number < count ? found[number] : NULL;
}

static _Atomic(const Kernels *) chosen;

const Kernels *gpt2rt_kernels(void) {
    const Kernels *kernels = chosen;
    if (!kernels) chosen = kernels = usable(0);
    return kernels;
}

EXPORTED const char *gpt2rt_best(void) { return usable(0)->name; }

EXPORTED int gpt2rt_use(const char *name) {
    for (size_t i = 0; usable(i); i++)
        if (!strcmp(usable(i)->name, name)) {
            chosen = usable(i);
            return 1;
        }
    return 0;
}
