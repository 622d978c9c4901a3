"""Can the answer be trusted? The verdict on draws, and simulation-based calibration."""
