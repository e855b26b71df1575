// What the three files of a library of kernels share.
#include <stddef.h>
#include <stdint.h>

typedef void (*Twice)(const float *x, float *y, size_t n);

#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

Twice gpt2rt_twice(void);
