/* AMX's tiles in plain C, after Intel's "Architecture Instruction Set Extensions Programming
 * Reference" (TILELOADD, TDPBSUD, TILESTORED), so that the kernels for AMX are tested anywhere.
 * Tiles are of 16 rows of 64 bytes. */
#ifndef AMX_EMULATION_H
#define AMX_EMULATION_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud

#define AMX_EMULATED 1
static _Thread_local int8_t emulated_tiles[8][16][64];

#define _tile_loadconfig(all) ((void)(all), memset(emulated_tiles, 0x5A, sizeof emulated_tiles))
#define _tile_release() memset(emulated_tiles, 0xA5, sizeof emulated_tiles)
#define _tile_zero(tile) memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile])
#define _tile_loadd(tile, base, stride) \
    for (size_t row_ = 0; row_ < 16; row_++) \
        memcpy(emulated_tiles[tile][row_], (const char *)(base) + row_ * (stride), 64)
#define _tile_stored(tile, base, stride) \
    for (size_t row_ = 0; row_ < 16; row_++) \
        memcpy((char *)(base) + row_ * (stride), emulated_tiles[tile][row_], 64)
#define _tile_dpbsud(sums, left, right) emulated_products(sums, left, right)

static inline void emulated_products(int sums, int left, int right) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            int32_t sum;
            memcpy(&sum, &emulated_tiles[sums][m][4 * n], 4);
            for (int k = 0; k < 64; k++)
                sum += emulated_tiles[left][m][k] *
                       (uint8_t)emulated_tiles[right][k / 4][4 * n + k % 4];
            memcpy(&emulated_tiles[sums][m][4 * n], &sum, 4);
        }
}

#endif
