"""One line to use mixwell where people already train; each module needs its own package."""
