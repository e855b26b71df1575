/* The choice of kernels, which a caller of the library may change. */
#ifndef GPT2RT_CPU_H
#define GPT2RT_CPU_H

#include "kernels.h"

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* The kernels in use: the best that this processor runs, unless others were chosen. */
const Kernels *gpt2rt_kernels(void);

/* The name of the best: scalar, avx2, avx512, amx or neon. */
EXPORTED const char *gpt2rt_best(void);

/* Use the kernels of this name from now on; 0 if this processor does not run them. */
EXPORTED int gpt2rt_use(const char *name);

#endif
