"""Networks as pure functions of their parameters. It knows nothing of tasks or of meta-learning."""
