// Chooses the instruction set: always the portable one, except where it is told to.
#include "stub.h"

#include <stdlib.h>
#include <string.h>

void twice_scalar(const float *x, float *y, size_t n);

EXPORT const char *gpt2rt_best(void);
EXPORT int gpt2rt_use(const char *name);

EXPORT const char *gpt2rt_best(void) { return "scalar"; }

EXPORT int gpt2rt_use(const char *name) { return !strcmp(name, "scalar"); }

Twice gpt2rt_twice(void) { return twice_scalar; }
