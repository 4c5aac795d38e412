"""How do others spend the same budget? Baselines by name, on the experiments' problems, tuned on problems apart."""
