"""The parts of ``bash bench/gpu.sh``: each is a process of its own and writes its results as they come."""
