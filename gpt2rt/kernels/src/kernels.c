/* The kernels of one instruction set; compiled once for each, with -DISA=name. */
#include "kernels.h"

#include "attention.h"
#include "multiply.h"
#include "rows.h"

#define JOINED(a, b) a##b
#define NAMED(a, b) JOINED(a, b)
#define QUOTED(a) #a
#define NAME_OF(a) QUOTED(a)

const Kernels NAMED(gpt2rt_kernels_, ISA);
const Kernels NAMED(gpt2rt_kernels_, ISA) = {
    .name = NAME_OF(ISA),
    .norm = norm,
    .row_bytes = row_bytes,
    .prepare = prepare,
    .multiply = multiply,
    .panel_bytes = panel_bytes,
    .remember = remember,
    .attend = attend,
    .scratch_floats = scratch_floats,
};
