"""The noise process: schedule, guidance and samplers, which know nothing of the network."""
