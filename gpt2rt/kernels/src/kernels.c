/* The kernels of one instruction set; compiled once for each, with -DISA=name. */
#include "kernels.h"

#include "attention.h"
#include "embed.h"
#include "multiply.h"
#include "rows.h"

#if AMX
/* A product on tiles beside the same one without: virtual machines may show tiles and refuse them. */
static int sound(void) {
    enum { K = 128, GROUPS_TRIED = 2 };
    int8_t x[TILE_ROWS * K];
    uint8_t w[GROUPS_TRIED * LANES * K];
    int32_t row_sum[TILE_ROWS] = {0}, sums[TILE_ROWS * COLUMNS];
    for (int i = 0; i < TILE_ROWS * K; i++) {
        x[i] = (int8_t)(i * 37 % 255 - 127);
        row_sum[i / K] += x[i];
    }
    for (int i = 0; i < GROUPS_TRIED * LANES * K; i++) w[i] = (uint8_t)(i * 91 + 3);
    configure_tiles();
    amx_sums(x, K, row_sum, w, LANES * K, TILE_ROWS, GROUPS_TRIED, sums);
    _tile_release();
    int wrong = 0;
    for (int m = 0; m < TILE_ROWS; m++)
        for (int n = 0; n < GROUPS_TRIED * LANES; n++) {
            const uint8_t *column = w + n / LANES * LANES * K + n % LANES * 4;
            int32_t sum = 0;
            for (int k = 0; k < K; k++)
                sum += x[m * K + k] * (column[k / 4 * LANES * 4 + k % 4] - 128);
            wrong |= sum != sums[m * COLUMNS + n];
        }
    return !wrong;
}
#endif

#define JOINED(a, b) a##b
#define NAMED(a, b) JOINED(a, b)
#define QUOTED(a) #a
#define NAME_OF(a) QUOTED(a)

const Kernels NAMED(gpt2rt_kernels_, ISA);
const Kernels NAMED(gpt2rt_kernels_, ISA) = {
    .name = NAME_OF(ISA),
#if AMX
    .sound = sound,
#endif
    .norm = norm,
    .row_bytes = row_bytes,
    .prepare = prepare,
    .multiply = multiply,
    .embed = embed,
    .remember = remember,
    .attend = attend,
    .scratch_floats = scratch_floats,
};
