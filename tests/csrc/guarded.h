// Arrays that show what a kernel does beside them. Before and behind every array stand at least 64 bytes that
// must not change, and under AddressSanitizer must not be read either. Arrays and guards begin as a
// signalling NaN with a payload: arithmetic on it gives another NaN, so an element that still has these bits
// was never written. Read as an integer it is far outside of every array.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "expect.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FFRL_TEST_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define FFRL_TEST_ASAN 1
#endif
#if defined(FFRL_TEST_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (void)(address), (void)(size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (void)(address), (void)(size)
#endif

namespace ffrl::test {

template <class T>
struct Poison;
template <>
struct Poison<float> {
    static constexpr uint32_t bits = 0x7fa0dead;
};
template <>
struct Poison<double> {
    static constexpr uint64_t bits = 0x7ff4dead0000beef;
};
template <>
struct Poison<int64_t> {
    static constexpr uint64_t bits = 0x7fa0dead7fa0dead;
};

template <class T>
class Guarded {
  public:
    Guarded() = default;

    // The first element is `offset` elements behind an address that is a multiple of 64.
    explicit Guarded(int64_t count, int64_t offset = 0) : count_(count), front_(kGuard + offset) {
        const size_t whole = static_cast<size_t>(front_ + count + kGuard) * sizeof(T);
        const size_t bytes = (whole + 63) / 64 * 64;
        total_ = static_cast<int64_t>(bytes / sizeof(T));
        memory_ = Memory(static_cast<T*>(std::aligned_alloc(64, bytes)), Free{bytes});
        for (int64_t i = 0; i < total_; ++i) std::memcpy(memory_.get() + i, &kBits, sizeof(T));
        lock(true);
    }

    T* data() const { return memory_.get() + front_; }
    int64_t size() const { return count_; }
    T& operator[](int64_t i) const { return data()[i]; }
    bool exists() const { return memory_ != nullptr; }

    void clear() {
        for (int64_t i = 0; i < count_; ++i) data()[i] = 0;
    }

    bool same_bits(const Guarded& other) const {
        return count_ == other.count_ &&
               (count_ == 0 ||
                std::memcmp(data(), other.data(), static_cast<size_t>(count_) * sizeof(T)) == 0);
    }

    int64_t unwritten() const {
        int64_t found = 0;
        for (int64_t i = 0; i < count_; ++i) found += is_poison(i);
        return found;
    }

    bool intact() const {
        if (!exists()) return true;
        lock(false);
        bool all = true;
        for (int64_t i = -front_; i < total_ - front_; ++i)
            if (i < 0 || i >= count_) all = all && is_poison(i);
        lock(true);
        return all;
    }

  private:
    static constexpr int64_t kGuard = 64 / sizeof(T);
    static constexpr auto kBits = Poison<T>::bits;

    struct Free {
        size_t bytes;
        void operator()(T* memory) const {
            ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
            std::free(memory);
        }
    };
    using Memory = std::unique_ptr<T, Free>;

    bool is_poison(int64_t i) const { return std::memcmp(data() + i, &kBits, sizeof(T)) == 0; }

    void lock(bool locked) const {
        const size_t front = static_cast<size_t>(front_) * sizeof(T);
        const size_t back = static_cast<size_t>(total_ - front_ - count_) * sizeof(T);
        if (locked) {
            ASAN_POISON_MEMORY_REGION(memory_.get(), front);
            ASAN_POISON_MEMORY_REGION(data() + count_, back);
        } else {
            ASAN_UNPOISON_MEMORY_REGION(memory_.get(), front);
            ASAN_UNPOISON_MEMORY_REGION(data() + count_, back);
        }
    }

    int64_t count_ = 0, front_ = 0, total_ = 0;
    Memory memory_{nullptr, Free{0}};
};

template <class T>
void expect_array(const Guarded<T>& got, const std::vector<double>& want, double allowed, const char* name) {
    if (!expect(got.size() == static_cast<int64_t>(want.size()), name)) return;
    for (int64_t i = 0; i < got.size(); ++i)
        expect_close(static_cast<double>(got[i]), want[static_cast<size_t>(i)], allowed, name);
}

}  // namespace ffrl::test
