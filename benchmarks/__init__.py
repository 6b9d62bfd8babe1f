"""Speed and memory as ratios against peers that run side by side: `python -m benchmarks`."""
