"""Corpora: files of up to millions of lines, spoken on many GPUs, in the layouts that training tools read."""
