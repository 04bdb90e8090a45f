// The guards and counters of these tests: each must be able to find fault.
#include "guarded.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "expect.h"

using namespace ffrl::test;

namespace {

#if defined(__clang__) || defined(__GNUC__)
__attribute__((no_sanitize("address"), noinline))
#endif
void flip(char* at) {
    *at = static_cast<char>(*at ^ 1);
}

template <class T>
void guards() {
    for (const int64_t count : {0, 1, 7, 64})
        for (const int64_t offset : {0, 1, 3}) {
            const Guarded<T> array(count, offset);
            char *first = reinterpret_cast<char*>(array.data()), *end = first + array.size() * sizeof(T);
            const auto address = reinterpret_cast<uintptr_t>(first);
            expect(address % 64 == static_cast<uintptr_t>(offset) * sizeof(T), "alignment");
            expect(array.intact() && array.unwritten() == count, "untouched at first");
            for (char* at : {first - 64, first - 1, end, end + 63}) {
                flip(at);
                expect(!array.intact(), "a change beside the array is seen");
                flip(at);
                expect(array.intact(), "and that it was taken back");
            }
            for (int64_t i = 0; i < count; ++i) {
                array[i] = i == 0 ? std::numeric_limits<T>::quiet_NaN() : T(1);
                expect(array.unwritten() == count - 1 - i, "what is not written is counted");
            }
            Guarded<T> other(count, offset + 1);
            other.clear();
            expect(other.intact() && other.unwritten() == 0, "zeros are written");
            expect(array.same_bits(other) == (count == 0), "bits are compared");
        }
}

template <class T>
void poison() {
    const Guarded<T> array(1);
    expect(std::isnan(array[0]), "what is not written is NaN");
    array[0] = array[0] + T(1);
    expect(std::isnan(array[0]) && array.unwritten() == 0, "arithmetic leaves a trace");
    array[0] = -T(0);
    Guarded<T> zero(1);
    zero.clear();
    expect(!array.same_bits(zero), "the sign of zero counts");
}

// Failures are counted; they are not those of this program.
void counters() {
    const int64_t before = report().failures;
    expect(false, "meant to fail: a condition");
    expect_close(1, 1.1, 0.05, "meant to fail: a difference");
    expect_close(std::nan(""), 1, 1e300, "meant to fail: NaN");
    expect_close(1, 1.1, std::nan(""), "meant to fail: an allowance of NaN");
    const int64_t found = report().failures - before;
    report().failures = before;
    expect(found == 4, "failures are counted");
    expect_close(1, 1.1, 0.11, "a small difference is allowed");
}

}  // namespace

int main() {
    section("guards");
    guards<float>();
    guards<double>();
    section("poison");
    poison<float>();
    poison<double>();
    section("counters");
    counters();
    return finish();
}
