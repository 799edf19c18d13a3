/* A CGI program in C for the `command` ABI: it knows WASI's C library and nothing of wisp.
 *
 *   /            every CGI variable it knows, one to a line
 *   /echo        the body, byte for byte, read through stdio
 *   /count/FILE  lines and bytes of /data/FILE
 *   /list        the names in /data
 *   /log         appends the query string to /log/requests
 *   /keep        writes the body to /tmp/kept, reads it back
 *   /away        303 to another place
 *   /exit        ends with code 7
 *
 * The same is exported as `run`, for policies that name an entrypoint.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *VARIABLES[] = {
    "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "HTTP_COOKIE", "HTTP_X_NAME", "PATH_INFO", "QUERY_STRING",
    "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_PROTOCOL", "WISP_FUNCTION", "WISP_TENANT",
};

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value == NULL ? "" : value;
}

static int failed(const char *what) {
    printf("Status: %d\nContent-Type: text/plain\n\n%s: %s\n", errno == ENOENT ? 404 : 403, what, strerror(errno));
    return 0;
}

static void copy(FILE *from, FILE *to) {
    char buffer[4096];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, from)) > 0)
        fwrite(buffer, 1, got, to);
}

static int count(const char *name) {
    char path[256];
    long lines = 0, bytes = 0;
    int character;
    snprintf(path, sizeof path, "/data/%s", name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return failed(path);
    while ((character = getc(file)) != EOF) {
        bytes++;
        lines += character == '\n';
    }
    fclose(file);
    printf("Content-Type: text/plain\n\n%ld lines, %ld bytes\n", lines, bytes);
    return 0;
}

static int list(void) {
    DIR *directory = opendir("/data");
    if (directory == NULL)
        return failed("/data");
    printf("Content-Type: text/plain\n\n");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.')
            printf("%s\n", entry->d_name);
    closedir(directory);
    return 0;
}

static int log_query(void) {
    FILE *file = fopen("/log/requests", "a");
    if (file == NULL)
        return failed("/log/requests");
    fprintf(file, "%s\n", variable("QUERY_STRING"));
    fclose(file);
    printf("Status: 204 No Content\r\n\r\n");
    return 0;
}

static int keep(void) {
    FILE *file = fopen("/tmp/kept", "w+");
    if (file == NULL)
        return failed("/tmp/kept");
    copy(stdin, file);
    rewind(file);
    printf("Content-Type: application/octet-stream\n\n");
    copy(file, stdout);
    fclose(file);
    return remove("/tmp/kept");
}

static int answer(void) {
    const char *path = variable("PATH_INFO");
    if (strcmp(path, "/echo") == 0) {
        printf("Content-Type: %s\r\n\r\n", variable("CONTENT_TYPE"));
        copy(stdin, stdout);
        return 0;
    }
    if (strncmp(path, "/count/", 7) == 0)
        return count(path + 7);
    if (strcmp(path, "/list") == 0)
        return list();
    if (strcmp(path, "/log") == 0)
        return log_query();
    if (strcmp(path, "/keep") == 0)
        return keep();
    if (strcmp(path, "/away") == 0) {
        printf("Status: 303 See Other\nLocation: /elsewhere\n\n");
        return 0;
    }
    if (strcmp(path, "/exit") == 0) {
        fprintf(stderr, "leaving\n");
        return 7;
    }
    printf("Content-Type: text/plain; charset=utf-8\n\n");
    for (size_t at = 0; at < sizeof VARIABLES / sizeof *VARIABLES; at++)
        printf("%s=%s\n", VARIABLES[at], variable(VARIABLES[at]));
    return 0;
}

__attribute__((export_name("run"))) void run(void) {
    int code = answer();
    fflush(stdout);
    if (code != 0)
        exit(code);
}

int main(void) {
    return answer();
}
