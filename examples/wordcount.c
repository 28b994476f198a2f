// Counts the lines, words and bytes of standard input, like `wc`: prints `lines words bytes`.
//
// Plain C and nothing of the platform: any compiler for WASI preview 1 takes it.

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

int main(void) {
    uint64_t lines = 0, words = 0, bytes = 0;
    bool inside_word = false;
    unsigned char buffer[64 * 1024];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, stdin)) > 0) {
        bytes += got;
        for (size_t i = 0; i < got; i++) {
            lines += buffer[i] == '\n';
            bool blank = isspace(buffer[i]);
            words += !blank && !inside_word;
            inside_word = !blank;
        }
    }
    if (ferror(stdin)) {
        perror("wordcount");
        return 1;
    }
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", lines, words, bytes);
    return 0;
}
