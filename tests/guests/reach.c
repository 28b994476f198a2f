// Reaches for what a guest must not have, and prints a line for everything that it got. Nothing printed is the right answer.

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

extern char **environ;

static void try_to_open(const char *path, int flags) {
    int file = open(path, flags, 0600);
    if (file >= 0) {
        printf("opened %s\n", path);
        close(file);
    }
}

int main(void) {
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
        printf("environment %s\n", *variable);
    }
    try_to_open("/etc/passwd", O_RDONLY);
    try_to_open("/proc/self/environ", O_RDONLY);
    try_to_open("../../../../etc/passwd", O_RDONLY);
    try_to_open("/tmp/from-a-guest", O_WRONLY | O_CREAT);
    try_to_open("from-a-guest", O_WRONLY | O_CREAT);
    const char *folders[] = {"/", ".", ".."};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        DIR *folder = opendir(folders[i]);
        if (folder != NULL) {
            printf("listed %s\n", folders[i]);
            closedir(folder);
        }
    }
    // Descriptors above standard error: nothing may be open there.
    for (int descriptor = 3; descriptor < 64; descriptor++) {
        char byte;
        if (read(descriptor, &byte, 1) >= 0) {
            printf("read from descriptor %d\n", descriptor);
        }
    }
    return 0;
}
