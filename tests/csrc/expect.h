// Checks that are counted, and random numbers that are the same on every machine. A program prints one line
// "name count" for every section: whoever runs it can tell that nothing was left out.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace ffrl::test {

struct Report {
    std::vector<std::pair<std::string, int64_t>> sections;
    std::string context;  // what is being checked, for messages
    int64_t failures = 0;
};

inline Report& report() {
    static Report one;
    return one;
}

inline void section(const std::string& name) {
    report().sections.emplace_back(name, 0);
}

// Counts a check of the section; true where it held.
inline bool expect(bool holds, const char* what) {
    ++report().sections.back().second;
    if (!holds && ++report().failures <= 20)
        std::fprintf(stderr, "%s: %s: %s\n", report().sections.back().first.c_str(), report().context.c_str(),
                     what);
    return holds;
}

// |got - want| <= allowed. NaN fails.
inline void expect_close(double got, double want, double allowed, const char* what) {
    const double error = got < want ? want - got : got - want;
    if (!expect(error <= allowed, what) && report().failures <= 20)
        std::fprintf(stderr, "    got %.17g, want %.17g, error %.3g, allowed %.3g\n", got, want, error,
                     allowed);
}

// The exit status of the program.
inline int finish() {
    for (const auto& [name, checks] : report().sections)
        std::printf("%s %lld\n", name.c_str(), static_cast<long long>(checks));
    if (report().failures > 0)
        std::fprintf(stderr, "%lld failures\n", static_cast<long long>(report().failures));
    return report().failures > 0 ? 1 : 0;
}

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    // splitmix64
    uint64_t bits() {
        uint64_t x = state_ += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
    }
    double uniform(double low, double high) {
        return low + (high - low) * (static_cast<double>(bits() >> 11) * 0x1p-53);
    }
    int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

  private:
    uint64_t state_;
};

}  // namespace ffrl::test
