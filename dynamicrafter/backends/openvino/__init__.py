"""Runs the networks with OpenVINO: exports them to its format, checks exports and loads them behind the protocols."""
