"""The benchmarks by name."""

from __future__ import annotations

from bench.gpu.benchmark import Benchmark
from bench.gpu.op import OpBenchmark
from bench.gpu.rollout import RolloutBenchmark
from bench.gpu.training import TrainingBenchmark

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (OpBenchmark(), RolloutBenchmark(), TrainingBenchmark())
}
