"""Time and memory of a run: costs measured beforehand, a schedule within a budget, what need not be run."""
