"""OpenVINO: a file with every depth, in full precision or int8."""
