// Faults that a sanitizer must end the program for: faults NAME. Without one the program ends well.
#include <climits>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "guarded.h"

int main(int count, char** arguments) {
    const auto is = [&](const char* name) { return count == 2 && std::strcmp(arguments[1], name) == 0; };
    const ffrl::test::Guarded<float> array(3, 1);
    volatile float sink = 0;
    volatile int number = INT_MAX;
    if (is("read_behind")) sink = array.data()[3];
    if (is("read_before")) sink = array.data()[-3];
    if (is("write_behind")) array.data()[3] = sink;
    if (is("overflow")) number = number + count;
    if (is("misaligned")) sink = static_cast<float>(*reinterpret_cast<double*>(array.data()));
    if (is("leak")) {
        volatile char* lost = static_cast<char*>(std::malloc(8));
        lost[0] = 1;
        lost = nullptr;
    }
    if (is("race")) {
        std::thread other([&] { array.data()[0] = 1; });
        array.data()[0] = 2;
        other.join();
    }
    return 0;
}
