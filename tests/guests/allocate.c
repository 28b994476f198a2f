// Allocates mebibytes until there are no more and says how many it got, as an honest program would: it ends with code 0.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    unsigned long mebibytes = 0;
    // Volatile: the compiler may otherwise see that nobody reads the memory, and leave all of this out.
    void *volatile memory;
    while ((memory = malloc(1 << 20)) != NULL) {
        memset(memory, (int)mebibytes & 0xff, 1 << 20);
        mebibytes++;
    }
    printf("%lu\n", mebibytes);
    return 0;
}
