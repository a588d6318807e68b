"""Devices, available memory and peak memory."""
