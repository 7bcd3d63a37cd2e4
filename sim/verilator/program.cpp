// What a stand-alone simulator, which has its own main(), needs beside the translated design.
#include <cstdio>
#include <cstdlib>

// What Verilated code calls on a fatal error.
void vl_fatal(const char* file, int line, const char*, const char* message) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message);
    std::exit(1);
}
