"""The noise process: schedule, guidance and samplers, independent of the network."""
