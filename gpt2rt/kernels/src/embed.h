/* Rows of the token embedding, which is stored for the product (see int8.h), plus positions. */
#include "kernels.h"
#include "lanes.h"

static void embed(const Embedding *e, size_t first, size_t last) {
    const size_t width = e->width, padded = round_up(width, QUANTA);
    for (size_t t = first; t < last; t++) {
        const size_t token = (size_t)e->tokens[t];
        const uint8_t *w = e->w + token / LANES * LANES * padded + token % LANES * 4;
        const float *place = e->places + (size_t)e->positions[t] * width;
        const float scale = e->scale[token];
        for (size_t i = 0; i < width; i++)
            e->y[t * width + i] = (float)(w[i / 4 * LANES * 4 + i % 4] - 128) * scale + place[i];
    }
}
