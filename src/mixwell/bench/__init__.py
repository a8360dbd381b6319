"""Benchmarks that anyone can run: how long mixwell takes, beside the peers that are installed."""

from mixwell.bench.speed import SECTIONS, Plan, pick_device, speed

__all__ = ["SECTIONS", "Plan", "pick_device", "speed"]
