// Runs the kernels of the instruction set named by the argument. Ends with 77 where this processor
// does not run them.
#include <string.h>

const char *gpt2rt_instruction_set(void);
int gpt2rt_use(const char *name);

int main(int count, char **arguments) {
    if (count != 2) return 2;
    if (!gpt2rt_use(arguments[1])) return 77;
    return strcmp(gpt2rt_instruction_set(), arguments[1]) != 0;
}
