"""What `benchmarks/gpu.sh` runs, part by part, each in a process of its own: `python -m benchmarks.gpu run PART`."""
