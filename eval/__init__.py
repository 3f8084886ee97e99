"""How good is a backbone at finding small defects? Frozen features, standard detectors, exact metrics."""
