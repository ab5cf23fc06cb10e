"""What the registry holds, a file a suite."""
