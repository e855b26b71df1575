// Compiled once for every instruction set; `ISA` is its name.
#include "stub.h"

void NAMED(twice, ISA)(const float *x, float *y, size_t n);

void NAMED(twice, ISA)(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = 2 * x[i];
}
