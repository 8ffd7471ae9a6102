"""What the sites see on calibration data, and what an error there does to the outputs."""
