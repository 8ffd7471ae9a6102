"""Networks in whole numbers: for chips and FPGAs, with a simulation that is exact to the bit."""
