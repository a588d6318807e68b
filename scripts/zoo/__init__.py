"""Builds the demo family: data, pretraining, fine-tuning and packing, one stage a module."""
