// Ways to run the tasks of a call: `count` slots in their order, in the opposite order, at the same time.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#include "cpu/potential_cpu.h"

namespace ffrl::test {

inline cpu::Threads serial(int64_t count) {
    return {count, [](int64_t tasks, void* state, void (*task)(void*, int64_t)) {
                for (int64_t i = 0; i < tasks; ++i) task(state, i);
            }};
}
inline cpu::Threads backwards(int64_t count) {
    return {count, [](int64_t tasks, void* state, void (*task)(void*, int64_t)) {
                for (int64_t i = tasks; i-- > 0;) task(state, i);
            }};
}
inline cpu::Threads threads(int64_t count) {
    return {count, [](int64_t tasks, void* state, void (*task)(void*, int64_t)) {
                std::vector<std::thread> running;
                for (int64_t i = 0; i < tasks; ++i) running.emplace_back(task, state, i);
                for (std::thread& one : running) one.join();
            }};
}

}  // namespace ffrl::test
