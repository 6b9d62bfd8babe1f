"""What is measured against: each a process of its own, which prints one JSON line."""
